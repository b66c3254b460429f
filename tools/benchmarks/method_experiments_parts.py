"""The separating experiments of the methods that train something beside the network: heads, gates, hypernetworks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from tools.benchmarks.method_experiments_weights import SEEDS


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
    largest = {gate.set: block.largest for gate, block in zip(method.gates, method.gated_blocks, strict=True)}

    def cut(ranking: Any) -> Any:
        return {name: keep_strongest(values, round(0.6 * len(values))) for name, values in ranking.items()}

    def after(keep: Any) -> float:
        return round(accuracy(prune_module(module, graph, keep, prove=False), task), 1)

    return {
        "gate_penalty": penalty,
        "seed": seed,
        "gates": [
            round(float(np.min([b.largest.min() for b in method.gated_blocks])), 3),
            round(float(np.max([b.largest.max() for b in method.gated_blocks])), 3),
        ],
        "shut_for_all": int(sum(block.dead.sum() for block in method.gated_blocks)),
        "shut_for_some_classes": int(sum(block.specific.sum() for block in method.gated_blocks)),
        "accuracy_percent": before,
        "mean_gates_absorbed_percent": round(accuracy(module, task), 1),
        "cut_by_gate_and_activation_percent": after(cut(scores)),
        "cut_by_largest_gate_percent": after(cut(largest)),
        "random_percent": [after(cut_at_random(graph, cut(scores), draw)) for draw in range(3)],
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
    """Learn codes for half of a digit network's channels with several alphas and modes; measure what training costs.

    A schedule shows in how the code differs from that of the first steps, and in what it is worth in the network as it
    was before the gates came, where no weight has learned to do with it. Here it hardly shows: 83 to 100 % of the
    code is that of the first steps whatever alpha does, alpha 100 throughout included, and the network that never met
    it reads 17 % of the digits with it, 16 % with random codes (means of 21 and 63). What the gates do here is to
    choose early and let the weights follow.
    """
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
    from compress.methods.auto_pruner_gates import VOTES
    from compress.methods.base import Context
    from compress.surgery import prune_module
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    task, module = Digits(seed), trained_network(seed)
    graph, unacquainted, first = graph_of(module), copy.deepcopy(module), {}
    training = Training(steps=300, batch=64, learning_rate=2e-3, precision="32-true")
    shares = {layer.name: 1.0 for layer in graph.layers}
    method = settings.prepare(Context(module, graph, task, training, shares, 2.0, lambda _: 1.0, seed))
    extras = method.extras()

    def after_step(step: int, rate: float) -> None:
        extras.after_step(step, rate)
        if step == VOTES:
            first.update({name: gate.code() for name, gate in method.gates.items() if int(gate.steps)})  # they learn

    train_(module, task, training, label=name, extras=replace(extras, after_step=after_step))
    values = torch.cat([gate.values.detach() for gate in method.gates.values()])
    flips = sum(int((gate.votes() != gate.votes()[0]).any(0).sum()) for gate in method.gates.values())
    method.finish_()
    keep = method.keep()

    same = torch.cat([method.gates[name].mask == code for name, code in first.items()])

    def after(cut: Any, whole: Any = module) -> float:
        return round(accuracy(prune_module(whole, graph, cut, prove=False), task), 1)

    def of_draws(whole: Any) -> list[float]:
        return [after(cut_at_random(graph, keep, draw), whole) for draw in range(3)]

    return {
        "settings": name,
        "seed": seed,
        "kept": [len(kept) for kept in keep.values()],
        "as_in_the_first_20_percent": round(100 * float(same.float().mean()), 1),
        "unacquainted_percent": after(keep, unacquainted),
        "unacquainted_random_percent": of_draws(unacquainted),
        "decided_percent": round(100 * float(((values < 0.2) | (values > 0.8)).float().mean()), 1),
        "flips_in_last_20": flips,
        "cut_percent": after(keep),
        "random_percent": of_draws(module),
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
