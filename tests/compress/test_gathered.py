"""Gathered group convolutions: what they compute, and that pruning, analysing and saving know them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.export import deployable, export_module
from compress.gathered import GatheredConv2d, Grouping, gathered, groupings_of, place_groupings_
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.run import random_feeds, run
from compress.model_folder import Origin, load_folder, save_folder
from compress.skeleton import rigid_by_shape
from compress.surgery import prune_module
from device_profiles.errors import BadInput

SAME = 1e-5  # sums in another order only
OWN = torch.tensor([[5, 1], [0, 6], [2, 7], [3, 4]])  # each of eight inputs in one group
SHARED = torch.tensor([[0, 1, 4, 5], [0, 1, 6, 7], [2, 3, 4, 5], [2, 3, 6, 7]])


def dense(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1))


def grouped(inputs: torch.Tensor, norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    module = dense(norm).eval()
    module[3] = gathered(module[3], inputs)
    return module


def graph_of(module: nn.Module) -> ChannelGraph:
    return analyse(export_module(module, torch.zeros(1, 3, 6, 6)))


def test_bias_stride_and_padding_survive() -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(8, 6, 3, stride=2, padding=1, padding_mode="reflect")
    inputs = torch.tensor([[0, 3, 4], [3, 6, 7]])
    read = torch.zeros(2, 8).scatter_(1, inputs, 1.0).repeat_interleave(3, 0)
    with torch.no_grad():
        whole.weight.mul_(read[:, :, None, None])
    x = torch.randn(2, 8, 9, 9)
    assert torch.allclose(gathered(whole, inputs)(x), whole(x), atol=SAME)


def test_inputs_that_come_in_order_are_not_gathered() -> None:
    made = gathered(nn.Conv2d(8, 8, 1), torch.arange(8).reshape(4, 2))
    assert made.index is None
    network = export_module(nn.Sequential(made), torch.zeros(1, 8, 4, 4))
    assert [node.op_type for node in network.model.graph.node] == ["Conv"]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])  # torch's exporter writes the second one
@pytest.mark.parametrize("inputs", [OWN, SHARED])
def test_pruning_what_is_gathered_keeps_the_picks(norm: type[nn.Module], inputs: torch.Tensor) -> None:
    module = grouped(inputs, norm)
    graph = graph_of(module)
    assert "3.index" in graph.network.weights
    # Of every group one input goes; of the shared ones, those that two groups read.
    keep = {"0": np.sort(inputs[:, 0].numpy()) if inputs is OWN else np.array([0, 2, 4, 6])}
    pruned = prune_module(module, graph, keep)  # compared with the original with the channels zeroed
    assert pruned[3].weight.shape[1] == inputs.shape[1] // 2
    assert (pruned[3].in_channels, pruned[3].groups) == (2 * inputs.shape[1], 4)
    assert len(pruned[3].index) == 2 * inputs.shape[1]


def test_shapes_alone_do_not_take_what_is_gathered_for_rigid() -> None:
    dense = nn.Conv2d(16, 8, 1)
    index = torch.randperm(16, generator=torch.Generator().manual_seed(0)).reshape(4, 4)
    module = nn.Sequential(nn.Conv2d(3, 16, 1), gathered(dense, index), nn.Conv2d(8, 2, 1)).eval()
    keep = {"0": np.sort(index[:, 1:].reshape(-1).numpy())}
    assert rigid_by_shape(module, graph_of(module), {"0": keep}) == {}


def test_groups_that_read_one_input_go_with_it() -> None:
    module = grouped(torch.tensor([[5], [1], [7], [2]]))
    graph = graph_of(module)
    names = [one.name for one in graph.prunable if "3" in one.producers]
    assert names
    for name in names:
        keep = {name: np.arange(graph.sets[name].width)[1:]}
        pruned = prune_module(module, graph, keep)
        assert pruned[3].groups == len(pruned[3].index)


def factory() -> nn.Module:
    return dense()


@pytest.mark.parametrize("inputs", [OWN, torch.arange(8).reshape(4, 2), torch.tensor([[5], [1], [7], [2]])])
def test_a_saved_folder_is_rebuilt(tmp_path: Path, inputs: torch.Tensor) -> None:
    module = grouped(inputs)
    network = deployable(export_module(module, torch.zeros(1, 3, 6, 6)))
    save_folder(tmp_path, module, network, {}, Origin(factory="tests.compress.test_gathered:factory"))
    loaded = load_folder(tmp_path, trusted=("tests",))
    assert (
        groupings_of(loaded)
        == groupings_of(module)
        == {"3": Grouping(groups=4, gathers=not torch.equal(inputs.reshape(-1), torch.arange(8)))}
    )
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(loaded(x), module(x))
    assert (loaded[3].in_channels, loaded[3].out_channels) == (module[3].in_channels, 8)


def test_what_the_runtime_computes_is_what_torch_does() -> None:
    module = grouped(OWN)
    network = deployable(export_module(module, torch.zeros(1, 3, 6, 6)))
    feeds = random_feeds(network)
    (found,) = run(network.model, feeds).values()
    with torch.no_grad():
        assert np.abs(found - module(*map(torch.from_numpy, feeds.values())).numpy()).max() < SAME


def test_a_network_without_that_convolution_is_refused() -> None:
    with pytest.raises(BadInput, match=r"Sequential has no convolution '1' to group; build the same network"):
        place_groupings_(dense(), {"1": Grouping(groups=2, gathers=True)})


def test_a_placed_convolution_keeps_its_mode() -> None:
    module = dense().eval()
    place_groupings_(module, {"3": Grouping(groups=4, gathers=True)})
    assert isinstance(module[3], GatheredConv2d)
    assert not module[3].training
