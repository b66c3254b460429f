"""What separates a correct Network Slimming from a broken one, on digits; and networks normalised in other places."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.cut import cut_at_random
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import Keep
from compress.methods.base import Context
from compress.methods.network_slimming import NetworkSlimming
from compress.scores import Scores
from compress.surgery import prune_module
from compress.train.judge import run_in_chunks
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput
from tests.compress.methods.digits import Digits, accuracy, graph_of, network, trained_network

TRAINING = Training(steps=300, batch=64, learning_rate=4e-3, schedule="flat", precision="32-true")
IMAGE = torch.zeros(1, 1, 8, 8)
SPREAD = 40.0  # of the logits


def context_of(module: nn.Module, graph=None, **changes) -> Context:
    graph = graph or analyse(export_module(module, IMAGE))
    context = Context(module, graph, Digits(), TRAINING, {}, goal=2.0, speedup=lambda _: 1.0)
    return replace(context, **changes)


@pytest.fixture(scope="module")
def graph():
    return graph_of(network())


@dataclass(frozen=True)
class Slimmed:
    context: Context
    accuracy: float
    scores: Scores
    keep: Keep

    def accuracy_at(self, keep: Keep) -> float:
        return accuracy(prune_module(self.context.module, self.context.graph, keep, prove=False), self.context.task)


@pytest.fixture(scope="module")
def prox(graph):
    context = context_of(trained_network(), graph)
    method = NetworkSlimming().prepare(context)
    train_(context.module, context.task, TRAINING, label="slim", extras=method.extras())
    trained = accuracy(context.module, context.task)
    method.finish_()
    return Slimmed(context, trained, method.scores(), method.keep())


def test_the_proximal_step_makes_two_fifths_of_the_scales_exactly_zero_and_keeps_the_accuracy(prox):
    scores = np.concatenate(list(prox.scores.values()))
    assert (scores == 0).mean() >= 0.4
    assert prox.accuracy > 95
    assert all(len(kept) >= NetworkSlimming().least_channels for kept in prox.keep.values())


def test_cutting_what_is_zero_is_nearly_free_before_fine_tuning_where_a_random_cut_is_at_chance(prox):
    assert prox.accuracy_at(prox.keep) > prox.accuracy - 3
    at_random = [prox.accuracy_at(cut_at_random(prox.context.graph, prox.keep, seed)) for seed in range(3)]
    assert max(at_random) < 30


def test_what_is_cut_out_computes_what_was_silent(prox):
    inputs = prox.context.task.held_out().inputs
    pruned = prune_module(prox.context.module, prox.context.graph, prox.keep)
    assert (run_in_chunks(pruned, inputs) - run_in_chunks(prox.context.module, inputs)).abs().max() < 1e-5 * SPREAD


def test_without_the_penalty_half_of_the_channels_cannot_be_cut(graph):
    context = context_of(trained_network(), graph)
    keep = NetworkSlimming(prune_share=0.5).prepare(context).keep()
    pruned = prune_module(context.module, graph, keep, prove=False)
    assert accuracy(pruned, context.task) < 40


def slimming(module: nn.Module, graph, gradient: float = 2.0, **settings):
    """Prepare a method and give all scales the same gradient."""
    goal = settings.pop("goal", {})
    method = NetworkSlimming(**settings).prepare(context_of(module, graph, **goal))
    for name in method.weights:
        parameter = module.get_parameter(name)
        parameter.grad = torch.full_like(parameter, gradient)
    return method


@pytest.mark.parametrize("gradient", [2.0, 2e-4])  # the unit of the loss does not matter
def test_the_proximal_step_is_a_soft_threshold_by_the_step_that_adam_takes(graph, gradient):
    module = network()
    method = slimming(module, graph, gradient, strength=0.5, norm_rate=10.0)
    gamma = module[1].weight
    with torch.no_grad():
        gamma[:4] = torch.tensor([0.3, -0.3, 0.01, -0.01])
    method.shrink_(1, 0.01)  # 10 x 0.01 x 0.5 gradients, over the root of a gradient's square and the penalty's own
    left = 0.3 - 0.05 / (1 + 0.5**2) ** 0.5
    torch.testing.assert_close(gamma[:4].detach(), torch.tensor([left, -left, 0.0, 0.0]), rtol=1e-4, atol=0)
    assert (method.scores()["0"] == 0).sum() == 2
    assert (method.extras().modules["squares"][0] > 0).all()


def test_a_scale_without_a_gradient_moves_no_faster_than_adam_would_move_it(graph):
    module = network()
    method = slimming(module, graph, strength=0.5, norm_rate=10.0)
    module[1].weight.grad[0] = 0.0
    with torch.no_grad():
        module[1].weight[1:6] = 2.0  # the strongest
    method.shrink_(1, 0.01)
    assert module[1].weight[0].item() == pytest.approx(1 - 10 * 0.01, rel=1e-3)


def test_the_strongest_channels_of_a_set_are_never_shrunk(graph):
    module = network()
    method = slimming(module, graph, strength=100.0, least_channels=3)
    with torch.no_grad():
        for name in method.weights:
            module.get_parameter(name).copy_(torch.linspace(1e-3, 2e-3, len(module.get_parameter(name))))
    method.shrink_(1, 0.1)
    for values in method.scores().values():
        assert np.flatnonzero(values).tolist() == list(range(len(values) - 3, len(values)))


def test_once_the_zeros_suffice_they_stay_and_nothing_else_is_shrunk(graph):
    module, asked = network(), []

    def speedup(widths):
        asked.append(dict(widths))
        return 2.0 if widths["0"] <= 28 else 1.5

    goal = {"goal": 2.0, "speedup": speedup, "multiples": {"0": 4}}
    method = slimming(module, graph, strength=0.5, goal=goal)
    gamma = module[1].weight
    with torch.no_grad():
        gamma[:5] = 1e-4
    method.shrink_(1, 0.01)
    assert (gamma[:5] == 0).all()
    assert asked == [{"0": 32, "3": 32, "7": 64, "10": 64}]
    with torch.no_grad():
        gamma[:5] = 0.01  # as the next step of the optimizer may leave them
    before = gamma[5:].clone()
    method.shrink_(2, 0.01)
    assert asked[1] == {"0": 28, "3": 32, "7": 64, "10": 64}  # 27 are left: rounded up to what will be cut
    assert (gamma[:5] == 0).all()
    assert torch.equal(gamma[5:], before)
    share = slimming(network(), graph, strength=0.5, prune_share=0.5, goal=goal)
    share.shrink_(1, 0.01)
    assert len(asked) == 2  # the share decides, not the speedup


def test_scales_that_became_zero_are_cut_where_the_weights_are_averaged(graph):
    module = network()
    method = slimming(module, graph, strength=0.5)
    gamma = module[1].weight
    with torch.no_grad():
        gamma[:5] = 1e-4
    method.shrink_(1, 0.01)
    with torch.no_grad():
        gamma[:5] = 1e-3  # as a moving average remembers them
    method.finish_()
    assert (method.scores()["0"][:5] == 0).all()
    assert method.keep()["0"].tolist() == list(range(5, 32))


def test_the_subgradient_is_that_of_the_penalty(graph):
    module = network()
    method = NetworkSlimming(strength=0.5, step="subgradient").prepare(context_of(module, graph))
    with torch.no_grad():
        module[1].weight[0] = -2.0
    penalty = method.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(0.5 * (32 + 1 + 32 + 64 + 64))
    assert module[1].weight.grad[:2].tolist() == [-0.5, 0.5]
    assert [len(kept) for kept in method.keep().values()] == [32, 32, 64, 64]


def test_what_the_subgradient_leaves_near_zero_is_absorbed_and_cut(graph):
    module, exact = trained_network(), trained_network()
    with torch.no_grad():
        for part in (module, exact):
            part[11].weight[:9] = 5e-3 if part is module else 0.0
            part[11].bias[:9] = 2.0  # read by the classifier, behind a mean over the picture: no border
    method = NetworkSlimming(step="subgradient").prepare(context_of(module, graph))
    method.finish_()
    keep = method.keep()
    assert keep["10"].tolist() == list(range(9, 64))
    inputs = method.context.task.held_out().inputs[:32]
    pruned = prune_module(module, graph, keep, prove=False)
    assert (run_in_chunks(pruned, inputs) - run_in_chunks(exact, inputs)).abs().max() < 1e-5 * SPREAD


def test_device_aware_terms_are_weighed_by_latencies_of_mean_one(graph):
    context = context_of(network(), graph, latency_shares={"0": 0.1, "3": 0.1, "7": 0.2, "10": 0.4})
    weights = NetworkSlimming(device_aware=True).prepare(context).weights
    assert [weights[name][0].item() for name in ("1.weight", "4.weight", "8.weight", "11.weight")] == pytest.approx(
        [0.5, 0.5, 1.0, 2.0]
    )
    with pytest.raises(BadInput, match="has no latency"):
        NetworkSlimming(device_aware=True).prepare(replace(context, latency_shares={}))


def test_a_share_below_the_global_threshold_is_cut_but_no_layer_below_its_floor(graph):
    module = network()
    with torch.no_grad():
        module[1].weight.fill_(0.01)
        module[4].weight.copy_(torch.linspace(0.1, 0.9, 32))
    keep = NetworkSlimming(prune_share=0.25, least_channels=5).prepare(context_of(module, graph)).keep()
    assert [len(kept) for kept in keep.values()] == [5, 16, 64, 64]
    assert keep["3"].tolist() == list(range(16, 32))


def test_a_network_without_normalisations_cannot_be_slimmed():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 6), nn.Flatten())
    with pytest.raises(BadInput, match="Network Slimming needs"):
        NetworkSlimming().prepare(context_of(module))


class PreActivated(nn.Module):
    """Two residual blocks that normalise before they convolve; the trunk is scaled at each block's entry only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.entries = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.inner = nn.ModuleList(nn.Conv2d(8, 6, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(6, 8, 3, padding=1, bias=False) for _ in range(2))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for entry, inner, norm, outer in zip(self.entries, self.inner, self.norms, self.outer, strict=False):
            x = x + outer(functional.relu(norm(inner(functional.relu(entry(x))))))
        return self.head(functional.relu(self.entries[-1](x)).mean((2, 3)))


def test_a_residual_trunk_is_scored_by_the_normalisations_at_its_blocks_entries():
    torch.manual_seed(0)
    module = PreActivated()
    for part in (*module.entries, *module.norms):
        nn.init.uniform_(part.weight)
        nn.init.normal_(part.bias)
    context = context_of(module)
    method = NetworkSlimming().prepare(context)
    scales = [entry.weight.detach() for entry in module.entries]
    np.testing.assert_allclose(method.scores()["stem"], torch.stack(scales).mean(0), rtol=1e-6)
    with torch.no_grad():
        for entry in module.entries:
            entry.weight[[1, 5]] = 0.0
    inputs = context.task.held_out().inputs[:32]
    method.finish_()
    keep = method.keep()
    assert keep["stem"].tolist() == [0, 2, 3, 4, 6, 7]
    pruned = prune_module(module, context.graph, keep)
    assert pruned.stem.out_channels == 6
    assert (run_in_chunks(pruned, inputs) - run_in_chunks(module, inputs)).abs().max() < 1e-5
