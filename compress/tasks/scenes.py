"""Procedurally drawn scenes: a segmentation mask and the image it stands for, without any data to download.

A scene is a handful of overlapping shapes of ten classes. The image is a deterministic function of the mask alone:
every class has its own colour and its own texture, edges are lit from the upper left, tall things throw a shadow to
the lower right, and the light over the whole scene is warm or cold by how much of it is lamp or snow. So the error
of a network on it has no floor that noise would set, local texture and global context both count, and a wide
network is measurably better than a narrow one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

CLASSES = 10
SHAPES = 9
CHUNK = 64  # scenes drawn at once: large enough for vector work, small enough for the cache

# One colour a class, as the mask shows it: the corners and edge centres of the RGB cube, far apart from each other.
MASK_COLOURS = torch.tensor(
    [
        [-1.0, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1],
        [1, -1, 1], [-1, 1, 1], [1, 1, 1], [0, 0, -1], [0, 0, 1],
    ]
)  # fmt: skip
# One colour a class, as the image shows it.
IMAGE_COLOURS = torch.tensor(
    [
        [0.45, 0.60, 0.80], [0.62, 0.30, 0.22], [0.30, 0.50, 0.22], [0.18, 0.32, 0.52], [0.85, 0.70, 0.28],
        [0.55, 0.42, 0.58], [0.38, 0.62, 0.58], [0.82, 0.84, 0.88], [0.48, 0.42, 0.32], [0.30, 0.28, 0.36],
    ]
)  # fmt: skip
# The same by night: dark and blue, but for the lamps, the snow and what they light.
NIGHT_COLOURS = torch.tensor(
    [
        [0.05, 0.08, 0.24], [0.30, 0.10, 0.18], [0.06, 0.20, 0.22], [0.04, 0.10, 0.34], [0.98, 0.86, 0.40],
        [0.36, 0.12, 0.44], [0.08, 0.36, 0.46], [0.46, 0.52, 0.74], [0.20, 0.14, 0.16], [0.10, 0.06, 0.26],
    ]
)  # fmt: skip
LAMP, SNOW = 4, 7  # the classes whose area sets the light of the scene
HEIGHTS = torch.tensor([0.0, 0.8, 0.5, 0.1, 0.3, 1.0, 0.2, 0.4, 0.6, 0.9])  # who throws a shadow on whom


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes as bytes, 0 to 255 for -1 to 1: masks and images, both [n, 3, size, size]."""

    masks: UInt8[Tensor, "n 3 h w"]
    images: UInt8[Tensor, "n 3 h w"]

    def __len__(self) -> int:
        return len(self.masks)


def draw_scenes(count: int, *, size: int = 128, seed: int = 0) -> Scenes:
    """Draw `count` scenes of `size` x `size` pixels; the same arguments give the same scenes on every machine.

    About 3 ms a scene of 128 x 128 on one core.
    """
    generator = np.random.default_rng(seed)
    masks, images = [], []
    for start in range(0, count, CHUNK):
        labels = _draw_labels(generator, min(CHUNK, count - start), size)
        masks.append(_to_bytes(MASK_COLOURS[labels].permute(0, 3, 1, 2)))
        images.append(_to_bytes(render(labels)))
    return Scenes(torch.cat(masks), torch.cat(images))


