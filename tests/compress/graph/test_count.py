from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph import count
from compress.graph.count import (
    Convention,
    macs,
    macs_by_node,
    operations,
    parameters,
    peak_activation_bytes,
    weight_bytes,
)
from compress.graph.network import Network
from compress.models import build


@cache
def exported(name: str, pixels: int) -> Network:
    module = build(name)
    channels = next(part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d))
    return export_module(module, torch.randn(1, channels, pixels, pixels))


@pytest.mark.parametrize(
    ("name", "pixels", "convention", "published"),
    [
        ("unet-64", 256, count.TRUE_MACS, 6.023),
        ("unet-64", 256, count.DHP_CLASSIFICATION, 6.029),  # DECIG prints 6.03
        ("unet-64", 256, count.GAN_COMPRESSION, 18.05),
        ("unet-64", 256, count.GAN_SLIMMING, 16.81),
        ("cyclegan-resnet", 256, count.TRUE_MACS, 49.55),
        ("cyclegan-resnet", 256, count.GAN_COMPRESSION, 56.80),
        ("cyclegan-resnet", 256, count.GAN_SLIMMING, 52.898),  # DECIG prints 52.90
        ("dncnn", 128, count.TRUE_MACS, 9.079),
        ("dncnn", 128, count.DHP_RESTORATION, 9.127),  # DHP prints 9.13
        ("srresnet", 128, count.TRUE_MACS, 32.719),
        ("srresnet", 128, count.DHP_CLASSIFICATION, 32.788),
        ("srresnet", 128, count.DHP_RESTORATION, 32.827),  # DHP prints 32.83
        ("resnet-20", 32, count.TRUE_MACS, 0.0408),
        ("resnet-20", 32, count.DHP_CLASSIFICATION, 0.0412),
    ],
)
def test_published_operations_are_met(name: str, pixels: int, convention: Convention, published: float) -> None:
    digits = len(str(published).partition(".")[2])
    assert round(operations(exported(name, pixels), convention) / convention.giga, digits) == published


@pytest.mark.parametrize(
    ("name", "pixels", "published"),
    [
        ("cyclegan-resnet", 256, 11_378_179),  # the exporter makes up 10,496 scales and offsets for its norms
        ("dncnn", 128, 557_057),
        ("srresnet", 128, 1_535_638),
        ("resnet-20", 32, 272_474),
    ],
)
def test_published_parameters_are_met(name: str, pixels: int, published: int) -> None:
    assert parameters(exported(name, pixels)) == published


def test_macs_are_the_operations_without_anything_added() -> None:
    network = exported("dncnn", 128)
    assert operations(network, count.TRUE_MACS) == macs(network) == sum(macs_by_node(network).values())
    assert operations(network, count.TWO_PER_MAC) == 2 * macs(network)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_counted_on_its_input_grid_unless_asked_for(groups: int) -> None:
    module = nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=groups)
    network = export_module(module, torch.randn(1, 4, 8, 8))
    assert macs(network) == 8 * 8 * 4 * 6 * 4 * 4 // groups
    assert operations(network, count.GAN_COMPRESSION) == 4 * macs(network)


def test_clip_has_no_parameters_and_norms_can_be_left_out() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.InstanceNorm2d(8, affine=True)
    )
    network = export_module(module, torch.randn(1, 3, 4, 4))
    assert parameters(network) == 3 * 8 + 2 * 8 + 2 * 8
    assert parameters(network, norms=False) == 3 * 8
    assert operations(network, count.DHP_RESTORATION) == 16 * (3 * 8 + 2 * 8 + 8 + 2 * 8)


def test_attention_products_count_too() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2)

    assert macs(export_module(Scores(), torch.randn(2, 5, 7))) == 2 * 5 * 5 * 7


def test_memory_is_that_of_the_tensors_alive_together() -> None:
    network = export_module(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), torch.randn(1, 3, 4, 4))
    assert peak_activation_bytes(network) == 4 * (8 + 8) * 16
    assert weight_bytes(network) == 4 * (24 + 8)
