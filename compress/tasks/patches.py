"""Square patches of pictures of any size: random ones to train on, fixed ones to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor

from compress.tasks.draws import ORIENTATIONS, orient
from compress.tasks.pictures import Picture, find_folder
from device_profiles.errors import BadInput

TRAIN_FOLDERS = ("DIV2K_train_HR", "train")
HELD_OUT_FOLDERS = ("DIV2K_valid_HR", "val", "valid", "test")


@dataclass(frozen=True)
class Place:
    """Where a patch is cut, and how it is turned.

    Attributes:
        picture: The number of the picture.
        down: From 0 to below 1: how far down the patch lies, of what the picture allows.
        right: The same to the right.
        orientation: 0 to 7, as `orient` counts.
    """

    picture: int
    down: float
    right: float
    orientation: int = 0


def random_places(pictures: int, count: int, generator: Generator) -> list[Place]:
    """Draw places in random pictures, in random orientations."""
    chosen = torch.randint(0, pictures, (count,), generator=generator).tolist()
    shares = torch.rand((count, 2), generator=generator).tolist()
    orientations = torch.randint(0, ORIENTATIONS, (count,), generator=generator).tolist()
    return [Place(*each) for each in zip(chosen, *zip(*shares, strict=True), orientations, strict=True)]


def fixed_places(pictures: int, count: int) -> list[Place]:
    """Return places that are always the same, in each picture in turn."""
    shares = torch.rand((count, 2), generator=torch.Generator().manual_seed(0)).tolist()
    return [Place(number % pictures, down, right) for number, (down, right) in enumerate(shares)]


def cut(picture: Picture, place: Place, size: int, grid: int = 1) -> UInt8[Tensor, "c s s"]:
    """Cut a patch.

    Args:
        picture: At least as large as the patch.
        place: Where, and how it is turned.
        size: Pixels a side.
        grid: The patch begins at a multiple of so many pixels.
    """
    top = int(place.down * ((picture.shape[1] - size) // grid + 1)) * grid
    left = int(place.right * ((picture.shape[2] - size) // grid + 1)) * grid
    return orient(picture[:, top : top + size, left : left + size], place.orientation)


@dataclass(frozen=True)
class Folders:
    """Where the pictures to train on and those to judge by lie."""

    train: Path
    held_out: Path


def find_folders(folder: Path, held_out_folder: Path | None) -> Folders:
    """Find both folders of a set.

    Args:
        folder: Holds the pictures to train on if there is a `held_out_folder`; else the folders `DIV2K_train_HR` or
            `train`, and `DIV2K_valid_HR`, `val`, `valid` or `test`.
        held_out_folder: Holds the pictures to judge by.

    Raises:
        BadInput: There are no such folders, or both are the same.
    """
    if held_out_folder is None:
        return Folders(find_folder(folder, TRAIN_FOLDERS), find_folder(folder, HELD_OUT_FOLDERS))
    if folder.resolve() == held_out_folder.resolve():
        raise BadInput(f"folder and held_out_folder are both {folder}; judge by pictures that no training step sees")
    return Folders(folder, held_out_folder)
