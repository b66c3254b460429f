"""Pre-activation ResNet for CIFAR (He et al., 2016, arXiv 1603.05027), as DCP and Network Slimming prune it.

A shortcut that changes the shape is a 1x1 convolution without a norm, as in the code of those papers. In DCP's the
shortcut of the first block of each stage starts after the block's first norm and ReLU, in Network Slimming's all start
at the block's input. Convolutions start after He et al. (2015). Network Slimming starts the scales
of norms from 0.5; that belongs to the method, not to the network.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from compress.models.initialise import he_
from compress.models.resnet import blocks_per_stage


class PreBlock(nn.Module):
    """Norm, ReLU and convolution, two or three times, beside a shortcut.

    Args:
        in_channels: Channels of the input.
        inner: Channels inside.
        stride: Of the (first) 3x3 convolution.
        bottleneck: Whether the convolutions are 1x1, 3x3 and 1x1 to four times as many channels, or two of 3x3.
        late_shortcut: Whether the shortcut starts after the first norm and ReLU.
    """

    def __init__(
        self, in_channels: int, inner: int, stride: int, *, bottleneck: bool, late_shortcut: bool = False
    ) -> None:
        super().__init__()
        self.late_shortcut = late_shortcut
        outer = inner * 4 if bottleneck else inner
        shapes = (
            ((in_channels, inner, 1, 1), (inner, inner, 3, stride), (inner, outer, 1, 1))
            if bottleneck
            else ((in_channels, inner, 3, stride), (inner, outer, 3, 1))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(before) for before, *_ in shapes)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False) for before, after, kernel, step in shapes
        )
        same = stride == 1 and in_channels == outer
        self.shortcut = None if same else nn.Conv2d(in_channels, outer, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Map a feature map."""
        first = functional.relu(self.norms[0](x))
        y = self.convs[0](first)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            y = conv(functional.relu(norm(y)))
        beside = first if self.late_shortcut else x
        return y + (beside if self.shortcut is None else self.shortcut(beside))


class PreResNet(nn.Module):
    """Classify images of about 32x32 pixels.

    Args:
        depth: 6 n + 2 for basic blocks, 9 n + 2 for bottlenecks.
        bottleneck: Whether blocks are bottlenecks.
        width: Channels of the first layer.
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        late_shortcuts: Whether the shortcut of each stage's first block starts after its first norm, as in DCP.

    Raises:
        BadInput: No network of these blocks has that depth.
    """

    def __init__(
        self,
        depth: int = 56,
        bottleneck: bool = False,
        width: int = 16,
        classes: int = 10,
        in_channels: int = 3,
        late_shortcuts: bool = False,
    ) -> None:
        super().__init__()
        count = blocks_per_stage(depth, bottleneck=bottleneck)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        blocks, before = [], width
        for stage in range(3):
            inner = width * 2**stage
            for position in range(count):
                stride, late = 2 if stage and not position else 1, late_shortcuts and not position
                blocks.append(PreBlock(before, inner, stride, bottleneck=bottleneck, late_shortcut=late))
                before = inner * 4 if bottleneck else inner
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(before)
        self.classifier = nn.Linear(before, classes)
        he_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        x = functional.relu(self.norm(self.blocks(self.stem(image))))
        return self.classifier(x.mean(dim=(2, 3)))
