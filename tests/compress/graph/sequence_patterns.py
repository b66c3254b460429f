"""Small modules for the tests: one per pattern of coupled channels in attention and recurrent networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Einsum(nn.Module):
    """Projections written as einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 4, 6))
        self.v = nn.Parameter(torch.randn(4, 6, 8))
        self.l = nn.Linear(8, 8)
        self.o = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btd,dhe->bthe", self.l(x), self.w)
        return self.o(torch.einsum("bthe,hed->btd", y.relu(), self.v))


class Attention(nn.Module):
    """nn.MultiheadAttention and a feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 16)
        self.m = nn.MultiheadAttention(16, 4, batch_first=True)
        self.n = nn.LayerNorm(16)
        self.f = nn.Linear(16, 32)
        self.g = nn.Linear(32, 16)
        self.o = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        x = self.n(x + self.m(x, x, x)[0])
        return self.o(x + self.g(functional.gelu(self.f(x))))


class AttentionHand(nn.Module):
    """Fused qkv, a class token, position embeddings and a bias per head."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 16)
        self.qkv = nn.Linear(16, 48)
        self.p = nn.Linear(16, 16)
        self.o = nn.Linear(16, 3)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.pos = nn.Parameter(torch.randn(1, 6, 16))
        self.rel = nn.Parameter(torch.randn(4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        x = torch.cat([self.cls.expand(2, -1, -1), x], 1) + self.pos
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1) * 0.5 + self.rel).softmax(-1)
        y = (a @ v).transpose(1, 2).reshape(n, t, d)
        return self.o((x + self.p(y))[:, 0])


class GroupedQuery(nn.Module):
    """Grouped-query attention."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 16)
        self.q = nn.Linear(16, 16)
        self.k = nn.Linear(16, 8)
        self.v = nn.Linear(16, 8)
        self.p = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        n, t, d = x.shape
        q = self.q(x).view(n, t, 4, 4).transpose(1, 2)
        k = self.k(x).view(n, t, 2, 4).transpose(1, 2)
        v = self.v(x).view(n, t, 2, 4).transpose(1, 2)
        k = k[:, :, None].expand(n, 2, 2, t, 4).reshape(n, 4, t, 4)
        v = v.repeat_interleave(2, 1)
        return self.p(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))


class Rotary(nn.Module):
    """Rotary embeddings: halves of a head meet."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(8, 16)
        self.k = nn.Linear(8, 16)
        self.v = nn.Linear(8, 16)
        self.p = nn.Linear(16, 3)
        self.register_buffer("cos", torch.rand(5, 4))
        self.register_buffer("sin", torch.rand(5, 4))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], 4, 4).transpose(1, 2)

    def turn(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.turn(self.heads(self.q(x))), self.turn(self.heads(self.k(x))), self.heads(self.v(x))
        return self.p(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], 16))


class RotaryPairs(Rotary):
    """Rotary embeddings: neighbours in a head meet."""

    def turn(self, x: Tensor) -> Tensor:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * self.cos + turned * self.sin


class StridedHeads(nn.Module):
    """Every second channel of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Linear(8, 48)
        self.p = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.p(self.v(x).view(*x.shape[:2], 4, 12)[..., ::2].reshape(*x.shape[:2], 24))


class Swin(nn.Module):
    """Shifted windows, a relative position table, patch merging."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 16)
        self.qkv = nn.Linear(16, 48)
        self.p = nn.Linear(16, 16)
        self.n = nn.LayerNorm(16)
        self.o = nn.Linear(64, 3)
        self.t = nn.Parameter(torch.randn(49, 2))
        self.register_buffer("ix", torch.randint(0, 49, (16, 16)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        y = torch.roll(self.n(x), (-2, -2), (1, 2))
        n, h, w, d = y.shape
        y = y.view(n, 2, 4, 2, 4, d).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, d)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        b = self.t[self.ix.view(-1)].view(16, 16, 2).permute(2, 0, 1)
        y = self.p(((q @ k.transpose(-2, -1) + b).softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, d))
        y = y.view(n, 2, 2, 4, 4, d).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, d)
        x = x + torch.roll(y, (2, 2), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.o(x)


class Recurrent(nn.Module):
    """LSTM, both ways and one way, and GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 10)
        self.l = nn.LSTM(10, 12, batch_first=True)
        self.b = nn.LSTM(12, 6, bidirectional=True, batch_first=True)
        self.g = nn.GRU(12, 8, batch_first=True)
        self.o = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.g(self.b(self.l(self.i(x))[0])[0])[0][:, -1])


class LinearAttention(nn.Module):
    """Attention without softmax: the divisor is one more channel of every head, added and cut off again."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Conv2d(3, 8, 3)
        self.qkv = nn.Conv2d(8, 24, 1)
        self.g = nn.Conv2d(24, 24, 1, groups=6)
        self.o = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.qkv(self.i(x))
        n, _, h, w = x.shape
        q, k, v = torch.cat([x, self.g(x)], 1).view(n, 4, 12, h * w).transpose(2, 3).chunk(3, -1)
        v = functional.pad(v, (0, 1), value=1.0)
        y = q.relu() @ (k.relu().transpose(2, 3) @ v)
        y = y[..., :-1] / (y[..., -1:] + 1e-3)
        return self.o(y.transpose(2, 3).reshape(n, 16, h, w))


class TokenMix(nn.Module):
    """Tokens mixed by a convolution that sees one channel at a time, and by one that sees three."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 16)
        self.m = nn.Conv1d(5, 4, 1)
        self.a = nn.Linear(16, 12)
        self.w = nn.Conv1d(4, 1, 3, padding=1)
        self.o = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(self.m(self.i(x)).relu())
        return self.o(y * self.w(y).sigmoid())


class Tokens(nn.Module):
    """Token and position embeddings, the table used again as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(11, 8)
        self.p = nn.Embedding(5, 8)
        self.a = nn.Linear(8, 16)
        self.b = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.e(x) + self.p(torch.arange(5))
        y = y + self.b(functional.gelu(self.a(y)))
        return y @ self.e.weight.T
