"""The separating experiments of the methods that shape a network's own weights: slimming, condensing, grouping."""

from __future__ import annotations

import copy
from typing import Any

SEEDS = (0, 1, 2)
DEEP = 0.7  # of the channels, a cut that goes beyond the zeros


def network_slimming() -> list[dict[str, Any]]:
    """Slim digits by the proximal step and by the sub-gradient, and not at all."""
    from compress.methods.network_slimming import NetworkSlimming

    settings = {
        "prox": NetworkSlimming(),
        "prox 1": NetworkSlimming(strength=1.0),
        "subgradient": NetworkSlimming(step="subgradient"),
        "control": NetworkSlimming(strength=0.0),
    }
    return [_slimmed(seed, name, each) for seed in SEEDS for name, each in settings.items()]


def _slimmed(seed: int, name: str, settings: Any) -> dict[str, Any]:
    import numpy as np

    from compress.absorb import absorb_, border_error
    from compress.cut import cut_at_random
    from compress.methods.base import Context
    from compress.methods.network_slimming import NEARLY_ZERO
    from compress.select import keep_strongest
    from compress.surgery import prune_module
    from compress.train.judge import recalibrate_
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    task, module = Digits(seed), trained_network(seed)
    graph = graph_of(module)
    training = Training(steps=300, batch=64, learning_rate=4e-3, schedule="flat", precision="32-true")
    method = settings.prepare(Context(module, graph, task, training, {}, 2.0, lambda _: 1.0))
    train_(module, task, training, label=name, extras=method.extras())
    scores = method.scores()
    every = np.concatenate(list(scores.values()))
    threshold = {"control": float(np.median(every)), "subgradient": NEARLY_ZERO}.get(name, 0.0)

    def above(threshold: float) -> Any:
        least = settings.least_channels
        return {one: keep_strongest(v, max(least, int((v > threshold).sum()))) for one, v in scores.items()}

    def absorbed(cut: Any) -> Any:
        copied = copy.deepcopy(module)
        absorb_(copied, graph, cut)
        return copied

    def after(cut: Any, source: Any = module) -> float:
        return round(accuracy(prune_module(source, graph, cut, prove=False), task), 1)

    def renewed(cut: Any, source: Any) -> float:
        pruned = prune_module(source, graph, cut, prove=False)
        recalibrate_(pruned, task)
        return round(accuracy(pruned, task), 1)

    keep, deep = above(threshold), above(float(np.quantile(every, DEEP)))
    of_zeros_or_all = (absorbed(keep), absorbed(deep))  # whose offsets are absorbed: `finish_` does the former

    return {
        "settings": name,
        "seed": seed,
        "exact_zeros_percent": round(100 * float((every == 0).mean()), 1),
        "cut_percent": round(100 * (1 - sum(map(len, keep.values())) / len(every)), 1),
        "kept": [len(kept) for kept in keep.values()],
        "accuracy_percent": round(accuracy(module, task), 1),
        "offsets_dropped_percent": after(keep),
        "offsets_absorbed_percent": after(keep, absorbed(keep)),
        "random_percent": [after(cut_at_random(graph, keep, draw)) for draw in range(3)],
        "border_error_percent": round(100 * border_error(module, graph, keep, task.held_out().inputs), 2),
        "deep_cut_percent": [after(deep, each) for each in of_zeros_or_all],
        "deep_cut_with_new_statistics_percent": [renewed(deep, each) for each in of_zeros_or_all],
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

    from compress.gathered import GatheredConv2d
    from compress.methods import learned_groups as groups
    from compress.methods.base import Context
    from compress.train.loop import Training, train_
    from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

    training = Training(steps=steps, batch=64, learning_rate=2e-3, precision="32-true")
    learned, task = groups.drop_inputs_, Digits(seed)

    def condensed() -> Any:
        module = trained_network(seed)
        context = Context(module, graph_of(module), task, training, {}, 2.0, lambda _: 1.0, seed)
        method = groups.LearnedGroups(condense=condense, overlap=True).prepare(context)
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
        if isinstance(part, GatheredConv2d):
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
