"""What the analysis of gates must find where it was planted, and what it must not promise."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.methods.base import Context
from compress.methods.squeeze_excitation import (
    SqueezeExcitation,
    SqueezeExcite,
    absorb_gate_,
    find_gates,
    kinds_of_samples,
)
from compress.operators import Operators
from compress.surgery import named_tensors, prune_module
from compress.tasks.base import Batch
from compress.train.loop import Training, train_
from device_profiles.errors import UnsupportedModel
from tests.compress.methods.digits import Digits, graph_of, network, trained_network

SAME = 1e-5  # of logits around 10
PLANTED = 5


class ConvolvedGate(nn.Module):
    """The block as most libraries write it: two 1x1 convolutions and a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return functional.hardsigmoid(self.excite(functional.relu(self.squeeze(self.pool(x)))))


class Gated(nn.Module):
    """Two gated convolutions with one plain one between; `bypass` adds what comes before the second gate to it."""

    def __init__(self, *, bypass: bool = False) -> None:
        super().__init__()
        self.bypass = bypass
        self.first, self.first_norm, self.first_gate = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), SqueezeExcite(16, 4)
        self.plain = nn.Conv2d(16, 16, 3)
        self.last, self.last_gate = nn.Conv2d(16, 16, 3, padding=1), ConvolvedGate(16)
        self.classify = nn.Linear(16, 10)

    def forward(self, x):
        x = self.first_norm(self.first(x))
        x = torch.relu(x * self.first_gate(x))
        x = torch.relu(self.plain(x))
        y = self.last(x)
        y = self.last_gate(y) * y
        return self.classify(torch.relu(x + y if self.bypass else y).mean((2, 3)))


def context_of(module: nn.Module) -> Context:
    return Context(module, graph_of(module), Digits(), Training(steps=1), {}, 1.5, lambda widths: 1.0)


@functools.cache
def trained_gated() -> Gated:
    torch.manual_seed(0)
    module = Gated()
    train_(module, Digits(), Training(steps=60, batch=64, learning_rate=4e-3, precision="32-true"), label="gated")
    return module.to(memory_format=torch.contiguous_format)  # channels-last pooling is exported as a gather


def plant(module: nn.Module, *, silent: bool) -> None:
    """Shut a gate for good; a silent channel does not reach the other gates through the squeeze either."""
    with torch.no_grad():
        module.first_gate.excite.weight[PLANTED] = 0
        module.first_gate.excite.bias[PLANTED] = -20
        module.first_norm.bias[PLANTED] = 3
        if silent:
            module.first_gate.squeeze.weight[:, PLANTED] = 0


def analysed(module: nn.Module, **settings):
    method = SqueezeExcitation(insert=False, **settings).prepare(context_of(module))
    method.finish_()
    return method


def test_a_planted_shut_channel_is_flagged_alone_and_its_removal_changes_nothing():
    module = copy.deepcopy(trained_gated())
    plant(module, silent=True)
    inputs = Digits().test.inputs[:64]
    wanted = module(inputs)
    method = analysed(module)
    assert [np.flatnonzero(block.dead).tolist() for block in method.gated_blocks] == [[PLANTED], []]
    assert [(block.samples, block.inserted) for block in method.gated_blocks] == [(512, False)] * 2
    keep = method.keep()
    assert {name: np.setdiff1d(np.arange(16), kept).tolist() for name, kept in keep.items()} == {"first": [PLANTED]}
    assert method.scores()["first"].argmin() == PLANTED
    pruned = prune_module(module, method.context.graph, keep)
    assert pruned.first_gate.squeeze.weight.shape == (4, 15)
    assert pruned.first_gate.excite.weight.shape == (15, 4)
    assert (pruned(inputs) - wanted).abs().max() < SAME


def test_absorbing_a_shut_channel_into_the_squeeze_is_closer_than_dropping_it():
    module = copy.deepcopy(trained_gated())
    plant(module, silent=False)
    inputs = Digits().test.inputs[:64]
    wanted, graph = module(inputs), graph_of(module)
    keep = {"first": np.delete(np.arange(16), PLANTED)}
    dropped = (prune_module(module, graph, keep)(inputs) - wanted).abs().mean()
    analysed(module)
    absorbed = (prune_module(module, graph, keep)(inputs) - wanted).abs().mean()
    assert absorbed < 0.7 * dropped


def test_gates_of_a_trained_network_without_penalty_shut_nothing():
    method = analysed(copy.deepcopy(trained_gated()))
    assert method.keep() is None
    for block in method.gated_blocks:
        assert block.means.shape == (10, 16)
        assert block.kinds[3] == "class 3"
        assert ((block.means > 0) & (block.means < 1)).all()
        assert (block.largest >= block.means.max(0)).all()


