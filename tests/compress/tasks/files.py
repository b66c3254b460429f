"""What the tests of the tasks share: small data sets on disk, in the layouts of their fields, and a generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn


def write_picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """Write a smooth random colour picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def truncate(path: Path) -> Path:
    """Cut the second half of a file off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write_cifar(folder: Path, files: dict[str, int], label_bytes: int = 1) -> None:
    """Write files in the binary form of CIFAR, each with so many random records of classes 0, 1, 2, 0, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate(files.items()):
        records = np.random.default_rng(seed).integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
        records[:, :label_bytes] = np.arange(count)[:, None] % 3
        (folder / name).write_bytes(records.tobytes())


class Recolour(nn.Module):
    """The smallest generator: one colour to another, wherever it is."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 3, 1))

    def forward(self, x):
        return torch.tanh(self.layers(x))
