"""Pictures with the number of their class: scikit-learn's digits, and folders of one class each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from compress.tasks.draws import shuffled
from compress.tasks.pictures import Picture, Pictures, find_folder, list_pictures, open_picture, to_tensor
from device_profiles.errors import BadInput

TRAIN_DIGITS = 1200  # of 1797
ANNOTATIONS = "val_annotations.txt"  # Tiny-ImageNet's


@dataclass(frozen=True)
class Labelled:
    """Pictures of one size, and the class of each."""

    pictures: Sequence[Picture]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """What is trained on, what is judged by, and what the classes are called."""

    train: Labelled
    held_out: Labelled
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """The form of the pictures, and how many; 0 is all.

    Attributes:
        size: Pixels a side.
        channels: 3 for colour, 1 for grey.
        train: Pictures to train on.
        held_out: Pictures to judge by.
    """

    size: int
    channels: int
    train: int = 0
    held_out: int = 0


def read_digits(wanted: Wanted) -> Split:
    """Return scikit-learn's 1797 handwritten digits of 8 x 8 pixels, enlarged; 597 of them are held out."""
    found = load_digits()
    order = shuffled(len(found.target))
    images = torch.from_numpy(found.images)[order, None].float() * (255 / 16)
    if wanted.size != images.shape[-1]:
        images = functional.interpolate(images, size=wanted.size, mode="bilinear", align_corners=False)
    pictures = images.round().to(torch.uint8).expand(-1, wanted.channels, -1, -1).contiguous()
    labels = torch.from_numpy(found.target).long()[order]
    train = slice(0, min(wanted.train or TRAIN_DIGITS, TRAIN_DIGITS))
    judged = slice(TRAIN_DIGITS, TRAIN_DIGITS + wanted.held_out if wanted.held_out else None)
    return Split(
        Labelled(pictures[train], labels[train]),
        Labelled(pictures[judged], labels[judged]),
        tuple(str(name) for name in found.target_names),
    )


def read_class_folders(folder: Path, wanted: Wanted) -> Split:
    """Read train/CLASS/*.jpg and val/CLASS/*.jpg, or test instead of val; Tiny-ImageNet's annotated val too.

    Pictures are resized to `size` at their shorter side and cropped at their centre.

    Raises:
        BadInput: A folder is missing or empty, a picture is broken, or the two parts have other classes.
    """
    trained, judged = folder / "train", find_folder(folder, ("val", "test"))
    classes = _classes(find_folder(folder, ("train",)))
    train = {each: list_pictures(trained / each, deep=True) for each in classes}
    if (judged / ANNOTATIONS).exists():
        held_out = _annotated(judged, classes)
    elif classes != (others := _classes(judged)):
        differing = ", ".join(sorted(set(classes) ^ set(others)))
        raise BadInput(f"{trained} and {judged} must hold the same classes; only one of them has {differing}")
    else:
        held_out = {each: list_pictures(judged / each, deep=True) for each in classes}
    return Split(_decoded(train, wanted, wanted.train), _decoded(held_out, wanted, wanted.held_out), classes)


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")))
    if len(names) < 2:
        raise BadInput(f"{folder} holds {len(names)} folders; it needs one for each class, at least two")
    return names


def _annotated(folder: Path, classes: Sequence[str]) -> dict[str, list[Path]]:
    """Sort Tiny-ImageNet's validation pictures by class; a line names the file, its class and a box."""
    found: dict[str, list[Path]] = {each: [] for each in classes}
    for number, line in enumerate((folder / ANNOTATIONS).read_text("utf-8").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in found:
            raise BadInput(f"{folder / ANNOTATIONS}, line {number}: {label!r} is not one of the {len(classes)} classes")
        path = folder / "images" / name
        if not path.exists():
            raise BadInput(f"{folder / ANNOTATIONS}, line {number}: there is no picture {path}; unpack the data again")
        found[label].append(path)
    return found


def _decoded(paths: dict[str, list[Path]], wanted: Wanted, most: int) -> Labelled:
    listed = [(path, number) for number, each in enumerate(paths.values()) for path in each]
    chosen = [listed[index] for index in shuffled(len(listed), most)]
    decode = partial(_square, size=wanted.size, channels=wanted.channels)
    pictures = Pictures([path for path, _ in chosen], decode)
    return Labelled(pictures, torch.tensor([number for _, number in chosen]))


def _square(path: Path, size: int, channels: int) -> Picture:
    return to_tensor(ImageOps.fit(open_picture(path, channels), (size, size), Image.Resampling.BILINEAR))
