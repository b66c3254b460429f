"""The residual blocks of ResNet (He et al., 2016, arXiv 1512.03385), with squeeze-and-excitation where asked for.

A block whose input and output differ in shape has a 1x1 convolution with BatchNorm as its shortcut ("option B" for
ImageNet; used for CIFAR too, as in the DHP paper's code). A bottleneck strides in its 3x3 convolution.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate that is computed from the means of all (Hu et al., 2018, arXiv 1709.01507).

    Args:
        channels: Channels of the feature map.
        reduction: How many times fewer the hidden layer has; the linear layers have no bias.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Scale a feature map."""
        gate = self.excite(functional.relu(self.squeeze(x.mean(dim=(2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return a 1x1 convolution with BatchNorm; None where the shapes agree."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions.

    Args:
        in_channels: Channels of the input.
        inner: Channels inside; the output has as many.
        stride: Of the first convolution.
        reduction: Of squeeze-and-excitation; 0 for none.
    """

    expansion = 1

    def __init__(self, in_channels: int, inner: int, stride: int = 1, reduction: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.se = SqueezeExcite(inner, reduction) if reduction else None
        self.downsample = shortcut(in_channels, inner, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Map a feature map."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = y if self.se is None else self.se(y)
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions.

    Args:
        in_channels: Channels of the input.
        inner: Channels inside; the output has four times as many.
        stride: Of the 3x3 convolution.
        reduction: Of squeeze-and-excitation; 0 for none.
    """

    expansion = 4

    def __init__(self, in_channels: int, inner: int, stride: int = 1, reduction: int = 0) -> None:
        super().__init__()
        outer = inner * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.se = SqueezeExcite(outer, reduction) if reduction else None
        self.downsample = shortcut(in_channels, outer, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Map a feature map."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y = y if self.se is None else self.se(y)
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))
