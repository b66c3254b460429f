"""What separates a correct DCP from a broken one, on a small network that is trained here."""

from __future__ import annotations

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.methods import dcp
from compress.methods.base import Context
from compress.methods.dcp import Dcp, DiscriminationAwarePruning, Head, place_heads
from compress.models.unet import UNet
from compress.surgery import prune_module
from compress.tasks.scene_translation import SceneTranslation
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput, UnsupportedModel
from tests.compress.methods.digits import Digits, accuracy, graph_of, network, trained_network

TRAINING = Training(steps=60, batch=64, learning_rate=1e-3, precision="32-true")
SAME = 1e-5  # a removed channel against the same channel with zeros wherever it is taken: other orders of sums only


def context_of(module: nn.Module, **changes) -> Context:
    given = {
        "module": module,
        "graph": changes.pop("graph", None) or graph_of(module),
        "task": Digits(),
        "training": TRAINING,
        "latency_shares": {},
        "goal": 1.5,
        "speedup": lambda widths: 1.0,
    }
    return Context(**(given | changes))


@functools.cache
def with_trained_heads() -> DiscriminationAwarePruning:
    context = context_of(trained_network())
    method = Dcp(heads=1).prepare(context)
    train_(context.module, context.task, TRAINING, label="heads", extras=method.extras())
    return method


def selected(**settings) -> DiscriminationAwarePruning:
    method = copy.deepcopy(with_trained_heads())
    method.settings = Dcp(heads=1, **settings)
    method.finish_()
    return method


def accuracy_after(method: DiscriminationAwarePruning) -> float:
    pruned = prune_module(method.context.module, method.context.graph, method.keep())
    return accuracy(pruned, method.context.task)


@pytest.fixture(scope="module")
def quarter():
    return selected(keep_ratio=0.25)


def in_random_order(norms, selected, count):
    left = torch.nonzero(~selected).flatten()
    return left[torch.randperm(len(left), generator=torch.Generator().manual_seed(len(left)))][:count]


def test_at_a_quarter_of_the_channels_dcp_beats_a_random_choice_with_the_same_refinement(quarter, monkeypatch):
    assert {name: len(kept) for name, kept in quarter.keep().items()} == {"0": 8, "3": 8, "7": 16}
    monkeypatch.setattr(dcp, "next_channels", in_random_order)
    assert accuracy_after(quarter) >= accuracy_after(selected(keep_ratio=0.25)) + 25


def test_the_channels_with_the_smallest_gradients_leave_chance(monkeypatch):
    smallest = lambda norms, selected, count: norms.masked_fill(selected, torch.inf).argsort()[:count]  # noqa: E731
    monkeypatch.setattr(dcp, "next_channels", smallest)
    assert accuracy_after(selected(keep_ratio=0.25)) < 20


def test_reconstruction_alone_is_far_worse_than_with_discrimination(quarter):
    assert accuracy_after(quarter) >= accuracy_after(selected(keep_ratio=0.25, balance=0)) + 25


def test_the_joint_loss_never_rises_and_falls_by_half(quarter):
    for losses in quarter.losses.values():
        assert all(later <= earlier for earlier, later in itertools.pairwise(losses))
    assert sum(losses[-1] for losses in quarter.losses.values()) < 0.5 * sum(one[0] for one in quarter.losses.values())


def test_a_smaller_epsilon_keeps_more_channels():
    kept = [sum(map(len, selected(epsilon=epsilon, samples=96).keep().values())) for epsilon in (0.1, 0.01, 0.003)]
    assert kept[0] < kept[1] < kept[2] < 128


def test_epsilon_is_normalised_by_the_loss_of_the_empty_set(monkeypatch):
    loss, once = dcp._Selection._loss, selected(epsilon=0.01, learning_rate=1e-4, samples=32).keep()
    monkeypatch.setattr(dcp._Selection, "_loss", lambda *arguments: 4 * loss(*arguments))
    scaled = selected(epsilon=0.01, learning_rate=0.25e-4, samples=32).keep()
    assert {name: kept.tolist() for name, kept in scaled.items()} == {
        name: kept.tolist() for name, kept in once.items()
    }


def test_a_repeated_selection_is_the_same():
    once, again = (selected(keep_ratio=0.25, samples=32) for _ in range(2))
    assert all(np.array_equal(again.keep()[name], kept) for name, kept in once.keep().items())
    assert again.losses == once.losses


def test_the_network_left_behind_computes_what_the_pruned_one_does(quarter):
    module, context = quarter.context.module, quarter.context
    pruned = prune_module(module, context.graph, quarter.keep())
    inputs = context.task.test.inputs[:32]
    assert torch.allclose(module(inputs), pruned(inputs), atol=SAME)
    assert not any(part._forward_pre_hooks for part in module.modules())
    assert not with_trained_heads().context.module[3].weight.equal(module[3].weight)


