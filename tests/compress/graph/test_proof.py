from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.proof import TOLERANCE, compare_numbers
from compress.graph.surgery import prune, remove_channels
from device_profiles.errors import ParityFailed

KEPT = np.arange(0, 64, 2)


class Cancelling(nn.Module):
    """The second channel of `b` is a small difference of large numbers, all of which stay."""

    def __init__(self, leftover: float) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 64, 1, bias=False)
        self.b = nn.Conv2d(64, 2, 1, bias=False)
        self.c = nn.Conv2d(2, 3, 1)
        with torch.no_grad():
            kept = self.a.weight[KEPT, :, 0, 0].double()
            numbers = torch.randn(len(KEPT), 1, dtype=torch.float64)
            cancelling = numbers - kept @ torch.linalg.lstsq(kept, numbers).solution
            self.b.weight.normal_()
            self.b.weight[1] = 0
            self.b.weight[1, KEPT, 0, 0] = (cancelling + leftover * torch.randn_like(cancelling))[:, 0].float()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class SqueezeToOne(nn.Module):
    """A squeeze whose few channels are single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        gate = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(y * gate)


class Table(nn.Module):
    """Adds what a small network makes of fixed positions, as position biases are made."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Buffer(torch.randn(16, 2))
        self.place = nn.Linear(2, 8)
        self.stem = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x) + self.place(self.positions).sigmoid())


def graph_of(module: nn.Module, *shape: int) -> ChannelGraph:
    return analyse(export_module(module, torch.zeros(shape)))


def cancelling(leftover: float = 1e-6) -> ChannelGraph:
    torch.manual_seed(0)
    return graph_of(Cancelling(leftover), 1, 4, 8, 8)


def test_rounding_of_a_small_difference_of_large_numbers_is_no_mistake() -> None:
    graph = cancelling()
    proof = prune(graph.network, {"a": KEPT, "b": np.array([1])}).proof
    assert proof is not None
    assert proof.max_error_of_spread <= TOLERANCE
    assert "rounding adds up to" in proof.note
    assert "every layer was compared by itself" in proof.note


def test_a_mistake_in_a_small_difference_of_large_numbers_is_one() -> None:
    graph = cancelling()
    wrong = remove_channels(graph, {"a": KEPT + 1, "b": np.array([1])})
    assert compare_numbers(graph, {"a": KEPT, "b": np.array([1])}, wrong).error_of_spread > TOLERANCE
    swapped = remove_channels(graph, {"a": KEPT, "b": np.array([0])})
    assert compare_numbers(graph, {"a": KEPT, "b": np.array([1])}, swapped).error_of_spread > TOLERANCE


def test_the_values_of_a_single_channel_are_measured_by_the_originals() -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        graph = graph_of(SqueezeToOne(), 1, 3, 8, 8)
        proof = prune(graph.network, {"stem": np.array([0, 2, 5]), "squeeze": np.array([seed % 4])}).proof
        assert proof is not None
        assert proof.max_error_of_spread <= TOLERANCE
        assert not proof.note


def test_a_wrong_single_channel_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    graph = graph_of(SqueezeToOne(), 1, 3, 8, 8)
    wrong = remove_channels(graph, {"squeeze": np.array([1])})
    monkeypatch.setattr("compress.graph.surgery.remove_channels", lambda graph, keep: wrong)
    with pytest.raises(ParityFailed, match=r"changes 'squeeze' by .* of its spread"):
        prune(graph.network, {"squeeze": np.array([2])})


def test_a_layer_that_is_folded_once_it_is_smaller_is_compared_through_its_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compress.graph.fold.LARGEST_FOLDED_ELEMENTS", 100)  # between 16 x 8 and 16 x 4
    torch.manual_seed(0)
    graph = graph_of(Table(), 1, 16, 4)
    keep = {"stem": np.array([0, 3, 4, 7])}
    pruned = prune(graph.network, keep)
    assert "place" in [layer.name for layer in graph.layers]
    assert "place" not in [layer.name for layer in analyse(pruned).layers]
    assert pruned.proof is not None
    assert pruned.proof.removed_channels == 4
    wrong = remove_channels(graph, {"stem": np.array([0, 3, 4, 6])})
    assert compare_numbers(graph, keep, wrong).error_of_spread > TOLERANCE
