"""The plain scores: against the definition, against a real gate, and on sets that are no plain row of filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.export import export_module
from compress.gates import gate_gradients
from compress.graph.analyse import analyse
from compress.methods.base import Context
from compress.methods.plain import L1, L2, Fisher, Fpgm, NormScale, Random, Taylor
from compress.train.loop import Extras, Training
from device_profiles.errors import BadInput
from tests.compress.methods.digits import Digits, graph_of, network

SAMPLES = 3
EVERY = (L1, L2, Fpgm, NormScale, Random, Taylor, Fisher)


def context_of(module, graph, task=None) -> Context:
    return Context(module, graph, task, Training(steps=1), {}, goal=2.0, speedup=lambda _: 1.0)


@pytest.fixture(scope="module")
def digits():
    module = network(widths=(6, 5, 4, 3))
    for part in module:
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return context_of(module, graph_of(module), Digits())


class Mixed(nn.Module):
    """What is no plain row of filters: a grouped transposed convolution, a residual sum, pixel shuffling, depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.shuffled = nn.Conv2d(8, 24, 1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.inner(x))
        x = functional.relu(self.depthwise(x))
        x = functional.relu(functional.pixel_shuffle(self.shuffled(x), 2))
        return self.head(functional.relu(self.up(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    module = Mixed()
    return context_of(module, analyse(export_module(module, torch.zeros(1, 1, 8, 8))), Digits())


def test_every_score_of_every_set_is_one_finite_number_a_channel(digits, mixed):
    for context in (digits, mixed):
        for settings in EVERY:
            if settings is NormScale and context is mixed:
                continue
            method = settings().prepare(context)
            scores = method.scores()
            assert {name: len(values) for name, values in scores.items()} == {
                one.name: one.width for one in context.graph.prunable
            }
            assert all(np.isfinite(values).all() and (values >= 0).all() for values in scores.values())
            assert method.keep() is None
            assert method.extras() == Extras()
            method.finish_()


def test_norms_are_those_of_the_filters_over_their_layers_mean(digits):
    rows = digits.module[3].weight.detach().reshape(5, -1)
    distances = (rows[:, None] - rows[None]).norm(dim=2).sum(1)
    for settings, wanted in ((L1(), rows.abs().sum(1)), (L2(), rows.norm(dim=1)), (Fpgm(), distances)):
        found = settings.prepare(digits).scores()["3"]
        np.testing.assert_allclose(found, wanted / wanted.mean(), rtol=1e-5)


def test_a_folded_norm_counts_the_normalisation(digits):
    conv, norm = digits.module[0], digits.module[1]
    deviation = (norm.running_var + norm.eps).sqrt()
    wanted = conv.weight.abs().sum((1, 2, 3)) * (norm.weight.abs() + norm.bias.abs()) / deviation
    found = L1(folded=True).prepare(digits).scores()["0"]
    np.testing.assert_allclose(found, (wanted / wanted.mean()).detach(), rtol=1e-5)


def test_the_scale_is_compared_as_it_is(digits):
    found = NormScale().prepare(digits).scores()
    np.testing.assert_array_equal(found["7"], digits.module[8].weight.detach().abs())


def test_random_scores_follow_the_seed(digits):
    first, again = (Random().prepare(digits).scores() for _ in range(2))
    other = Random().prepare(replace(digits, seed=1)).scores()
    np.testing.assert_array_equal(first["0"], again["0"])
    assert not np.array_equal(first["0"], other["0"])


def gated(gate: Tensor):
    return lambda _, __, outputs: outputs * gate[:, None, None]


def gates_by_hook(context: Context, hooked: dict[str, list[tuple[nn.Module, int]]]) -> dict[str, np.ndarray]:
    """Multiply what the given modules make by real gates, each shared by so many neighbouring channels."""
    widths = {one.name: one.width for one in context.graph.prunable}
    found = {}
    for name, parts in hooked.items():
        rows = []
        for sample in range(SAMPLES):
            gate = torch.ones(widths[name], requires_grad=True)
            handles = [part.register_forward_hook(gated(gate.repeat_interleave(count))) for part, count in parts]
            batch = context.task.batch(-1 - sample, 1)
            context.module.eval()
            context.task.loss(context.module(batch.inputs), batch.targets).backward()
            rows.append(gate.grad.numpy())
            for handle in handles:
                handle.remove()
        found[name] = np.stack(rows)
    return found


@pytest.mark.parametrize("after", ["norm", "activation"])
def test_gate_gradients_of_normalised_layers_are_those_of_a_real_gate(digits, after):
    shift = {"norm": 1, "activation": 2}[after]
    hooked = {name: [(digits.module[int(name) + shift], 1)] for name in ("0", "3", "7", "10")}
    wanted = gates_by_hook(digits, hooked)
    found = gate_gradients(digits.graph, digits.module, digits.task, SAMPLES)
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-3, atol=1e-5 * np.abs(rows).max())


def test_a_loss_without_gradients_is_said_to_say_nothing(digits, monkeypatch):
    monkeypatch.setattr(digits.task, "loss", lambda outputs, targets: 0.0 * outputs.sum())
    with pytest.raises(
        BadInput, match=r"no gradient on any of 2 training samples.*score by their weights, such as by l2"
    ):
        gate_gradients(digits.graph, digits.module, digits.task, 2)


def test_gate_gradients_of_layers_without_a_norm_are_those_of_a_real_gate(mixed):
    module = mixed.module
    hooked = {
        "stem": [(module.stem, 1), (module.inner, 1)],  # a residual sum is gated in both; the depthwise passes it on
        "shuffled": [(module.shuffled, 4)],
        "up": [(module.up, 1)],
    }
    wanted = gates_by_hook(mixed, hooked)
    found = gate_gradients(mixed.graph, module, mixed.task, SAMPLES)
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-3, atol=1e-5 * np.abs(rows).max())


def test_fisher_and_taylor_are_means_over_samples_of_the_gates_gradient(digits):
    rows = gate_gradients(digits.graph, digits.module, digits.task, SAMPLES)
    fisher = Fisher(samples=SAMPLES).prepare(digits).scores()
    taylor = Taylor(samples=SAMPLES).prepare(digits).scores()
    for name, gradients in rows.items():
        np.testing.assert_allclose(fisher[name], (gradients**2).mean(0), rtol=1e-6)
        np.testing.assert_allclose(taylor[name], np.abs(gradients).mean(0), rtol=1e-6)


def test_a_channel_that_the_loss_does_not_see_scores_nothing(digits):
    module = network(widths=(6, 5, 4, 3))
    with torch.no_grad():
        module[3].weight[:, 2] = 0.0
    context = context_of(module, digits.graph, digits.task)
    assert Fisher(samples=SAMPLES).prepare(context).scores()["0"][2] == 0.0


def test_a_network_without_scales_cannot_be_scored_by_them(mixed):
    with pytest.raises(BadInput, match="score by l1 or fisher"):
        NormScale().prepare(mixed)


def test_a_normalisation_without_a_scale_hides_the_gate():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 10, 6), nn.Flatten())
    context = context_of(module, analyse(export_module(module, torch.zeros(1, 1, 8, 8))), Digits())
    with pytest.raises(BadInput, match="make it affine"):
        Fisher(samples=1).prepare(context).scores()
    assert len(L1().prepare(context).scores()["0"]) == 4


def test_a_weight_under_another_name_is_named():
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 3))
    context = context_of(module, analyse(export_module(module, torch.zeros(1, 1, 8, 8))))
    with pytest.raises(BadInput, match="without weight_norm"):
        L1().prepare(context).scores()
