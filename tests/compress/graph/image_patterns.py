"""Small modules for the tests: one per pattern of coupled channels in image networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (2, 3, 8, 8)


def conv(inner: int, outer: int, size: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, size, padding=size // 2, groups=groups)


class Residual(nn.Module):
    """Two residual joins, a BatchNorm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.b = conv(16, 16)
        self.n = nn.BatchNorm2d(16)
        self.c = conv(16, 16)
        self.f = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = functional.relu(x + self.n(self.b(functional.relu(x))))
        x = x + self.c(x)
        return self.f(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenations of concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(8, 6)
        self.c = conv(14, 4)
        self.d = conv(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a.relu())
        ab = torch.cat([a, b], 1)
        c = self.c(ab)
        return self.d(torch.cat([ab, c], 1).sigmoid())


class SplitChunk(nn.Module):
    """chunk and uneven split, one part used without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.b = conv(8, 8)
        self.c = conv(6, 4)
        self.d = conv(8 + 4 + 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        a, b = x.chunk(2, 1)
        c, d = b.split([6, 2], 1)
        return self.d(torch.cat([self.b(a), self.c(c), d], 1))


class Depthwise(nn.Module):
    """Depthwise convolutions, one with a multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(8, 8, groups=8)
        self.n = nn.BatchNorm2d(8)
        self.c = conv(8, 16, groups=8)
        self.d = conv(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(functional.relu6(self.c(functional.relu6(self.n(self.b(functional.relu6(self.a(x))))))))


class Grouped(nn.Module):
    """A grouped convolution between dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.b = conv(16, 24, groups=4)
        self.n = nn.BatchNorm2d(24)
        self.c = conv(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(functional.relu(self.n(self.b(functional.relu(self.a(x))))))


class Transposed(nn.Module):
    """Transposed convolutions: dense, grouped, depthwise, depthwise with a multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = nn.ConvTranspose2d(8, 12, 4, 2, 1)
        self.c = nn.ConvTranspose2d(12, 12, 4, 2, 1, groups=3)
        self.d = nn.ConvTranspose2d(12, 12, 3, groups=12)
        self.e = nn.ConvTranspose2d(12, 24, 3, groups=12)
        self.f = conv(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.e(self.d(self.c(functional.relu(self.b(self.a(x)))))))


class TransposedGroups(nn.Module):
    """Groups of a transposed convolution that must stay equally wide, and groups that vanish with a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 4)
        self.b = nn.ConvTranspose2d(4, 4, 3, groups=2)
        self.c = conv(4, 8, groups=4)
        self.d = nn.ConvTranspose2d(8, 8, 3, groups=4)
        self.e = conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.e(self.d(self.c(self.b(self.a(x)))))


class ShuffleV1(nn.Module):
    """Grouped convolutions with a hand-written channel shuffle, and a residual."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.a = conv(3, width)
        self.b = nn.Conv2d(width, width, 1, groups=3)
        self.c = conv(width, width, groups=width)
        self.d = nn.Conv2d(width, width, 1, groups=3)
        self.e = conv(width, 3)
        self.sh = nn.ChannelShuffle(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x).relu()
        n, c, h, w = y.shape
        y = y.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.e(x + self.d(self.c(y)))


class ShuffleUneven(ShuffleV1):
    """A shuffle that deals some columns out to two groups of the next convolution."""

    def __init__(self) -> None:
        super().__init__(24)


class ShuffleV2(nn.Module):
    """Channel split and shuffle, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.b = nn.Conv2d(8, 8, 1)
        self.c = conv(8, 8, groups=8)
        self.d = nn.Conv2d(8, 8, 1)
        self.b2 = nn.Conv2d(8, 8, 1)
        self.e = conv(16, 3)

    def sh(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        p, q = x.chunk(2, 1)
        x = self.sh(torch.cat([p, self.d(self.c(self.b(q).relu())).relu()], 1))
        p, q = x.chunk(2, 1)
        x = self.sh(torch.cat([p, self.b2(q)], 1))
        return self.e(x)


class PixelShuffleOp(nn.Module):
    """nn.PixelShuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.p = nn.PixelShuffle(2)
        self.b = conv(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.p(self.a(x)))


class PixelShuffleHand(nn.Module):
    """A hand-written pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.b = conv(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        n, c, h, w = x.shape
        return self.b(x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w))


class PixelUnshuffle(nn.Module):
    """nn.PixelUnshuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.p = nn.PixelUnshuffle(2)
        self.b = conv(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.p(self.a(x)))


class SpaceToDepthHand(nn.Module):
    """A hand-written space-to-depth with another channel order."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.b = conv(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        n, c, h, w = x.shape
        return self.b(x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2))


class FlattenLinear(nn.Module):
    """Flatten into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.b = nn.Linear(6 * 64, 10)
        self.c = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(functional.relu(self.b(self.a(x).flatten(1))))


class PermuteFlatten(nn.Module):
    """Channels last, then flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.b = nn.Linear(6 * 64, 10)
        self.c = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(functional.relu(self.b(self.a(x).permute(0, 2, 3, 1).flatten(1))))


class SqueezeExcite(nn.Module):
    """Squeeze and excitation, with convolutions and with linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.r = nn.Conv2d(16, 4, 1)
        self.e = nn.Conv2d(4, 16, 1)
        self.l1 = nn.Linear(16, 4)
        self.l2 = nn.Linear(4, 16)
        self.b = conv(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        g = self.e(functional.relu(self.r(functional.adaptive_avg_pool2d(x, 1)))).sigmoid()
        x = x * g
        h = self.l2(self.l1(x.mean((2, 3))).relu()).sigmoid()
        return self.b(x * h[:, :, None, None].expand_as(x))


class LayerScale(nn.Module):
    """A scale and an offset per channel, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.g = nn.Parameter(torch.rand(8, 1, 1))
        self.b = conv(8, 8)
        self.c = conv(8, 3)
        self.pr = nn.PReLU(8)
        self.register_buffer("off", torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pr(self.a(x))
        return self.c(x + self.g * self.b(x) + self.off)


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(8, 8)
        self.c = conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.b(self.b(x).relu()))


class Gated(nn.Module):
    """Gated linear units, two spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.b = conv(8, 12)
        self.c = conv(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.glu(self.a(x), 1)
        a, b = self.b(x).chunk(2, 1)
        return self.c(a * functional.silu(b))


class ResizeFlip(nn.Module):
    """Resizing; channels flipped and rolled."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(8, 8)
        self.c = conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(self.a(x), scale_factor=2)
        x = functional.interpolate(self.b(x.flip(1)), size=(11, 13), mode="bilinear")
        return self.c(x.roll(3, 1))


class PadChannels(nn.Module):
    """Channels padded to meet a wider tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.b = conv(6, 10)
        self.c = conv(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.b(x) + functional.pad(x, (0, 0, 0, 0, 2, 2)))


class IndexPerm(nn.Module):
    """Channels permuted by a constant index."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.b = conv(6, 3)
        self.register_buffer("p", torch.tensor([3, 1, 5, 0, 2, 4]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[:, self.p])


class IndexGrid(nn.Module):
    """Some channels laid out in a grid by a constant index, and pooling that torch writes as one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 9)
        self.b = conv(6, 8)
        self.c = nn.Linear(8, 3)
        self.register_buffer("p", torch.tensor([[3, 1, 5], [0, 8, 4]]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)[:, self.p].flatten(1, 2))
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last in memory
        return self.c(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Repeat(nn.Module):
    """Channels repeated, and one channel expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.b = conv(12, 3)
        self.d = conv(3, 1)
        self.e = conv(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).repeat(1, 2, 1, 1)) + self.e(self.d(x).expand(-1, 4, -1, -1))


class Conv1d(nn.Module):
    """1-d convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 8, 3)
        self.n = nn.BatchNorm1d(8)
        self.b = nn.ConvTranspose1d(8, 6, 3)
        self.c = nn.Conv1d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.n(self.a(x)).relu()))


class Conv3d(nn.Module):
    """3-d convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(3, 8, 3, padding=1)
        self.n = nn.BatchNorm3d(8)
        self.b = nn.Conv3d(8, 8, 3, groups=8)
        self.c = nn.Conv3d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(functional.max_pool3d(self.n(self.a(x)), 2, 1)))


class TwoInOut(nn.Module):
    """Two inputs, three outputs in a nest."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(3, 8)
        self.c = conv(8, 3)
        self.d = conv(8, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, object]:
        z = self.a(x) + self.b(y)
        return {"one": self.c(z), "two": (self.d(z), self.d(z.relu()))}


class ChannelMean(nn.Module):
    """Mean, maximum, norm and softmax over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(2, 1, 7)
        self.c = conv(8, 3)
        self.d = conv(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        g = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        x = x * self.b(g).sigmoid()
        x = functional.normalize(x, dim=1)
        return self.c(x) + self.d(x).softmax(1).sum(1, keepdim=True) * 0 + self.d(x).softmax(1)[:, :3]


class BlurPool(nn.Module):
    """A fixed filter expanded to every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(8, 3)
        self.register_buffer("f", torch.rand(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(
            functional.conv2d(
                functional.pad(x, (1, 1, 1, 1), mode="reflect"), self.f.expand(8, -1, -1, -1), stride=2, groups=8
            )
        )
