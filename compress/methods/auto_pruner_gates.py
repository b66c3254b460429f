"""AutoPruner's gates: what they read, what they remember, and how they act on what a layer makes."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from compress.methods.auto_pruner_taps import Tap
from compress.scores import by_output, transposed_groups

VOTES = 20  # steps whose codes are counted; lambda and alpha are adapted as often
FIRST_CAP = 0.95  # of the channels off
WAITING, LEARNING, FROZEN = 0, 1, 2


class Gate(nn.Module):
    """The gate of one set, with all that a resumed run needs.

    Args:
        channels: How many channels it decides on.
        side: Height and width of the map that it reads.
        alpha: At the start.
        strength: lambda at the start.
    """

    def __init__(self, channels: int, side: tuple[int, int], alpha: float, strength: float) -> None:
        super().__init__()
        self.side = side
        inputs = channels * side[0] * side[1]
        self.matrix = nn.Parameter(torch.randn(channels, inputs) * 10 * math.sqrt(2 / inputs))
        self.phase: Tensor
        self.register_buffer("phase", torch.tensor(WAITING))
        self.register_buffer("mask", torch.ones(channels))
        self.register_buffer("recent", torch.zeros(VOTES, channels))  # u of the last steps
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("bumps", torch.tensor(0.0))
        self.register_buffer("cap", torch.tensor(FIRST_CAP))
        self.register_buffer("strength", torch.tensor(strength))
        self.logits = torch.zeros(channels)  # u and v of the step that is being done
        self.values = torch.ones(channels)

    def read(self, maps: Float[Tensor, "c h w"]) -> Float[Tensor, " c"]:
        """Return v for one batch's mean activations."""
        pooled = functional.adaptive_max_pool2d(maps.float()[None], self.side)[0]
        with torch.autocast(maps.device.type, enabled=False):
            self.logits = self.matrix @ pooled.flatten()
        self.values = torch.sigmoid(self.alpha * self.logits)
        return self.values

    def remember_(self) -> None:
        """Keep this step's u for the vote."""
        self.recent[int(self.steps) % VOTES] = self.logits.detach()
        self.steps += 1

    def votes(self) -> Bool[Tensor, "votes c"]:
        """Return the last binarised codes; none before the first step."""
        return self.recent[: int(self.steps)] > 0

    def code(self) -> Float[Tensor, " c"]:
        """Return the majority's code, of ones before the first step."""
        votes = self.votes()
        return (votes.float().mean(0) > 0.5).float() if len(votes) else torch.ones_like(self.mask)

    def scores(self) -> Float[np.ndarray, " channels"]:
        """Return the mask once it is frozen, or the code, plus the mean gate at alpha = 1, where gates still differ."""
        if int(self.steps) == 0:
            return np.full(len(self.mask), 2.0)
        kept = self.mask if int(self.phase) == FROZEN else self.code()
        mean = self.recent[: int(self.steps)].double().mean(0)
        return (kept.double() + torch.sigmoid(mean)).cpu().numpy()


def mean_maps(output: Tensor, tap: Tap, channels: int) -> Float[Tensor, "c h w"]:
    """Average activations over the batch, and over the positions of each of a set's channels."""
    activated = functional.relu(output) if tap.rectified else output
    maps = activated.float().mean(0).reshape(output.shape[1], *(output.shape[2:] or (1, 1)))
    positions = tap.positions.to(output.device)
    own = positions >= 0
    total = maps.new_zeros(channels, *maps.shape[1:]).index_add(0, positions[own], maps[own])
    return total / torch.bincount(positions[own], minlength=channels)[:, None, None]


def spread(factors: Float[Tensor, " c"], tap: Tap, output: Tensor) -> Tensor:
    """Give every channel of a layer's result its factor, to broadcast over the result."""
    positions = tap.positions.to(output.device)
    placed = torch.where(positions < 0, 1.0, factors[positions.clamp(min=0)])
    return placed.to(output.dtype).view(1, -1, *[1] * (output.ndim - 2))


def zero_(part: nn.Module, tap: Tap, mask: Float[Tensor, " c"]) -> None:
    """Set what makes the masked channels of a layer or normalisation to zero."""
    off = torch.cat([mask, mask.new_ones(1)])[tap.positions.to(mask.device)] == 0  # -1 is the added one
    rows = by_output(part.weight, transposed_groups(part))
    with torch.no_grad():
        rows[off.view(rows.shape[:2])] = 0
        if part.bias is not None:
            part.bias[off] = 0
