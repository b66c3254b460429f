"""Small data sets on disk for the tests of the readers, in the layouts that their fields use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


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
