"""Greedy selection on a network that reads digits, with planted channels and planted latencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from compress.balanced import keep_counts
from compress.cut import cut_at_random
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.methods.base import Context
from compress.methods.greedy import Greedy, silence_
from compress.scores import makers_of
from compress.surgery import prune_module
from compress.train.judge import recalibrate_
from compress.train.loop import Training
from tests.compress.methods.digits import Digits, accuracy, graph_of, trained_network

FULL = {"0": 32, "3": 32, "7": 64, "10": 64}


def speedup_by(cost):
    """A network whose latency is the sum of its widths, each times its cost."""
    whole = sum(cost[name] * width for name, width in FULL.items())
    return lambda widths: whole / sum(cost[name] * widths.get(name, FULL[name]) for name in FULL)


def selected(settings, cost, goal=1.8, module=None, speedup=None):
    module = module or trained_network()
    graph = graph_of(module)
    context = Context(
        module=module,
        graph=graph,
        task=Digits(),
        training=Training(steps=1),
        latency_shares={},
        goal=goal,
        speedup=speedup or speedup_by(cost),
        multiples=dict.fromkeys(FULL, 4),
    )
    selection = settings.prepare(context)
    selection.finish_()
    return graph, selection.scores()


def kept_at(graph, scores, speedup, goal=1.8):
    """Follow the order of removal until the network is fast enough."""
    places = np.sort(np.concatenate(list(scores.values())))
    for threshold in places:
        widths = {name: max(1, int((values > threshold).sum())) for name, values in scores.items()}
        if speedup(widths) >= goal:
            return keep_counts(graph, scores, widths)
    raise AssertionError("the order never reaches the goal")


@pytest.fixture(scope="module")
def even():
    cost = dict.fromkeys(FULL, 1.0)
    module = trained_network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph, scores = selected(Greedy(), cost, goal=2.5, module=module)
    unchanged = all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    return graph, scores, speedup_by(cost), unchanged


def test_the_networks_weights_come_back(even):
    assert even[3]


def test_every_channel_has_its_own_place_within_its_set(even):
    for name, values in even[1].items():
        assert len(values) == FULL[name]
        assert np.isfinite(values).all()
        assert len(np.unique(values)) > 0.9 * len(values)


def accuracy_when_kept(graph, keep):
    pruned = prune_module(trained_network(), graph, keep)
    recalibrate_(pruned, Digits())
    return accuracy(pruned, Digits())


def test_what_greedy_keeps_is_far_better_than_random_before_any_fine_tuning(even):
    graph, scores, speedup, _ = even
    keep = kept_at(graph, scores, speedup, goal=2.5)
    random = [accuracy_when_kept(graph, cut_at_random(graph, keep, seed)) for seed in range(3)]
    assert accuracy_when_kept(graph, keep) > np.mean(random) + 20


def test_scoring_anew_between_small_cuts_is_better_than_scoring_once(even):
    graph, scores, speedup, _ = even
    _, once = selected(Greedy(cuts=1), dict.fromkeys(FULL, 1.0), goal=2.5)
    found = accuracy_when_kept(graph, kept_at(graph, scores, speedup, goal=2.5))
    assert found > accuracy_when_kept(graph, kept_at(graph, once, speedup, goal=2.5)) + 20


def test_a_layer_that_is_slow_on_the_device_goes_in_place_of_the_others(even):
    slow = dict.fromkeys(FULL, 1.0) | {"7": 8.0}
    graph, scores = selected(Greedy(cuts=3, samples=16), slow)
    others = {}
    for key, found, cost in (("even", even[1], dict.fromkeys(FULL, 1.0)), ("slow", scores, slow)):
        keep = kept_at(graph, found, speedup_by(cost))
        others[key] = sum(len(kept) for name, kept in keep.items() if name != "7")
    assert others["slow"] > 1.1 * others["even"]


def test_a_dead_channel_goes_first():
    module = trained_network()
    with torch.no_grad():
        module[4].weight[5] = 0.0  # the normalisation after the second convolution
        module[4].bias[5] = 0.0
    _, scores = selected(Greedy(cuts=3, samples=8), dict.fromkeys(FULL, 1.0), module=module)
    assert scores["3"][5] == scores["3"].min()


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_what_is_not_alive_is_zero_where_a_transposed_convolution_makes_it(groups):
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 12, 2, groups=groups), nn.ReLU(), nn.Conv2d(12, 2, 1)
    )
    makers = makers_of(analyse(export_module(module, torch.zeros(1, 1, 8, 8))))
    alive = {name: np.arange(makers[name][0].width) % 3 != 1 for name in ("0", "2")}
    inputs = torch.randn(2, 1, 8, 8)
    first = module[:2](inputs) * torch.from_numpy(alive["0"])[:, None, None]
    wanted = module[2:4](first) * torch.from_numpy(alive["2"])[:, None, None]
    silence_({name: makers[name] for name in alive}, module, alive)
    assert torch.allclose(module[:4](inputs), wanted, atol=1e-6)


def test_a_width_within_a_step_that_saves_nothing_does_not_end_the_search():
    def speedup(widths):  # latency rises in steps of 16 channels, blocks are of 4
        stairs = sum(math.ceil(widths.get(name, width) / 16) for name, width in FULL.items())
        return sum(math.ceil(width / 16) for width in FULL.values()) / stairs

    _, scores = selected(Greedy(cuts=2, samples=4), {}, goal=2.0, speedup=speedup)
    gone = {name: int((values < 2).sum()) for name, values in scores.items()}
    assert speedup({name: FULL[name] - count for name, count in gone.items()}) >= 2.0
