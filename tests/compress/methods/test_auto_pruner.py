"""What separates a correct AutoPruner from a broken one: codes learned on digits, and couplings of several kinds."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.cut import cut_at_random
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.methods.auto_pruner import PULL, AutoPruner, Gating
from compress.methods.auto_pruner_gates import FROZEN, LEARNING, VOTES, WAITING, zero_
from compress.methods.base import Context
from compress.surgery import prune_module
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput, BudgetInfeasible
from tests.compress.methods import networks
from tests.compress.methods.digits import Digits, accuracy, graph_of, network, trained_network

TRAINING = Training(steps=160, batch=32, learning_rate=2e-3, precision="32-true")
SHARE = 0.07  # how far a set may end from its share: 4 of 64 channels after these few steps, 3 after 300
EXACT = 1e-5


def context(module, graph, task, training=TRAINING, shares=None, goal=2.0):
    whole = sum(one.width for one in graph.prunable)

    def speedup(widths):
        return whole / sum(widths.get(one.name, one.width) for one in graph.prunable)

    shares = shares or {layer.name: 1 / len(graph.layers) for layer in graph.layers}
    return Context(module, graph, task, training, shares, goal, speedup)


@functools.cache
def digits_graph() -> ChannelGraph:
    return graph_of(network())


@dataclass(frozen=True)
class Gated:
    gating: Gating
    decided: float
    flips: int
    accuracy: float
    at_random: tuple[float, ...]


@functools.cache
def gated(**settings) -> Gated:
    module, graph, task = trained_network(), digits_graph(), Digits()
    settings = {"mode": "joint", "keep_ratio": 0.5} | settings
    gating = AutoPruner(**settings).prepare(context(module, graph, task))
    train_(module, task, TRAINING, label="gates", extras=gating.extras())
    values = torch.cat([gate.values.detach() for gate in gating.gates.values()])
    flips = sum(int((gate.votes() != gate.votes()[0]).any(0).sum()) for gate in gating.gates.values())
    gating.finish_()
    keep = gating.keep()
    at_random = [accuracy(prune_module(module, graph, cut_at_random(graph, keep, seed)), task) for seed in range(2)]
    decided = ((values < 0.2) | (values > 0.8)).float().mean().item()
    return Gated(gating, decided, flips, accuracy(prune_module(module, graph, keep), task), tuple(at_random))


def test_an_adaptive_alpha_ends_with_a_code_that_needs_no_fine_tuning():
    assert gated().accuracy >= 96
    assert max(gated().at_random) < 60


def test_almost_all_gates_are_decided_and_no_code_flips_at_the_end():
    assert gated().decided >= 0.95
    assert gated().flips == 0


def test_every_set_keeps_about_the_share_that_was_asked_for():
    for name, kept in gated().gating.keep().items():
        assert len(kept) / digits_graph().sets[name].width == pytest.approx(0.5, abs=SHARE)


def test_an_alpha_that_never_rises_leaves_gates_undecided_and_the_cut_hurts():
    soft = gated(alpha_start=0.1, alpha_stop=0.1, alpha_bump=0.0)
    assert soft.decided < 0.6
    assert soft.accuracy < gated().accuracy - 10


def test_scores_put_what_the_code_keeps_first():
    for name, kept in gated().gating.keep().items():
        scores = gated().gating.scores()[name]
        assert scores[kept].min() > np.delete(scores, kept).max()


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_finishing_leaves_a_plain_network_whose_cut_is_exact(name):
    module, graph = networks.built(name)
    keys = list(module.state_dict())
    gating = AutoPruner(keep_ratio=0.5, min_channels=1).prepare(context(module, graph, networks.Noise()))
    generator = torch.Generator().manual_seed(0)
    for gate in gating.gates.values():
        gate.phase.fill_(FROZEN)
        gate.mask.copy_(torch.rand(len(gate.mask), generator=generator) > 0.4)
        gate.mask[0] = 1.0
    inputs = networks.Noise().batch(0, 2).inputs
    masked = module(inputs)
    gating.finish_()
    assert not gating.skipped
    assert list(module.state_dict()) == keys
    assert not any(part._forward_hooks for part in module.modules())
    assert torch.allclose(module(inputs), masked, atol=EXACT)
    assert torch.allclose(prune_module(module, graph, gating.keep())(inputs), masked, atol=EXACT)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_what_a_code_turns_off_is_zero_behind_a_transposed_convolution_in_groups(groups):
    part, mask = nn.ConvTranspose2d(6, 12, 2, groups=groups), (torch.arange(12) % 3 != 1).float()
    inputs = torch.randn(2, 6, 4, 4)
    wanted = part(inputs) * mask[:, None, None]
    zero_(part, SimpleNamespace(positions=torch.arange(12)), mask)
    assert torch.allclose(part(inputs), wanted, atol=1e-6)


def test_a_gate_in_front_of_a_relu_is_one_behind_it():
    module = network()
    gating = AutoPruner(mode="joint", keep_ratio=0.5).prepare(context(module, digits_graph(), Digits()))
    inputs = Digits().batch(0, 16).inputs
    module.train()
    after = module[2](module[1](module[0](inputs)))
    with torch.no_grad():
        plain = torch.relu(nn.functional.batch_norm(module[0](inputs), None, None, training=True))
    gate = gating.gates["0"]
    pooled = nn.functional.max_pool2d(plain.mean(0), 2)  # what the paper's gate reads
    v = torch.sigmoid(gate.alpha * (gate.matrix @ pooled.flatten()))
    assert torch.allclose(gate.values, v, atol=1e-4)
    assert torch.allclose(after, plain * v[:, None, None], atol=1e-4)


@pytest.mark.parametrize(("mode", "groups"), [("layer", 4), ("grouped", 2), ("joint", 1)])
def test_groups_learn_one_after_another(mode, groups):
    module = network()
    gating = AutoPruner(mode=mode, groups=2, keep_ratio=0.5).prepare(context(module, digits_graph(), Digits()))
    assert len(gating.windows) == groups
    module.train()
    phases = []
    for step in range(1, TRAINING.steps + 1):
        phases.append([int(gate.phase) for gate in gating.gates.values()])
        module(Digits().batch(step, 2).inputs)
        gating.after_step(step, 0.0)
    assert phases[0].count(LEARNING) == 4 // groups
    assert phases[0].count(WAITING) == 4 - 4 // groups
    assert all(phase.count(LEARNING) == 4 // groups for phase in phases)
    assert all(int(gate.phase) == FROZEN for gate in gating.gates.values())


def test_lambda_is_a_hundred_times_the_distance_from_r_and_the_penalty_its_square():
    module = network()
    gating = AutoPruner(mode="joint", keep_ratio=0.25).prepare(context(module, digits_graph(), Digits()))
    module.train()
    module(Digits().batch(0, 4).inputs)
    wanted = sum(10 * (gate.values.mean().item() - 0.25) ** 2 for gate in gating.gates.values())
    assert gating.penalty().item() == pytest.approx(wanted, rel=1e-5)
    for step in range(1, VOTES + 1):
        gating.after_step(step, 0.0)
    for gate in gating.gates.values():
        assert float(gate.strength) == pytest.approx(PULL * abs(gate.code().mean().item() - 0.25), abs=1e-4)


def test_alpha_rises_in_a_straight_line_and_faster_where_too_many_channels_are_off():
    module = network()
    settings = AutoPruner(mode="joint", keep_ratio=0.5, alpha_start=1.0, alpha_stop=11.0)
    gating = settings.prepare(context(module, digits_graph(), Digits()))
    off, fine = gating.gates["0"], gating.gates["3"]
    off.logits = torch.full_like(off.logits, -1.0)
    fine.logits = torch.cat([torch.ones(16), -torch.ones(16)])
    off.values, fine.values = torch.zeros(32), torch.ones(32)
    for step in range(1, TRAINING.steps // 2 + 1):
        gating.after_step(step, 0.0)
    assert float(fine.alpha) == pytest.approx(6.0)
    assert float(off.alpha) == pytest.approx(6.0 + TRAINING.steps // 2 // VOTES)


def test_undecided_gates_raise_alpha_once_they_had_time_to_settle():
    module = network()
    settings = AutoPruner(mode="joint", keep_ratio=0.5, alpha_start=1.0, alpha_stop=1.0)
    gating = settings.prepare(context(module, digits_graph(), Digits()))
    for gate in gating.gates.values():
        gate.values = torch.full_like(gate.values, 0.5)
        gate.logits = torch.linspace(-1, 1, len(gate.mask))
    for step in range(1, 3 * VOTES + 1):
        gating.after_step(step, 0.0)
    assert [float(gate.alpha) for gate in gating.gates.values()] == [3.0] * 4  # the first 20 steps were to settle


def test_the_keep_ratio_is_what_the_goal_needs():
    module = network()
    even = AutoPruner(device_aware=False).prepare(context(module, digits_graph(), Digits(), goal=2.5))
    assert list(even.keep_ratios.values()) == pytest.approx([0.4] * 4, abs=0.02)
    shares = {"0": 0.05, "3": 0.05, "7": 0.1, "10": 0.8, "15": 0.0}
    slow = AutoPruner().prepare(context(module, digits_graph(), Digits(), shares=shares, goal=1.3))
    assert slow.keep_ratios["10"] < slow.keep_ratios["7"] < slow.keep_ratios["3"] <= 1


def test_a_goal_out_of_reach_is_told():
    with pytest.raises(BudgetInfeasible, match=r"speedup of 50.0 is out of reach: .* use another method"):
        AutoPruner().prepare(context(network(), digits_graph(), Digits(), goal=50.0))


def test_too_few_steps_for_a_vote_are_told():
    with pytest.raises(BadInput, match=r"steps \(=10\) must be at least 20 for each of 4 groups"):
        AutoPruner().prepare(context(network(), digits_graph(), Digits(), Training(steps=10)))


class PreActivation(nn.Module):
    """A normalisation that reads what a block adds up, so that zero does not stay zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.activated = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.inner(torch.relu(self.norm(x)))
        return self.last(torch.sigmoid(self.activated(x)))


