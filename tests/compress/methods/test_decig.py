"""What separates a correct DECIG from a broken one, on a small network that is trained here."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from compress.cut import cut_at_random
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.methods.base import Context
from compress.methods.decig import LARGEST, RANKINGS, STEER_EVERY, STRENGTHS, Condensation, Decig
from compress.models.unet import UNet
from compress.surgery import prune_module
from compress.tasks.scene_translation import SceneTranslation
from compress.train.judge import judge
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput

TRAINING = Training(steps=500, batch=16, learning_rate=2e-3, schedule="flat", precision="32-true")
PLANTED = "up.2.conv"
SIZE = 32
FIXED = Decig(regularisation="low")


@dataclass(frozen=True)
class Condensed:
    module: UNet
    graph: ChannelGraph
    scores: dict[str, Any]
    hinges: dict[str, Any]
    task: SceneTranslation

    @property
    def keep(self) -> dict[str, Any]:
        return {name: np.arange(len(values)) for name, values in self.scores.items()} | self.hinges

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


def context_of(module, graph, shares=None, *, task=None, **changes):
    shares = {layer.name: (shares or {}).get(layer.name, 1.0) for layer in graph.layers}
    return Context(module, graph, task, replace(TRAINING, **changes), shares, goal=4.0, speedup=lambda _: 1.0)


def condensed(task: SceneTranslation, shares: dict[str, float], settings: Decig = FIXED) -> Condensed:
    module, graph = small_unet()
    condensation = settings.prepare(context_of(module, graph, shares))
    train_(module, task, TRAINING, label="condense", extras=condensation.extras())
    condensation.finish_()
    return Condensed(module, graph, condensation.scores(), condensation.keep(), task)


@pytest.fixture(scope="module")
def even(task):
    return condensed(task, {})


def test_hinges_form_in_most_layers(even):
    assert len(even.hinges) >= 5
    assert sum(map(len, even.keep.values())) < 0.9 * sum(map(len, even.scores.values()))


def test_cutting_at_the_hinge_changes_the_held_out_error_by_under_two_percent(even):
    assert even.error_when_kept(even.keep) == pytest.approx(even.error, rel=0.02)


def test_a_random_cut_of_the_same_counts_does_several_times_the_damage_of_the_hinges(even):
    at_hinge = abs(even.error_when_kept(even.keep) - even.error)
    draws = [cut_at_random(even.graph, even.keep, seed) for seed in range(3)]
    at_random = [even.error_when_kept(draw) - even.error for draw in draws]
    assert min(at_random) > 0.25 * even.error
    assert min(at_random) > 10 * at_hinge


def test_a_layer_whose_latency_is_multiplied_by_8_keeps_clearly_fewer_channels(task, even):
    planted = condensed(task, {PLANTED: 8.0})
    assert len(planted.keep[PLANTED]) <= 0.8 * len(even.keep[PLANTED])
    assert planted.error < 1.1 * even.error


def test_the_penalty_without_folded_normalisation_forms_no_hinge(task, monkeypatch):
    def raw_norm(producer, tensors):
        return producer.per_output(tensors[producer.layer.weight].abs())

    monkeypatch.setattr("compress.scores.folded_norm", raw_norm)
    monkeypatch.setattr("compress.methods.decig.folded_norm", raw_norm)
    raw = condensed(task, {})
    normalised = [name for name in raw.scores if raw.graph.layer(name).norm is not None]
    removed = sum(len(raw.scores[name]) - len(raw.keep[name]) for name in normalised)
    assert removed <= 0.02 * sum(len(raw.scores[name]) for name in normalised)


@pytest.mark.parametrize("ranking", list(RANKINGS))
def test_the_penalty_is_the_formula_of_the_paper(ranking):
    module, graph = small_unet()
    shares = {layer.name: 1.0 + i for i, layer in enumerate(graph.layers)}
    condensation = Condensation(Decig(ranking=ranking, strength=0.3), context_of(module, graph, shares))
    mean_share = np.mean([shares[name] for name in condensation.made_by])
    expected = 0.0
    for name, norms in condensation.scores().items():
        ranked = np.sort(norms)[::-1]
        ranks = np.arange(1, len(ranked) + 1) / (len(ranked) + 1)
        f = {"uniform": ranks**0, "linear": ranks, "quadratic": ranks**2, "weaker half": 1.0 * (ranks > 0.5)}[ranking]
        expected += shares[name] / mean_share * (f / f.mean() * ranked).mean()
    expected *= 0.3 / len(condensation.made_by)
    assert condensation.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_shrinks_scales_and_offsets_of_normalisations():
    module, graph = small_unet()
    torch.nn.init.constant_(module.up[1].norm.bias, 0.5)
    Decig().prepare(context_of(module, graph)).penalty().backward()
    assert (module.up[1].norm.weight.grad > 0).all()
    assert (module.up[1].norm.bias.grad > 0).all()


def test_a_layer_in_which_every_channel_died_keeps_its_strongest():
    module, graph = small_unet()
    condensation = Decig().prepare(context_of(module, graph))
    with torch.no_grad():
        module.up[1].norm.weight.fill_(1e-5)
        module.up[1].norm.weight[3] = 2e-5
        module.up[1].norm.bias.zero_()
    assert condensation.keep()["up.1.conv"].tolist() == [3]


def test_a_layer_that_was_not_measured_is_named():
    module, graph = small_unet()
    context = replace(context_of(module, graph), latency_shares={})
    with pytest.raises(BadInput, match="has no latency"):
        Decig().prepare(context)
    assert set(Decig(device_aware=False).prepare(context).latency_weights.values()) == {1.0}


def test_strength_rises_while_the_network_is_slower_than_scheduled_and_never_beyond_its_cap():
    module, graph = small_unet()
    context = context_of(module, graph, steps=100)
    condensation = Decig().prepare(context)
    condensation.steer_(STEER_EVERY + 1)
    assert condensation.state["strength"] == STRENGTHS["steered"]
    strengths = []
    for step in range(STEER_EVERY, 1000, STEER_EVERY):
        condensation.steer_(step)
        strengths.append(condensation.state["strength"])
    assert strengths == sorted(strengths)
    assert strengths[-1] == LARGEST
    faster = Decig().prepare(replace(context, speedup=lambda _: 5.0))
    faster.steer_(STEER_EVERY)
    assert faster.state["strength"] < STRENGTHS["steered"]


@pytest.mark.parametrize("regularisation", ["low", "high"])
def test_a_fixed_strength_stays(regularisation):
    module, graph = small_unet()
    condensation = Decig(regularisation=regularisation).prepare(context_of(module, graph))
    condensation.steer_(STEER_EVERY)
    assert condensation.state["strength"] == STRENGTHS[regularisation]
