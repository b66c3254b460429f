"""Small residual networks, one per kind of block that deployed networks hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph

IMAGE, TOKENS = (2, 3, 9, 8), (2, 5, 6)


def convolution(inner: int, outer: int, kernel: int = 3, **options: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, kernel, padding=kernel // 2, **options), nn.BatchNorm2d(outer))


class Basic(nn.Module):
    """ResNet's block; its skip connection has a projection where widths differ."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = convolution(inner, outer, 1, stride=stride) if inner != outer else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.middle, self.expand = convolution(width, 4, 1), convolution(4, 4), convolution(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.expand(functional.relu(self.middle(functional.relu(self.reduce(x))))))


class PreActivation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, 5, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(5), nn.Conv2d(5, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.norm2(self.conv1(functional.relu(self.norm1(x))))))


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            convolution(width, 10, 1), nn.ReLU6(), convolution(10, 10, groups=10), nn.ReLU6(), convolution(10, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(functional.relu(self.squeeze(pooled))))


class Excited(nn.Module):
    """A bottleneck with squeeze and excitation on its middle and on its result."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.middle = convolution(width, 6, 1), SqueezeExcite(6)
        self.expand, self.last = convolution(6, width, 1), SqueezeExcite(width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.last(self.expand(self.middle(functional.relu(self.reduce(x))))))


class ConvNext(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 12), nn.Linear(12, width)
        self.scale, self.drop = nn.Parameter(torch.rand(width)), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.drop((self.scale * self.narrow(functional.gelu(self.wide(inner)))).permute(0, 3, 1, 2))


class Split(nn.Module):
    """A branch of two paths whose results are concatenated: no single set decides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two, self.last = convolution(width, 4), convolution(width, 3, 1), nn.Conv2d(7, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(functional.relu(torch.cat([self.one(x), self.two(x)], 1)))


class Nested(nn.Module):
    """A residual branch around residual branches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Conv2d(width, 4, 1), Inverted(4), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.inner(self.enter(x)))


class Encoder(nn.Module):
    """A transformer's attention and its two-layer network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm1(x)
        x = x + self.attention(inner, inner, inner, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ClassToken(nn.Module):
    """A transformer that reads its answer off a token of its own, which sees the others by attention only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token, self.encoder = nn.Parameter(torch.rand(1, 1, width)), Encoder(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))[:, 0]


class Leaking(Basic):
    """The branch's inner tensor is used outside it too."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(inner)) + x) * inner.mean()


class Padded(nn.Module):
    """A padded layer after one with a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, 5, 1), nn.Conv2d(5, 4, 1)
        self.three = nn.Conv2d(4, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.three(self.two(functional.relu(self.one(x))))


def image_network(*stages: nn.Module) -> nn.Module:
    return nn.Sequential(convolution(3, 6), nn.ReLU(), *stages, nn.Conv2d(6, 7, 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "basic": (lambda: image_network(Basic(6, 6), Basic(6, 6), Basic(6, 6)), IMAGE),
    "projection": (lambda: nn.Sequential(image_network(Basic(6, 6)), Basic(7, 8, 2), nn.Conv2d(8, 4, 1)), IMAGE),
    "bottleneck": (lambda: image_network(Bottleneck(6), Bottleneck(6)), IMAGE),
    "pre-activation": (lambda: image_network(PreActivation(6), PreActivation(6), PreActivation(6)), IMAGE),
    "inverted": (lambda: nn.Sequential(convolution(3, 6), Inverted(6), Inverted(6), nn.Conv2d(6, 7, 1)), IMAGE),
    "excited": (lambda: image_network(Excited(6), Excited(6)), IMAGE),
    "convnext": (lambda: image_network(ConvNext(6), ConvNext(6)), IMAGE),
    "split": (lambda: image_network(Split(6), Basic(6, 6)), IMAGE),
    "nested": (lambda: image_network(Nested(6), Inverted(6)), IMAGE),
    "encoder": (lambda: nn.Sequential(nn.Linear(6, 8), Encoder(8), Encoder(8), nn.Linear(8, 3)), TOKENS),
    "leaking": (lambda: image_network(Leaking(6, 6)), IMAGE),
    "padded": (lambda: image_network(Padded(6)), IMAGE),
}


@cache
def build(name: str) -> nn.Module:
    """Build a network with random scales, offsets and statistics: ones and zeros would hide mistakes."""
    torch.manual_seed(0)
    return lively_(NETWORKS[name][0]())


def lively_(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for part in module.modules():
        if isinstance(getattr(part, "running_mean", None), Tensor):
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module.eval()


@cache
def graph_of(name: str) -> ChannelGraph:
    return analyse(export_module(build(name), torch.randn(NETWORKS[name][1])))
