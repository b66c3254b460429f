"""What separates a correct DECIG from a broken one, on a small network that is trained here."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from compress.cut import cut_at_random
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.hinge import find_hinge
from compress.methods.decig import LARGEST, STEER_EVERY, Condensation, Decig
from compress.models.unet import UNet
from compress.select import keep_strongest
from compress.surgery import prune_module
from compress.tasks.scene_translation import SceneTranslation
from compress.train.judge import judge
from compress.train.loop import Extras, Training, train_

TRAINING = Training(steps=500, batch=16, learning_rate=2e-3, schedule="flat", precision="32-true")
PLANTED = "up.2.conv"
SIZE = 32


@dataclass(frozen=True)
class Condensed:
    module: UNet
    graph: ChannelGraph
    norms: dict[str, Any]
    task: SceneTranslation

    def keep(self) -> dict[str, Any]:
        hinges = {name: find_hinge(values, 1.0).kept for name, values in self.norms.items()}
        return {
            name: keep_strongest(values, len(values) if hinges[name] is None else hinges[name])
            for name, values in self.norms.items()
        }

    def error_when_kept(self, keep: dict[str, Any]) -> float:
        pruned = prune_module(self.module, self.graph, keep)
        return judge(pruned, self.task, self.task.held_out()).mean().item()

    @property
    def error(self) -> float:
        return judge(self.module, self.task, self.task.held_out()).mean().item()


@pytest.fixture(scope="module")
def task():
    return SceneTranslation(512, 128, size=SIZE, seed=3)


@functools.cache
def graph_of_small_unet():
    return analyse(export_module(UNet(16, depth=4), torch.zeros(1, 3, SIZE, SIZE)))


def small_unet():
    torch.manual_seed(0)
    return UNet(16, depth=4), graph_of_small_unet()


def condensed(task: SceneTranslation, latencies_ms: dict[str, float]) -> Condensed:
    module, graph = small_unet()
    latencies_ms = {layer.name: latencies_ms.get(layer.name, 1.0) for layer in graph.layers}
    condensation = Condensation(Decig(strength=0.05, steered=False), module, graph, latencies_ms)
    extras = Extras(penalty=condensation.penalty, parameter_groups=condensation.parameter_groups())
    train_(module, task, TRAINING, label="condense", extras=extras)
    return Condensed(module, graph, condensation.norms(), task)


@pytest.fixture(scope="module")
def even(task):
    return condensed(task, {})


def test_hinges_form_in_most_layers(even):
    hinges = [find_hinge(values, 1.0).kept for values in even.norms.values()]
    assert sum(kept is not None for kept in hinges) >= 5
    assert sum(len(kept) for kept in even.keep().values()) < 0.9 * sum(len(values) for values in even.norms.values())


def test_cutting_at_the_hinge_changes_the_held_out_error_by_under_two_percent(even):
    assert even.error_when_kept(even.keep()) == pytest.approx(even.error, rel=0.02)


def test_a_random_cut_of_the_same_counts_does_several_times_the_damage_of_the_hinges(even):
    keep = even.keep()
    at_hinge = abs(even.error_when_kept(keep) - even.error)
    at_random = [even.error_when_kept(cut_at_random(keep, even.norms, seed)) - even.error for seed in range(3)]
    assert min(at_random) > 0.25 * even.error
    assert min(at_random) > 10 * at_hinge


def test_a_layer_whose_latency_is_multiplied_by_8_keeps_clearly_fewer_channels(task, even):
    planted = condensed(task, {PLANTED: 8.0})
    assert len(planted.keep()[PLANTED]) <= 0.8 * len(even.keep()[PLANTED])
    assert planted.error < 1.1 * even.error


def test_the_penalty_without_folded_normalisation_forms_no_hinge(task, monkeypatch):
    def raw_norm(layer, tensors):
        axis = 1 if layer.op == "ConvTranspose" else 0
        weight = tensors[layer.weight]
        return weight.abs().sum(dim=[i for i in range(weight.ndim) if i != axis])

    monkeypatch.setattr("compress.scores.folded_norm", raw_norm)
    monkeypatch.setattr("compress.methods.decig.folded_norm", raw_norm)
    raw = condensed(task, {})
    removed = sum(len(values) - len(raw.keep()[name]) for name, values in raw.norms.items())
    assert removed <= 0.02 * sum(len(values) for values in raw.norms.values())


@pytest.mark.parametrize("ranking", ["uniform", "linear"])
def test_the_penalty_is_the_formula_of_the_paper(ranking):
    module, graph = small_unet()
    latencies_ms = {layer.name: 1.0 + i for i, layer in enumerate(graph.layers)}
    condensation = Condensation(Decig(ranking=ranking, strength=0.3), module, graph, latencies_ms)
    mean_ms = np.mean([latencies_ms[name] for name in condensation.made_by])
    expected = 0.0
    for name, norms in condensation.norms().items():
        ranked = np.sort(norms)[::-1]
        n = len(ranked)
        weights = 2 * np.arange(1, n + 1) / (n + 1) if ranking == "linear" else np.ones(n)
        expected += latencies_ms[name] / mean_ms * (weights * ranked).mean()
    expected *= 0.3 / len(condensation.made_by)
    assert condensation.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_shrinks_scales_and_offsets_of_normalisations():
    module, graph = small_unet()
    torch.nn.init.constant_(module.up[1].norm.bias, 0.5)
    Condensation(Decig(), module, graph, {layer.name: 1.0 for layer in graph.layers}).penalty().backward()
    assert (module.up[1].norm.weight.grad > 0).all()
    assert (module.up[1].norm.bias.grad > 0).all()


def test_strength_rises_while_the_network_is_slower_than_scheduled_and_never_beyond_its_cap():
    module, graph = small_unet()
    condensation = Condensation(Decig(strength=0.05), module, graph, {layer.name: 1.0 for layer in graph.layers})
    condensation.steer_(STEER_EVERY + 1, 100, 2.0, lambda _: 1.0)
    assert condensation.state["strength"] == 0.05
    strengths = []
    for step in range(STEER_EVERY, 1000, STEER_EVERY):
        condensation.steer_(step, 100, 4.0, lambda _: 1.0)
        strengths.append(condensation.state["strength"])
    assert strengths == sorted(strengths)
    assert strengths[-1] == LARGEST
    condensation.steer_(STEER_EVERY, 100, 2.0, lambda _: 3.0)
    assert condensation.state["strength"] < LARGEST
