from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.count import macs, macs_by_node, parameters, peak_activation_bytes, weight_bytes
from compress.models.unet import UNet


class DnCnn(nn.Module):
    """The denoiser whose published cost is 0.56 M parameters and, with 2 per norm and 1 per activation, 9.13 G."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 64, 3, padding=1), nn.ReLU()]
        for _ in range(15):
            layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(
    ("module", "shape", "count", "giga_macs"),
    [
        (UNet(16), (1, 3, 256, 256), 2_617_507, 0.405),
        (DnCnn(), (1, 1, 128, 128), 557_057, 9.079),
    ],
    ids=["unet-16", "dncnn"],
)
def test_published_counts_are_met(module: nn.Module, shape: tuple[int, ...], count: int, giga_macs: float) -> None:
    network = export_module(module, torch.randn(shape))
    assert parameters(network) == count
    assert round(macs(network) / 1e9, 3) == giga_macs
    assert sum(macs_by_node(network).values()) == macs(network)


def test_a_transposed_convolution_is_counted_on_its_input_grid() -> None:
    network = export_module(nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), torch.randn(1, 4, 8, 8))
    assert macs(network) == 8 * 8 * 4 * 6 * 4 * 4


def test_attention_products_count_too() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2)

    assert macs(export_module(Scores(), torch.randn(2, 5, 7))) == 2 * 5 * 5 * 7


def test_memory_is_that_of_the_tensors_alive_together() -> None:
    network = export_module(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), torch.randn(1, 3, 4, 4))
    assert peak_activation_bytes(network) == 4 * (8 + 8) * 16
    assert weight_bytes(network) == 4 * (24 + 8)
