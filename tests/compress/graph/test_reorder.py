"""Channels in another order: the same network, and one whose reader finds its inputs in the order that it asked for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.reorder import input_set, rearrangements
from compress.graph.run import random_feeds, run
from compress.surgery import named_tensors

SAME = 1e-5  # sums in another order only
ORDER = np.array([5, 1, 0, 6, 2, 7, 3, 4])


class Block(nn.Module):
    """A residual sum, a swish, a depthwise convolution and two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.slope = nn.PReLU(8)
        self.asking = nn.Conv2d(8, 4, 1)
        self.beside = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + nn.functional.silu(self.norm(self.inner(x)))
        x = self.slope(self.depthwise(x))
        return self.asking(x) + self.beside(x)


class Concatenated(nn.Module):
    """A reader of two sets, and one of each of them behind a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.both = nn.Conv2d(16, 4, 1)
        self.asking = nn.Conv2d(8, 4, 1)
        self.flat = nn.Linear(8 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        return (
            self.both(torch.cat([two, one], 1)).mean((2, 3)) + self.asking(one).mean((2, 3)) + self.flat(one.flatten(1))
        )


class Grouped(nn.Module):
    """What makes the channels, or normalises them, does so in groups."""

    def __init__(self, groups: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.groups = groups
        self.asking = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.asking(self.groups(self.stem(x)))


def lively(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in named_tensors(module).values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    return module.eval()


def graph_of(module: nn.Module) -> ChannelGraph:
    return analyse(export_module(module, torch.zeros(1, 3, 6, 6)))


def reordered(module: nn.Module, graph: ChannelGraph) -> nn.Module:
    found = rearrangements(graph, "asking", ORDER)
    assert found is not None
    result = copy.deepcopy(module)
    tensors = named_tensors(result)
    with torch.no_grad():
        for one in found:
            tensors[one.initializer].copy_(tensors[one.initializer].index_select(one.axis, torch.from_numpy(one.index)))
    return result


@pytest.mark.parametrize("kind", [Block, Concatenated])
def test_the_network_stays_the_same_and_the_reader_has_its_inputs_in_order(kind: type[nn.Module]) -> None:
    module = lively(kind())
    graph = graph_of(module)
    result = reordered(module, graph)
    assert torch.equal(result.asking.weight, module.asking.weight[:, ORDER])
    network, feeds = graph_of(result).network, random_feeds(graph.network)
    for one, two in zip(run(graph.network.model, feeds).values(), run(network.model, feeds).values(), strict=True):
        assert np.abs(one - two).max() < SAME * np.ptp(one) + SAME * np.abs(one).max()
    made = next(iter(graph.sets[input_set(graph, "asking")].producers))
    assert torch.equal(result.get_submodule(made).weight, module.get_submodule(made).weight[ORDER])


def test_an_order_that_is_not_free_is_refused() -> None:
    graph = graph_of(lively(Grouped(nn.Conv2d(8, 8, 1, groups=2))))
    assert rearrangements(graph, "asking", ORDER) is None  # groups make the channels
    assert rearrangements(graph, "groups", ORDER) is None  # groups read them
    assert rearrangements(graph, "stem", np.arange(3)) is None  # the network's input
    graph = graph_of(lively(Grouped(nn.GroupNorm(2, 8))))
    assert rearrangements(graph, "asking", ORDER) is None  # groups normalise them
    graph = graph_of(lively(Block()))
    assert rearrangements(graph, "asking", ORDER[:4]) is None
    assert rearrangements(graph, "asking", np.minimum(ORDER, 6)) is None
    name = input_set(graph, "asking")
    assert rearrangements(analyse(graph.network, frozen={name: "a reason"}), "asking", ORDER) is None
    graph = graph_of(lively(Concatenated()))
    assert input_set(graph, "both") is None
    assert rearrangements(graph, "both", np.arange(16)) is None
