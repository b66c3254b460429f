"""Small networks whose channels are coupled in the ways methods must cope with, and a task of noise to run them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.models.unet import UNet
from compress.report.results import Metric
from compress.tasks.base import Batch

SIZE = 16


class Block(nn.Module):
    """A basic residual block; a 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        changes = in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def residual() -> nn.Module:
    """Two stages of residual blocks, whose trunks several layers make together, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), Block(12, 12), Block(12, 12), Block(12, 16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def upscaler() -> nn.Module:
    """A pixel shuffle, whose channels are four of the convolution's, and a depthwise convolution with ReLU6."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip


def flat() -> nn.Module:
    """A convolution whose positions a linear layer tells apart."""
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, stride=4, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 24), nn.ReLU(),
        nn.Linear(24, 4),
    )  # fmt: skip


def unet() -> nn.Module:
    """A U-Net of three levels, whose skips are concatenated."""
    return UNet(8, depth=3)


NETWORKS = {"residual": residual, "upscaler": upscaler, "flat": flat, "unet": unet}


def built(name: str) -> tuple[nn.Module, ChannelGraph]:
    """Build a network with normalisations that do something, and find its channels."""
    torch.manual_seed(0)
    module = NETWORKS[name]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.5)
    return module.eval(), _graph(name)


@functools.cache
def _graph(name: str) -> ChannelGraph:
    return analyse(export_module(NETWORKS[name](), torch.zeros(1, 3, SIZE, SIZE)))


class Noise:
    """Noise to map to zero."""

    description = "noise"
    metric = Metric("error", "", higher_is_better=False)

    def batch(self, step: int, size: int) -> Batch:
        generator = torch.Generator().manual_seed(step + 10_000)
        return Batch(torch.randn(size, 3, SIZE, SIZE, generator=generator), torch.zeros(size))

    def held_out(self) -> Batch:
        return self.batch(-1000, 16)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().mean()

    def quality(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().flatten(1).mean(1)
