"""Picture files as tensors: found, checked and decoded once, before training starts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from device_profiles.errors import BadInput
from runtimes.progress import progress_bar

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
CACHE_SHARE = 0.25  # of the machine's memory, for the pictures of one set
FALLBACK_CACHE_BYTES = 4 << 30  # where the system does not tell how much memory it has
SHOW_FROM = 1000  # pictures; below that, reading them takes no time worth a progress bar
TOGETHER = 64  # pictures decoded between two looks at the memory they took

Picture = UInt8[Tensor, "c h w"]
Decoded = TypeVar("Decoded", Tensor, tuple[Tensor, ...])


def list_pictures(folder: Path, *, deep: bool = False) -> list[Path]:
    """Return the picture files of a folder in the order of their names.

    Args:
        folder: Where to look.
        deep: Whether to look into its folders too.

    Raises:
        BadInput: There is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; check the task's folder")
    found = folder.rglob("*") if deep else folder.iterdir()
    pictures = sorted(each for each in found if each.suffix.lower() in SUFFIXES and not each.name.startswith("."))
    if not pictures:
        raise BadInput(f"the folder {folder} holds no pictures; those end in {', '.join(sorted(SUFFIXES))}")
    return pictures


def find_folder(parent: Path, names: Sequence[str]) -> Path:
    """Return the first folder of these names.

    Raises:
        BadInput: There is none.
    """
    if not parent.is_dir():
        raise BadInput(f"there is no folder {parent}; check the task's folder")
    for name in names:
        if (parent / name).is_dir():
            return parent / name
    raise BadInput(
        f"the folder {parent} has no folder named {' or '.join(names)}; make one, or check the task's folder"
    )


def read_picture(path: Path, channels: int = 3) -> Picture:
    """Decode a file into bytes.

    Grey files become three equal channels; coloured ones become grey by the ITU-R 601 luma; 16 bits become 8 by
    keeping the upper ones; transparency is dropped, and so is a camera's note on how it was held.

    Args:
        path: The file.
        channels: 3 for colour, 1 for grey.

    Raises:
        BadInput: It cannot be read as a picture.
    """
    return to_tensor(open_picture(path, channels))


def open_picture(path: Path, channels: int = 3) -> Image.Image:
    """Decode a file into a Pillow image of mode RGB or L; `read_picture` tells how."""
    try:
        with Image.open(path) as file:
            file.load()
            if file.mode in SIXTEEN_BITS:
                file = _eight_bits(file)  # noqa: PLW2901 -- the decoded picture outlives the file
            if file.mode == "F":
                raise BadInput(f"the picture {path} holds floating-point numbers; save it with 8 or 16 bits")
            return file.convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"the picture {path} cannot be read ({error}); replace or remove it") from error


def to_tensor(image: Image.Image) -> Picture:
    """Turn a Pillow image of mode RGB or L into bytes."""
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_unit(pictures: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn bytes into numbers from 0 to 1."""
    return pictures.float() / 255


def to_bytes(values: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Turn numbers from 0 to 1 into bytes, rounded and clipped."""
    return (values.float() * 255).round().clamp(0, 255).to(torch.uint8)


class Pictures(Sequence[Decoded], Generic[Decoded]):
    """What files decode to, kept in memory as bytes.

    Every file's header is read at once and every file is decoded once, so that a broken one is found before training
    starts. What goes beyond `limit_bytes` is not kept: those files are decoded whenever they are asked for, and a
    broken one is found then.

    Args:
        paths: The files.
        decode: What a file becomes.
        smallest: The least number of pixels that a side must have.
        limit_bytes: What to keep at most; by default a quarter of the machine's memory.

    Raises:
        BadInput: A file is broken or too small.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        decode: Callable[[Path], Decoded],
        smallest: int = 1,
        limit_bytes: int | None = None,
    ) -> None:
        self.paths = list(paths)
        self.names = tuple(str(path) for path in self.paths)
        self._decode = decode
        limit = _cache_bytes() if limit_bytes is None else limit_bytes
        self._kept: list[Decoded] = []
        used = 0
        for path in self._shown(f"check {self.paths[0].parent.name}"):
            _check_header(path, smallest)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
            waiting = iter(self._shown(f"read {self.paths[0].parent.name}"))
            while used < limit and (some := list(itertools.islice(waiting, TOGETHER))):
                self._kept += pool.map(decode, some)
                used += sum(_bytes_of(each) for each in self._kept[-len(some) :])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Decoded:  # type: ignore[override]
        """Return one picture; what was not kept is decoded again."""
        return self._kept[index] if index < len(self._kept) else self._decode(self.paths[index])

    def _shown(self, label: str) -> Sequence[Path]:
        return progress_bar(self.paths, label, "pictures") if len(self.paths) >= SHOW_FROM else self.paths


def _check_header(path: Path, smallest: int) -> None:
    try:
        with Image.open(path) as file:
            width, height = file.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"the picture {path} cannot be read ({error}); replace or remove it") from error
    if min(width, height) < smallest:
        raise BadInput(
            f"the picture {path} is {width} x {height} pixels; {smallest} x {smallest} are needed; remove it or lower "
            "the task's sizes"
        )


def _eight_bits(file: Image.Image) -> Image.Image:
    values = np.asarray(file).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values have more than 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _bytes_of(decoded: Tensor | tuple[Tensor, ...]) -> int:
    return decoded.nbytes if isinstance(decoded, Tensor) else sum(each.nbytes for each in decoded)


def _cache_bytes() -> int:
    if hasattr(os, "sysconf"):
        return int(CACHE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return FALLBACK_CACHE_BYTES


def names_of(pictures: Sequence[Any], chosen: Sequence[int]) -> tuple[str, ...]:
    """Return the names of some pictures' files; pictures that are built in have none."""
    return tuple(pictures.names[index] for index in chosen) if isinstance(pictures, Pictures) else ()
