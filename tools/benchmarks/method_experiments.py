"""What separates each method from a broken one, where it takes longer than a test may: accuracy before fine-tuning.

Small networks, several seeds, one thread. Prints what was found and writes it, with the machine, beside this file; the
rows of experiments that are not run again stay.

Example:
    python tools/benchmarks/method_experiments.py --experiments network_slimming decig
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_profiles.store import write_whole
from tools.command_line import run

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
SUBGRADIENT_ZERO = 0.01  # |gamma| below it counts as zero where the sub-gradient never arrives there


def main() -> None:
    """Run the experiments and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="default: all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    arguments = parser.parse_args()

    import torch

    from runtimes.environment import read_environment

    sys.path.insert(0, str(ROOT))  # the experiments share their network with the tests
    torch.set_num_threads(1)
    for name in arguments.experiments:
        found = {
            "command": shlex.join(["python", "tools/benchmarks/method_experiments.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": read_environment().cpu_model,
            "rows": EXPERIMENTS[name](),
        }
        known = json.loads(arguments.output.read_text("utf-8")) if arguments.output.exists() else {}  # by now
        write_whole(arguments.output, json.dumps(known | {name: found}, indent=1) + "\n")
        for row in found["rows"]:
            print(name, *(f"{key}={value}" for key, value in row.items()))


def network_slimming() -> list[dict[str, Any]]:
    """Slim digits by the proximal step and by the sub-gradient, and not at all."""
    from compress.methods.network_slimming import NetworkSlimming

    settings = {
        "prox": NetworkSlimming(),
        "prox 0.05": NetworkSlimming(strength=0.05),
        "subgradient": NetworkSlimming(step="subgradient"),
        "control": NetworkSlimming(strength=0.0),
    }
    return [_slimmed(seed, name, each) for seed in SEEDS for name, each in settings.items()]


def _slimmed(seed: int, name: str, settings: Any) -> dict[str, Any]:
    import numpy as np

    from compress.absorb import absorb_, border_error
    from compress.cut import cut_at_random
    from compress.methods.base import Context
    from compress.select import keep_strongest
    from compress.surgery import prune_module
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    task, module = Digits(seed), trained_network(seed)
    graph = graph_of(module)
    training = Training(steps=300, batch=64, learning_rate=4e-3, schedule="flat", precision="32-true")
    method = settings.prepare(Context(module, graph, task, training, {}, 2.0, lambda _: 1.0))
    train_(module, task, training, label=name, extras=method.extras())
    scores = method.scores()
    every = np.concatenate(list(scores.values()))
    threshold = {"control": float(np.median(every)), "subgradient": SUBGRADIENT_ZERO}.get(name, 0.0)
    keep = {
        one: keep_strongest(v, max(settings.least_channels, int((v > threshold).sum()))) for one, v in scores.items()
    }
    absorbed = copy.deepcopy(module)
    absorb_(absorbed, graph, keep)

    def after(cut: Any, source: Any = module) -> float:
        return round(accuracy(prune_module(source, graph, cut, prove=False), task), 1)

    return {
        "settings": name,
        "seed": seed,
        "exact_zeros_percent": round(100 * float((every == 0).mean()), 1),
        "cut_percent": round(100 * (1 - sum(map(len, keep.values())) / len(every)), 1),
        "kept": [len(kept) for kept in keep.values()],
        "accuracy_percent": round(accuracy(module, task), 1),
        "offsets_dropped_percent": after(keep),
        "offsets_absorbed_percent": after(keep, absorbed),
        "random_percent": [after(cut_at_random(graph, keep, draw)) for draw in range(3)],
        "border_error_percent": round(100 * border_error(module, graph, keep, task.held_out().inputs), 2),
    }


def decig() -> list[dict[str, Any]]:
    """Condense a small U-Net by the low and the high regularisation, with every f."""
    from compress.methods.decig import RANKINGS, Decig

    runs = [("linear", "low"), ("linear", "high"), *((ranking, "low") for ranking in RANKINGS if ranking != "linear")]
    return [_condensed(Decig(ranking=ranking, regularisation=regularisation)) for ranking, regularisation in runs]


def _condensed(settings: Any) -> dict[str, Any]:
    import numpy as np
    import torch

    from compress.cut import cut_at_random
    from compress.export import export_module
    from compress.graph.analyse import analyse
    from compress.methods.base import Context
    from compress.models.unet import UNet
    from compress.surgery import prune_module
    from compress.tasks.scene_translation import SceneTranslation
    from compress.train.judge import judge
    from compress.train.loop import Training, train_

    torch.manual_seed(0)
    module, task = UNet(16, depth=4), SceneTranslation(512, 128, size=32, seed=3)
    graph = analyse(export_module(module, torch.zeros(1, 3, 32, 32)))
    training = Training(steps=500, batch=16, learning_rate=2e-3, schedule="flat", precision="32-true")
    shares = {layer.name: 1.0 for layer in graph.layers}
    method = settings.prepare(Context(module, graph, task, training, shares, 2.0, lambda _: 1.0))
    train_(module, task, training, label="condense", extras=method.extras())
    scores, hinges = method.scores(), method.keep()
    keep = {name: np.arange(len(values)) for name, values in scores.items()} | dict(hinges)

    def error(cut: Any) -> float:
        return round(judge(prune_module(module, graph, cut, prove=False), task, task.held_out()).mean().item(), 3)

    return {
        "ranking": settings.ranking,
        "regularisation": settings.regularisation,
        "hinges": len(hinges),
        "kept": {name: f"{len(kept)}/{len(scores[name])}" for name, kept in keep.items()},
        "error": round(judge(module, task, task.held_out()).mean().item(), 3),
        "error_at_the_hinge": error(keep),
        "error_of_random_cuts": [error(cut_at_random(graph, keep, draw)) for draw in range(3)],
    }


def dcp() -> list[dict[str, Any]]:
    """Keep a quarter of a digit network's channels by DCP and by what must be worse, and by epsilon."""
    return [row for seed in SEEDS for row in _selected(seed)]


def _selected(seed: int) -> list[dict[str, Any]]:
    import numpy as np
    import torch

    from compress.methods import dcp as module_of_dcp
    from compress.methods.base import Context
    from compress.methods.dcp import Dcp
    from compress.scores import producers, set_norms
    from compress.surgery import prune_module
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    task, module = Digits(seed), trained_network(seed)
    graph = graph_of(module)
    training = Training(steps=60, batch=64, learning_rate=1e-3, precision="32-true")
    method = Dcp(heads=1).prepare(Context(module, graph, task, training, {}, 2.0, lambda _: 1.0, seed))
    train_(module, task, training, label="heads", extras=method.extras())
    largest = module_of_dcp.next_channels

    def at_random(_: Any, selected: Any, count: int) -> Any:
        left = torch.nonzero(~selected).flatten()
        return left[torch.randperm(len(left), generator=torch.Generator().manual_seed(len(left)))][:count]

    def smallest(gradients: Any, selected: Any, count: int) -> Any:
        return gradients.masked_fill(selected, torch.inf).argsort()[:count]

    def by_norm(_: Any, selected: Any, count: int) -> Any:
        if not selected.any():
            current.append(torch.from_numpy(next(order)))
        return largest(current[-1], selected, count)

    rows, current = [], []
    quarter = {"keep_ratio": 0.25}
    variants = {
        "DCP": (largest, quarter),
        "folded norm order": (by_norm, quarter),
        "random order": (at_random, quarter),
        "smallest gradients": (smallest, quarter),
        "reconstruction only": (largest, {**quarter, "balance": 0.0}),
        **{f"epsilon {epsilon}": (largest, {"epsilon": epsilon}) for epsilon in (0.1, 0.01, 0.003, 0.001)},
    }
    ordered = set_norms(producers(graph, module), module)
    for name, (choose, settings) in variants.items():
        tried = copy.deepcopy(method)
        tried.settings = Dcp(heads=1, **settings)
        order = iter([ordered[one] for one in ("0", "3", "7")])
        module_of_dcp.next_channels = choose
        tried.finish_()
        keep = tried.keep()
        rows.append(
            {
                "choice": name,
                "seed": seed,
                "kept": [len(kept) for kept in keep.values()],
                "accuracy_percent": round(accuracy(prune_module(tried.context.module, graph, keep), task), 1),
            }
        )
    module_of_dcp.next_channels = largest
    generator = np.random.default_rng(seed)
    keep = {
        one: np.sort(generator.choice(len(ordered[one]), len(ordered[one]) // 4, replace=False))
        for one in ("0", "3", "7")
    }
    only_cut = round(accuracy(prune_module(module, graph, keep), task), 1)
    return [*rows, {"choice": "random, no refinement", "seed": seed, "accuracy_percent": only_cut}]


def squeeze_excitation() -> list[dict[str, Any]]:
    """Cut 40 % of a digit network by inserted gates, with and without a penalty on them, and at random."""
    return [_gated(seed, penalty) for penalty in (0.0, 0.1, 1.0) for seed in SEEDS]


def _gated(seed: int, penalty: float) -> dict[str, Any]:
    import numpy as np

    from compress.cut import cut_at_random
    from compress.methods.base import Context
    from compress.methods.squeeze_excitation import SqueezeExcitation
    from compress.select import keep_strongest
    from compress.surgery import prune_module
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    task, module = Digits(seed), trained_network(seed)
    graph = graph_of(module)
    training = Training(steps=300, batch=64, learning_rate=4e-3, precision="32-true")
    method = SqueezeExcitation(gate_penalty=penalty).prepare(
        Context(module, graph, task, training, {}, 2.0, lambda _: 1.0, seed)
    )
    train_(module, task, training, label="gates", extras=method.extras())
    before = round(accuracy(module, task), 1)
    method.finish_()
    scores = method.scores()
    largest = {gate.set: block.largest for gate, block in zip(method.gates, method.blocks, strict=True)}

    def cut(ranking: Any) -> Any:
        return {name: keep_strongest(values, round(0.6 * len(values))) for name, values in ranking.items()}

    def after(keep: Any) -> float:
        return round(accuracy(prune_module(module, graph, keep, prove=False), task), 1)

    return {
        "gate_penalty": penalty,
        "seed": seed,
        "gates": [
            round(float(np.min([b.largest.min() for b in method.blocks])), 3),
            round(float(np.max([b.largest.max() for b in method.blocks])), 3),
        ],
        "shut_for_all": int(sum(block.dead.sum() for block in method.blocks)),
        "shut_for_some_classes": int(sum(block.specific.sum() for block in method.blocks)),
        "accuracy_percent": before,
        "mean_gates_absorbed_percent": round(accuracy(module, task), 1),
        "cut_by_gate_and_activation_percent": after(cut(scores)),
        "cut_by_largest_gate_percent": after(cut(largest)),
        "random_percent": [after(cut_at_random(graph, cut(scores), draw)) for draw in range(3)],
    }


def learned_groups() -> list[dict[str, Any]]:
    """Condense a digit network by learned and by drawn inputs; measure what gathered groups gain on two runtimes."""
    rows = [
        _condensed_groups(seed, condense, steps) for condense, steps in ((2, 20), (4, 40), (4, 120)) for seed in SEEDS
    ]
    return rows + [
        _gain(runtime, shape, kernel)
        for runtime in ("onnxruntime", "openvino")
        for shape in ((1, 16, 56, 56), (1, 64, 28, 28), (1, 256, 14, 14))
        for kernel in (1, 3)
    ]


def _condensed_groups(seed: int, condense: int, steps: int) -> dict[str, Any]:
    import torch

    from compress.methods import learned_groups as groups
    from compress.methods.base import Context
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    training = Training(steps=steps, batch=64, learning_rate=2e-3, precision="32-true")
    learned, task = groups.drop_inputs_, Digits(seed)

    def condensed() -> Any:
        module = trained_network(seed)
        context = Context(module, graph_of(module), task, training, {}, 2.0, lambda _: 1.0, seed)
        method = groups.LearnedGroups(condense=condense).prepare(context)
        train_(module, task, training, label="condense", extras=method.extras())
        return method

    method = condensed()
    module, inputs = method.context.module, task.test.inputs[:64]
    found, masked = round(accuracy(module, task), 1), module(inputs)
    method.finish_()
    difference = (module(inputs) - masked).abs().max().item()
    drawn = []
    for draw in range(3):

        def drop_drawn_(mask: Any, weight: Any, dropped: int, draw: int = draw) -> None:
            generator = torch.Generator().manual_seed(mask.shape[1] + draw)
            learned(mask, torch.rand(weight.shape, generator=generator), dropped)

        groups.drop_inputs_ = drop_drawn_
        drawn.append(round(accuracy(condensed().context.module, task), 1))
        groups.drop_inputs_ = learned
    for part in module.modules():
        if isinstance(part, groups.GatheredConv2d):
            part.index.copy_(part.index[torch.randperm(len(part.index), generator=torch.Generator().manual_seed(0))])
    return {
        "condense": condense,
        "steps": steps,
        "seed": seed,
        "learned_percent": found,
        "drawn_percent": drawn,
        "scrambled_percent": round(accuracy(module, task), 1),
        "export_difference": difference,
    }


def _gain(runtime: str, shape: tuple[int, ...], kernel: int) -> dict[str, Any]:
    from torch import nn

    from compress.methods.learned_groups import LearnedGroups, grouping_gain
    from device_profiles.target import Target

    layer = nn.Conv2d(shape[1], shape[1], kernel, padding=kernel // 2)
    gain = grouping_gain(layer, shape, LearnedGroups(), Target(runtime), seconds=2.0)
    return {
        "runtime": runtime,
        "input": shape,
        "kernel": kernel,
        "dense_ms": round(gain.dense.ms, 4),
        "grouped_ms": round(gain.grouped.ms, 4),
        "speedup": round(gain.speedup, 2),
    }


def dhp() -> list[dict[str, Any]]:
    """Search digits with and without hyper-biases, by l1 and l2, and not at all; measure what training costs."""
    from compress.methods.dhp import Dhp

    even = {"stop_on": "macs", "macs_limit": 0.03, "device_aware": False}
    variants = {
        "l1": Dhp(**even),
        "l1, biases at the full rate": Dhp(**even, bias_rate=1.0),
        "l1, exact": Dhp(**even, exact=True),
        "l2": Dhp(**even, shrinkage="l2"),
        "no shrinkage": Dhp(**even, strength=0.0),
    }
    rows = [_searched(seed, name, each) for seed in SEEDS for name, each in variants.items()]
    pair = {"numbers_per_3x3_pair": 98}
    return [*rows, _cost("plain", None) | {"numbers_per_3x3_pair": 9}, _cost("DHP", Dhp(**even, strength=0.0)) | pair]


def _searched(seed: int, name: str, settings: Any) -> dict[str, Any]:
    from compress.cut import cut_at_random
    from compress.methods.base import Context
    from compress.methods.dhp import macs_share
    from compress.surgery import prune_module
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, network

    task, module = Digits(seed), network(seed)
    graph = graph_of(module)
    training = Training(steps=300, batch=64, learning_rate=2e-3, schedule="flat", precision="32-true")
    plain = network(seed)
    train_(plain, task, training, label="plain")
    method = settings.prepare(Context(module, graph, task, training, {}, 2.0, lambda _: 1.0, seed))
    phase = train_(module, task, training, label=name, extras=method.extras())
    method.finish_()
    keep = method.keep()

    def after(cut: Any) -> float:
        return round(accuracy(prune_module(module, graph, cut, prove=False), task), 1)

    return {
        "settings": name,
        "seed": seed,
        "ended": bool(method.state["reached"]),
        "steps_at_least": phase.steps[-1],
        "macs_left_percent": round(100 * macs_share(graph, {one: len(kept) for one, kept in keep.items()}), 1),
        "exact_zeros_percent": round(100 * float((method.latents.values == 0).float().mean()), 1),
        "kept": [len(kept) for kept in keep.values()],
        "plain_percent": round(accuracy(plain, task), 1),
        "hypernetwork_percent": round(accuracy(module, task), 1),
        "cut_percent": after(keep),
        "random_percent": [after(cut_at_random(graph, keep, draw)) for draw in range(3)],
    }


def auto_pruner() -> list[dict[str, Any]]:
    """Learn codes for half of a digit network's channels with several alphas and modes; measure what training costs."""
    from compress.methods.auto_pruner import AutoPruner

    half = {"keep_ratio": 0.5, "device_aware": False}
    joint = {**half, "mode": "joint"}
    variants = {
        "joint": AutoPruner(**joint),
        "grouped": AutoPruner(**half, mode="grouped", groups=2),
        "layer": AutoPruner(**half, mode="layer"),
        "lambda stays at 10": AutoPruner(**joint, adaptive_strength=False),
        **{
            f"alpha stays at {alpha}": AutoPruner(**joint, alpha_start=alpha, alpha_stop=alpha, alpha_bump=0.0)
            for alpha in (0.1, 1.0, 100.0)
        },
    }
    rows = [_coded(seed, name, each) for seed in SEEDS for name, each in variants.items()]
    gates = 2 * 32**2 * 4**2 + 2 * 64**2 * 2**2
    return [*rows, _cost("plain", None), _cost("AutoPruner", variants["joint"]) | {"gate_numbers_implied": gates}]


def _coded(seed: int, name: str, settings: Any) -> dict[str, Any]:
    import torch

    from compress.cut import cut_at_random
    from compress.methods.base import Context
    from compress.surgery import prune_module
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    task, module = Digits(seed), trained_network(seed)
    graph = graph_of(module)
    training = Training(steps=300, batch=64, learning_rate=2e-3, precision="32-true")
    shares = {layer.name: 1.0 for layer in graph.layers}
    method = settings.prepare(Context(module, graph, task, training, shares, 2.0, lambda _: 1.0, seed))
    train_(module, task, training, label=name, extras=method.extras())
    values = torch.cat([gate.values.detach() for gate in method.gates.values()])
    flips = sum(int((gate.votes() != gate.votes()[0]).any(0).sum()) for gate in method.gates.values())
    method.finish_()
    keep = method.keep()

    def after(cut: Any) -> float:
        return round(accuracy(prune_module(module, graph, cut, prove=False), task), 1)

    return {
        "settings": name,
        "seed": seed,
        "kept": [len(kept) for kept in keep.values()],
        "decided_percent": round(100 * float(((values < 0.2) | (values > 0.8)).float().mean()), 1),
        "flips_in_last_20": flips,
        "cut_percent": after(keep),
        "random_percent": [after(cut_at_random(graph, keep, draw)) for draw in range(3)],
    }


def _cost(name: str, settings: Any) -> dict[str, Any]:
    """Time 40 steps of training a digit network, and count the numbers that are trained."""
    import time

    from compress.methods.base import Context
    from compress.train.loop import Extras, Training, train_
    from tests.compress.methods.digits import Digits, graph_of, network

    module, task, extras = network(), Digits(), Extras()
    training = Training(steps=40, batch=64, learning_rate=2e-3, precision="32-true")
    if settings is not None:
        graph = graph_of(module)
        shares = {layer.name: 1.0 for layer in graph.layers}
        extras = settings.prepare(Context(module, graph, task, training, shares, 2.0, lambda _: 1.0)).extras()
    trained = {one for part in (module, *extras.modules.values()) for one in part.parameters()}
    start = time.process_time()
    train_(module, task, training, label=name, extras=extras)
    return {
        "cost_of": name,
        "trained_numbers": sum(one.numel() for one in trained),
        "weights_gradients_and_moments_mib": round(4 * 4 * sum(one.numel() for one in trained) / 2**20, 2),
        "cpu_ms_per_step": round(1e3 * (time.process_time() - start) / training.steps, 1),
    }


EXPERIMENTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "network_slimming": network_slimming,
    "decig": decig,
    "dcp": dcp,
    "squeeze_excitation": squeeze_excitation,
    "learned_groups": learned_groups,
    "dhp": dhp,
    "auto_pruner": auto_pruner,
}

if __name__ == "__main__":
    run(main)