def test_scores_rank_the_selected_first_and_spare_what_was_left_whole(quarter):
    scores = quarter.scores()
    assert set(scores) == {"0", "3", "7", "10"}
    assert (scores["10"] == 1).all()
    for name, kept in quarter.keep().items():
        assert scores[name][kept].min() > np.delete(scores[name], kept).max()
        assert sorted(scores[name]) == pytest.approx(np.arange(1, len(scores[name]) + 1) / len(scores[name]))


def test_without_a_ratio_the_widest_network_that_meets_the_goal_is_selected():
    method = copy.deepcopy(with_trained_heads())
    speedup = lambda widths: 128 / sum(widths.values())  # noqa: E731
    method.context = context_of(method.context.module, goal=2.0, speedup=speedup, graph=method.context.graph)
    method.settings = Dcp(heads=1, samples=32, most_additions=4)
    method.finish_()
    assert {name: len(kept) for name, kept in method.keep().items()} == {"0": 16, "3": 16, "7": 32}


def test_several_channels_return_in_one_round_where_rounds_are_few():
    method = selected(keep_ratio=0.5, samples=32, most_additions=4)
    assert {name: len(losses) - 1 for name, losses in method.losses.items()} == {"0": 4, "3": 4, "7": 4}


class Residual(nn.Module):
    """Three blocks on one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(8, 12, 3, padding=1) for _ in range(3))
        self.outer = nn.ModuleList(nn.Conv2d(12, 8, 3, padding=1) for _ in range(3))
        self.classify = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(torch.relu(x))))
        return self.classify(x.mean((2, 3)))


def test_heads_of_a_residual_network_read_sums_and_its_trunk_is_left_whole():
    module = Residual()
    context = context_of(module)
    assert [layer.name for layer in place_heads(context.graph, module, 2)] == ["inner.1", "inner.2"]
    method = Dcp(heads=2, keep_ratio=0.5, samples=64, most_additions=2).prepare(context)
    train_(module, context.task, Training(steps=2, batch=8, precision="32-true"), label="x", extras=method.extras())
    method.finish_()
    assert {name: len(kept) for name, kept in method.keep().items()} == {f"inner.{i}": 6 for i in range(3)}
    assert (method.scores()["stem"] == 1).all()


def test_a_network_that_makes_pictures_shrinks_its_skip_connections_too():
    torch.manual_seed(0)
    module = UNet(8, depth=3)
    graph = analyse(export_module(module, torch.zeros(1, 3, 32, 32)))
    context = context_of(module, graph=graph, task=SceneTranslation(16, 4, size=32, seed=0))
    method = Dcp(heads=2, keep_ratio=0.5, samples=8, batch=4, most_additions=2).prepare(context)
    train_(module, context.task, Training(steps=2, batch=4, precision="32-true"), label="x", extras=method.extras())
    method.finish_()
    assert set(method.keep()) == {one.name for one in graph.prunable}
    pruned = prune_module(module, graph, method.keep())
    inputs = context.task.held_out().inputs
    assert torch.allclose(module.eval()(inputs), pruned.eval()(inputs), atol=SAME)
    for losses in method.losses.values():
        assert losses[-1] <= losses[0]


def test_a_head_for_pictures_predicts_at_the_size_of_the_target():
    enlarging = Head((1, 6, 8, 8), (1, 3, 32, 32))
    assert enlarging(torch.zeros(2, 6, 8, 8)).shape == (2, 3, 32, 32)
    assert enlarging(torch.zeros(2, 6, 5, 6)).shape == (2, 3, 20, 24)  # trained on patches of another size
    assert Head((1, 6, 8, 8), (1, 10))(torch.zeros(2, 6, 8, 8)).shape == (2, 10)


def test_untrained_heads_too_many_heads_and_other_outputs_are_refused():
    module = network()
    with pytest.raises(BadInput, match="have seen no batch"):
        Dcp(heads=1).prepare(context_of(module)).finish_()
    with pytest.raises(UnsupportedModel, match=r"heads \(=9\) need as many layers"):
        Dcp(heads=9).prepare(context_of(module))
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(2))
    with pytest.raises(UnsupportedModel, match="DCP's heads know logits"):
        Dcp(heads=1).prepare(context_of(flat))


def test_a_network_without_anything_to_select_is_refused():
    method = copy.deepcopy(with_trained_heads())
    frozen = dict.fromkeys(method.context.graph.sets, "by the test")
    graph = analyse(method.context.graph.network, frozen)
    method.context = context_of(method.context.module, graph=graph)
    with pytest.raises(UnsupportedModel, match="no prunable channels of Sequential"):
        method.finish_()
