"""Networks that are only benchmarked."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, channels, blocks and stride of each stage (table 2 of the paper).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class _InvertedResidual(nn.Module):
    def __init__(self, width_in: int, width_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        expand = _convolution(width_in, inner, 1) if expansion > 1 else []
        project = [nn.Conv2d(inner, width_out, 1, bias=False), nn.BatchNorm2d(width_out)]
        self.body = nn.Sequential(*expand, *_convolution(inner, inner, 3, stride, inner), *project)
        self.skips = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skips else self.body(x)


def mobilenet_v2() -> nn.Module:
    """Build MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) with ReLU in place of ReLU6, for 224x224 images."""
    layers, width = _convolution(3, 32, 3, 2), 32
    for expansion, channels, blocks, stride in STAGES:
        for i in range(blocks):
            layers.append(_InvertedResidual(width, channels, stride if i == 0 else 1, expansion))
            width = channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, *_convolution(width, 1280, 1), *head)


def _convolution(width_in: int, width_out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(width_in, width_out, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return [convolution, nn.BatchNorm2d(width_out), nn.ReLU()]
