"""What a training step draws at random, as a function of the step alone: which samples, which crops, which flips."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor
from torch.nn import functional

STEP_STRIDE = 1_000_003  # a prime: batches of two seeds never walk in step
ORIENTATIONS = 8  # four quarter turns, each mirrored or not


def step_generator(seed: int, step: int) -> Generator:
    """Return the source of randomness of a step; a resumed run draws what the killed one would have drawn."""
    return torch.Generator().manual_seed(seed * STEP_STRIDE + step)


def draw(below: int, generator: Generator) -> int:
    """Draw a whole number from 0 up to, without, `below`."""
    return int(torch.randint(0, below, (), generator=generator))


def shuffled(count: int, most: int = 0) -> list[int]:
    """Return numbers below `count` in an order that is always the same; the first `most` of them, if that is not 0."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return order[:most] if most else order


def orient(picture: Shaped[Tensor, "c s s"], orientation: int) -> Shaped[Tensor, "c s s"]:
    """Turn and mirror a square picture.

    Args:
        picture: The picture.
        orientation: 0 to 7; 0 leaves it as it is.
    """
    turned = torch.rot90(picture, orientation % 4, (1, 2))
    return turned.flip(2) if orientation >= 4 else turned


def shift_and_flip(pictures: Shaped[Tensor, "n c s s"], most: int, generator: Generator) -> Shaped[Tensor, "n c s s"]:
    """Shift each square picture by up to `most` pixels, filled with black, and mirror half of them left to right."""
    count, channels, size, _ = pictures.shape
    padded = functional.pad(pictures, (most, most, most, most))
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator).bool()
    along = torch.arange(size)
    rows = offsets[0] + along
    columns = offsets[1] + torch.where(mirrored, along.flip(0), along)
    cut = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, size + 2 * most))
    return cut.gather(3, columns[:, None, None, :].expand(-1, channels, size, -1))