def test_the_score_is_gate_times_activation_of_the_class_that_uses_a_channel_most():
    module = copy.deepcopy(trained_gated())
    method = analysed(module, samples=64)
    batch = Digits().batch(-1, 64)
    feature = module.first_norm(module.first(batch.inputs))
    used = (feature * module.first_gate(feature)).abs().mean((2, 3))
    by_class = torch.stack([used[batch.targets == one].mean(0) for one in batch.targets.unique()]).amax(0)
    assert method.scores()["first"] == pytest.approx((by_class / by_class.mean()).detach().numpy(), rel=1e-4)
    assert set(method.scores()) == {one.name for one in method.context.graph.prunable}


def test_a_bypassed_block_does_not_rank_its_channels():
    torch.manual_seed(0)
    module = Gated(bypass=True)
    with torch.no_grad():
        module.last_gate.excite.weight[PLANTED] = 0
        module.last_gate.excite.bias[PLANTED] = -20
    method = analysed(module, samples=64)
    assert np.flatnonzero(method.gated_blocks[1].dead).tolist() == [PLANTED]
    assert method.keep() is None
    assert method.scores()[method.gates[1].set].argmin() != PLANTED


def test_blocks_are_found_by_what_they_compute():
    module = Gated().eval()
    sets = {layer.name: layer.out_set for layer in graph_of(module).layers}
    found = find_gates(Operators(module, torch.zeros(2, 1, 8, 8)), sets)
    assert [(gate.excite, gate.squeeze, gate.activation) for gate in found] == [
        ("first_gate.excite", "first_gate.squeeze", "sigmoid"),
        ("last_gate.excite", "last_gate.squeeze", "hardsigmoid"),
    ]
    masked = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 8, 3), nn.Sigmoid())
    assert find_gates(Operators(masked, torch.zeros(2, 1, 8, 8)), {"0": "0", "2": "2"}) == []


def test_inserted_gates_train_and_leave_the_network_with_its_own_parameters():
    module = trained_network()
    names = list(named_tensors(module))
    method = SqueezeExcitation(gate_penalty=1.0, samples=128).prepare(context_of(module))
    assert len(method.gates) == 4
    training = Training(steps=20, batch=32, learning_rate=5e-2, warm_up=0, precision="32-true")
    train_(module, Digits(), training, label="gates", extras=method.extras())
    method.finish_()
    assert np.mean([block.means.mean() for block in method.gated_blocks]) < 0.92
    assert all(block.inserted for block in method.gated_blocks)
    assert list(named_tensors(module)) == names
    assert not any(part._forward_hooks for part in module.modules())
    prune_module(module, method.context.graph, {"0": np.arange(8)})


def test_absorbing_inserted_gates_that_do_not_depend_on_the_sample_is_exact():
    module = trained_network()
    method = SqueezeExcitation(samples=64).prepare(context_of(module))
    for name, part in module.named_modules():
        if name.endswith("gate.excite"):
            nn.init.zeros_(part.weight)
            nn.init.uniform_(part.bias, -2, 2)
    inputs = Digits().test.inputs[:64]
    wanted = module(inputs)
    method.finish_()
    assert (module(inputs) - wanted).abs().max() < 2 * SAME


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_gate_is_absorbed_by_a_transposed_convolution_in_groups(groups):
    part, mean = nn.ConvTranspose2d(6, 12, 2, stride=2, groups=groups), torch.rand(12)
    inputs = torch.randn(2, 6, 4, 4)
    wanted = part(inputs) * mean[:, None, None]
    part.gate = nn.Identity()
    absorb_gate_(part, "", mean)
    assert torch.allclose(part(inputs), wanted, atol=1e-6)


def test_the_penalty_is_the_mean_gate_over_all_blocks():
    module = trained_gated().train()
    method = SqueezeExcitation(insert=False, gate_penalty=0.3).prepare(context_of(module))
    gates = []
    for gate, activation in zip(method.gates, (torch.sigmoid, functional.hardsigmoid), strict=True):
        part = module.get_submodule(gate.excite)
        part.register_forward_hook(lambda _, __, output, activation=activation: gates.append(activation(output).mean()))
    method.context.module.train()
    module(Digits().test.inputs[:8])
    assert method.penalty().item() == pytest.approx(0.3 * (gates[0] + gates[1]).item() / 2)
    trained_gated.cache_clear()


def test_samples_without_classes_are_sorted_into_quarters_of_their_targets():
    targets = torch.linspace(1, 0, 8)[:, None, None, None].expand(8, 3, 4, 4)
    kinds, kind_of = kinds_of_samples([Batch(targets, targets)])
    assert kinds[0] == "lowest quarter"
    assert kind_of.tolist() == [3, 3, 2, 2, 1, 1, 0, 0]


def test_a_network_without_gates_is_refused_unless_they_may_be_inserted():
    with pytest.raises(UnsupportedModel, match="has no squeeze-and-excitation block"):
        SqueezeExcitation(insert=False).prepare(context_of(network()))