def test_channels_that_zero_does_not_silence_have_no_gate_and_stay():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 8, 3))
    graph = analyse(export_module(module, torch.zeros(1, 3, 16, 16)))
    gating = AutoPruner(keep_ratio=0.5).prepare(context(module, graph, networks.Noise()))
    assert gating.gates.keys() == {"0"}  # SiLU of zero is zero
    assert gating.skipped == {"2": "Sigmoid follows, which does not keep zero"}
    assert (gating.scores()["2"] == 2).all()
    assert "2" not in gating.keep()


def test_a_network_without_a_place_for_gates_is_refused():
    module = PreActivation()
    graph = analyse(export_module(module, torch.zeros(1, 3, 16, 16)))
    with pytest.raises(BadInput, match=r"no channels .* BatchNormalization follows.* use another method"):
        AutoPruner(keep_ratio=0.5).prepare(context(module, graph, networks.Noise()))


def test_the_gate_has_the_size_that_the_paper_implies():
    gating = AutoPruner(keep_ratio=0.5).prepare(context(network(), digits_graph(), Digits()))
    sizes = {name: gate.matrix.numel() for name, gate in gating.gates.items()}
    assert sizes == {"0": 32 * 32 * 4**2, "3": 32 * 32 * 4**2, "7": 64 * 64 * 2**2, "10": 64 * 64 * 2**2}
    capped = AutoPruner(keep_ratio=0.5, largest_side=1).prepare(context(network(), digits_graph(), Digits()))
    assert capped.gates["0"].matrix.numel() == 32 * 32


class Stopped(Exception):
    """The run was killed."""


def test_a_run_that_was_stopped_halfway_ends_with_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.train.loop.CHECKPOINT_EVERY_S", 0.0)
    training = Training(steps=2 * VOTES, batch=4, learning_rate=2e-3, warm_up=1, precision="32-true")

    def run(name: str, stop_at: int | None = None) -> Gating:
        module, graph = networks.built("residual")
        task = networks.Noise()
        settings = AutoPruner(groups=2, keep_ratio=0.5, min_channels=1)
        gating = settings.prepare(context(module, graph, task, training))
        if stop_at is not None:
            draw = task.batch
            task.batch = lambda step, size: stop() if step == stop_at else draw(step, size)
        train_(module, task, training, label="gates", extras=gating.extras(), checkpoint=tmp_path / name)
        gating.finish_()
        return gating

    def stop():
        raise Stopped

    whole = run("whole")
    with pytest.raises(Stopped):
        run("halved", stop_at=VOTES + 7)
    resumed = run("halved")
    for name, values in whole.scores().items():
        assert np.array_equal(values, resumed.scores()[name])
        assert np.array_equal(whole.keep()[name], resumed.keep()[name])
