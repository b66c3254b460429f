from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.models.unet import UNet
from compress.surgery import mend_attributes_, prune_module
from device_profiles.errors import BadInput, ParityFailed
from tests.compress.graph.examples import random_keep, unet_graph


def test_the_pruned_module_has_the_widths_of_the_graph_and_its_trained_weights() -> None:
    graph = unet_graph()
    torch.manual_seed(3)
    module = UNet(4)  # not the weights that were exported
    keep = random_keep(graph)
    pruned = prune_module(module, graph, keep)
    widths = graph.layer_widths({name: len(indices) for name, indices in keep.items()})
    for name, (inner, outer) in widths.items():
        layer = pruned.get_submodule(name)
        assert (layer.in_channels, layer.out_channels) == (inner, outer)
    first = keep["down.0.conv"]
    assert torch.equal(pruned.down[0].conv.weight, module.down[0].conv.weight[torch.from_numpy(first)])
    assert pruned.down[1].norm.num_features == widths["down.1.conv"][1]


def test_the_original_module_stays_as_it_is() -> None:
    graph = unet_graph()
    module = UNet(4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    prune_module(module, graph, random_keep(graph))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_the_pruned_module_trains() -> None:
    graph = unet_graph()
    pruned = prune_module(UNet(4), graph, random_keep(graph)).train()
    pruned(torch.randn(2, 3, 128, 128)).abs().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in pruned.parameters())


def test_an_analysed_pruned_module_equals_the_pruned_network() -> None:
    graph = unet_graph()
    keep = random_keep(graph)
    pruned = prune_module(UNet(4), graph, keep)
    again = analyse(export_module(pruned, torch.randn(1, 3, 128, 128)))
    assert {layer.name: (layer.in_channels, layer.out_channels) for layer in again.layers} == graph.layer_widths(
        {name: len(indices) for name, indices in keep.items()}
    )


def test_a_module_of_another_shape_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'down.0.conv.weight' is \(8, 3, 4, 4\) in UNet and \(4, 3, 4, 4\) in the net"):
        prune_module(UNet(8), unet_graph(), {})


def test_a_module_without_shared_names_is_refused() -> None:
    with pytest.raises(BadInput, match="Linear shares no weight's name with the network; export this module"):
        prune_module(nn.Linear(2, 2), unet_graph(), {})


class Literal(nn.Module):
    """Code that repeats a width as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 1)
        self.two = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.two(y.reshape(y.shape[0], 8, -1, 1)).reshape(x.shape)


def test_code_with_a_literal_width_fails_the_comparison() -> None:
    module = Literal()
    graph = analyse(export_module(module, torch.randn(1, 3, 4, 4)))
    with pytest.raises(ParityFailed, match=r"Literal does not run \(.*\) once it is pruned; .*prune_where_flexible"):
        prune_module(module, graph, {"one": np.arange(4)})


@pytest.mark.parametrize(
    ("module", "shape", "wanted"),
    [
        (nn.Conv2d(8, 16, 3, groups=2), (8, 2, 3, 3), {"in_channels": 4, "out_channels": 8, "groups": 2}),
        (nn.Conv2d(8, 16, 3, groups=8), (6, 1, 3, 3), {"in_channels": 3, "out_channels": 6, "groups": 3}),
        (nn.ConvTranspose2d(8, 8, 3, groups=8), (3, 1, 3, 3), {"in_channels": 3, "out_channels": 3, "groups": 3}),
        (nn.ConvTranspose2d(8, 4, 3, groups=2), (4, 1, 3, 3), {"in_channels": 4, "out_channels": 2, "groups": 2}),
        (nn.Linear(4, 6), (3, 2), {"in_features": 2, "out_features": 3}),
        (nn.Embedding(10, 8), (10, 4), {"num_embeddings": 10, "embedding_dim": 4}),
        (nn.BatchNorm1d(8), (3,), {"num_features": 3}),
        (nn.InstanceNorm2d(8, affine=True), (3,), {"num_features": 3}),
        (nn.GroupNorm(2, 8), (4,), {"num_channels": 4}),
        (nn.LayerNorm(8), (4,), {"normalized_shape": (4,)}),
        (nn.PReLU(8), (4,), {"num_parameters": 4}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_attributes_follow_the_weight(module: nn.Module, shape: tuple[int, ...], wanted: dict[str, object]) -> None:
    module.weight.data = torch.zeros(shape)
    mend_attributes_(module)
    assert {name: getattr(module, name) for name in wanted} == wanted