def draw_days_and_nights(count: int, *, size: int = 128, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw `count` images by day and the same scenes by night, as bytes, [n, 3, size, size] each."""
    generator = np.random.default_rng(seed)
    days, nights = [], []
    for start in range(0, count, CHUNK):
        labels = _draw_labels(generator, min(CHUNK, count - start), size)
        days.append(_to_bytes(render(labels)))
        nights.append(_to_bytes(render(labels, NIGHT_COLOURS)))
    return torch.cat(days), torch.cat(nights)


def from_bytes(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Turn bytes into numbers from -1 to 1."""
    return images.float() / 127.5 - 1


def _to_bytes(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _draw_labels(generator: np.random.Generator, count: int, size: int) -> Int[Tensor, "n h w"]:
    """Lay shapes over a background of two classes that meet at a wavy horizon."""

    def uniform(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, (count, 1, 1)).astype(np.float32)

    def any_class() -> np.ndarray:
        return generator.integers(0, CLASSES, (count, 1, 1))

    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    horizon = uniform(0.3, 0.7) + uniform(0, 0.08) * np.sin(x * uniform(4, 18) + uniform(0, math.tau))
    labels = np.where(y < horizon, any_class(), any_class())
    for _ in range(SHAPES):
        angle = uniform(0, math.pi)
        u, v = x - uniform(0, 1), y - uniform(0, 1)
        u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
        u, v = np.abs(u) / uniform(0.06, 0.26), np.abs(v) / uniform(0.06, 0.26)
        kind = generator.integers(0, 4, (count, 1, 1))
        inside = np.select(
            [kind == 0, kind == 1, kind == 2],
            [u * u + v * v < 1, np.maximum(u, v) < 0.85, u + v < 1.1],
            np.abs(u * u + v * v - 0.7) < 0.35,
        )
        labels = np.where(inside, any_class(), labels)
    return torch.from_numpy(labels)


def render(labels: Int[Tensor, "n h w"], colours: Float[Tensor, "k 3"] = IMAGE_COLOURS) -> Float[Tensor, "n 3 h w"]:
    """Compute the image, in [-1, 1], that a map of class numbers stands for, in one colour a class."""
    classes = functional.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float()
    own = labels[:, None]
    near = functional.avg_pool2d(classes, 7, stride=1, padding=3, count_include_pad=False)
    lower_right = functional.pad(near, (0, 3, 0, 3), mode="replicate")[:, :, 3:, 3:].gather(1, own)
    upper_left = functional.pad(near, (3, 0, 3, 0), mode="replicate")[:, :, :-3, :-3].gather(1, own)
    light = 0.55 * (lower_right - upper_left)

    height = HEIGHTS[labels][:, None]
    above = functional.pad(height, (9, 0, 9, 0), mode="replicate")[:, :, :-9, :-9]
    shadow = functional.avg_pool2d((above - height).clamp(min=0), 5, stride=1, padding=2)

    share = classes.mean(dim=(2, 3))
    warmth = 1.2 * (share[:, LAMP] - share[:, SNOW])[:, None, None, None]
    tint = 1 + warmth * torch.tensor([0.5, 0.1, -0.5])[:, None, None]

    colour = colours[labels].permute(0, 3, 1, 2)
    texture = _textures(labels.shape[-1]).expand(len(labels), -1, -1, -1).gather(1, own)
    inner = near.gather(1, own)  # a texture fades towards the edge of its shape
    image = colour * tint * (1 + light) * (1 - 0.55 * shadow) + 0.22 * texture * inner
    return (image * 2 - 1).clamp(-1, 1)


def _textures(size: int) -> Float[Tensor, "1 k h w"]:
    """One pattern a class, in [-1, 1]: stripes, checks, bricks, dots, waves and weaves of periods 4 to 16 pixels."""
    y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")

    def wave(dx: float, dy: float) -> Tensor:
        return torch.sin(math.tau * (x * dx + y * dy))

    bricks = torch.where(((y % 8) < 1) | (((x + 8 * ((y // 8) % 2)) % 16) < 1), -1.0, 0.4)
    dots = torch.where(((x % 8) - 3.5) ** 2 + ((y % 8) - 3.5) ** 2 < 5, 1.0, -0.3)
    patterns = [
        0.3 * wave(0, 1 / 16), bricks, wave(1 / 8, 1 / 8) * wave(1 / 8, -1 / 8), wave(1 / 16 * 0, 1 / 8), dots,
        torch.sign(wave(1 / 16, 0) * wave(0, 1 / 16)), wave(1 / 8, 1 / 16), 0.4 * wave(1 / 4, 1 / 4), wave(1 / 8, 0),
        torch.where((x + y) % 8 < 2, 1.0, -0.4),
    ]  # fmt: skip
    return torch.stack(patterns)[None]
