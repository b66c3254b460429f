"""Small modules for the tests: normalisations, and weights that are computed from other weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.compress.graph.image_patterns import conv


class Norms(nn.Module):
    """Batch, instance, group, layer and RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.i = nn.InstanceNorm2d(16, affine=True)
        self.b = conv(16, 16)
        self.g = nn.GroupNorm(4, 16)
        self.c = conv(16, 12)
        self.i2 = nn.InstanceNorm2d(12)
        self.l = nn.LayerNorm(12)
        self.rms = nn.RMSNorm(12)
        self.d = nn.Linear(12, 3)
        self.ib = nn.InstanceNorm2d(16, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.g(self.b(self.ib(self.i(self.a(x)).relu()))).relu()
        x = self.i2(self.c(x))
        x = x.flatten(2).transpose(1, 2)
        return self.d(self.rms(self.l(x)))


class StandardisedWeights(nn.Module):
    """Weights standardised by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(8, 12)
        self.c = conv(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        w = self.b.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return self.c(functional.conv2d(x, w, self.b.bias, padding=1))


class BatchStandardisedWeights(nn.Module):
    """Weights standardised by batch_norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.b = conv(8, 12)
        self.c = conv(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        w = self.b.weight
        w = functional.batch_norm(w.reshape(1, 12, -1), None, None, training=True).reshape_as(w)
        return self.c(functional.conv2d(x, w, self.b.bias, padding=1))


class ParametrisedWeights(nn.Module):
    """Parametrised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(conv(3, 8))
        self.b = parametrizations.spectral_norm(conv(8, 12))
        self.d = parametrizations.weight_norm(nn.Linear(12, 6))
        self.c = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.d(self.b(self.a(x).relu()).mean((2, 3))))
