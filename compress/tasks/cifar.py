"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their binary version; the Python version is pickles, never read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from compress.tasks.draws import shuffled
from compress.tasks.labelled import Labelled, Split, Wanted
from device_profiles.errors import BadInput

SIZE = 32
PIXELS = 3 * SIZE * SIZE
LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow makes colours grey


@dataclass(frozen=True)
class Version:
    """How one of the two sets lies in its folder.

    Attributes:
        train: Its files to train on.
        test: Its file to judge by.
        names: Its file with one class name a line.
        label_bytes: Before the pixels of a record; the last of them is the class.
        classes: How many there are.
    """

    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    classes: int


CIFAR_10 = Version(tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "batches.meta.txt", 1, 10)
CIFAR_100 = Version(("train.bin",), "test.bin", "fine_label_names.txt", 2, 100)


def is_cifar(folder: Path) -> bool:
    """Tell whether a folder holds CIFAR.

    Raises:
        BadInput: It holds the Python version.
    """
    if any((folder / name).is_file() for name in ("data_batch_1", "test_batch", "train")):
        raise BadInput(
            f"{folder} holds the Python version of CIFAR, which is pickles and is not read; use the binary version "
            "(cifar-10-binary.tar.gz or cifar-100-binary.tar.gz)"
        )
    return any((folder / version.test).exists() for version in (CIFAR_10, CIFAR_100))


def read_cifar(folder: Path, wanted: Wanted) -> Split:
    """Read the binary version of CIFAR-10, or of CIFAR-100 with its fine classes.

    Raises:
        BadInput: A file is missing, has a wrong length or a class that does not exist; or `wanted.size` is not 32.
    """
    if wanted.size != SIZE:
        raise BadInput(f"size (={wanted.size}) must be {SIZE} for {folder}, CIFAR's own size; change it")
    version = CIFAR_10 if (folder / CIFAR_10.test).exists() else CIFAR_100
    train = [_read_records(folder / name, version) for name in version.train]
    return Split(
        _labelled(np.concatenate(train), wanted, wanted.train),
        _labelled(_read_records(folder / version.test, version), wanted, wanted.held_out),
        _names(folder / version.names, version.classes),
    )


def _read_records(path: Path, version: Version) -> np.ndarray:
    """Return one row a picture: its class, then its pixels."""
    record_bytes = version.label_bytes + PIXELS
    if not path.is_file():
        raise BadInput(f"there is no file {path}; unpack the binary version of CIFAR again")
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) == 0 or len(content) % record_bytes:
        raise BadInput(
            f"the file {path} has {len(content)} bytes, not a multiple of {record_bytes} as records of CIFAR-"
            f"{version.classes} have; unpack the binary version again"
        )
    records = content.reshape(-1, record_bytes)[:, version.label_bytes - 1 :]
    if (highest := int(records[:, 0].max())) >= version.classes:
        raise BadInput(
            f"the file {path} has a picture of class {highest}; there are {version.classes}; unpack it again"
        )
    return records


def _labelled(records: np.ndarray, wanted: Wanted, most: int) -> Labelled:
    chosen = records[shuffled(len(records), most)]
    pictures = torch.from_numpy(chosen[:, 1:].reshape(-1, 3, SIZE, SIZE))
    labels = torch.from_numpy(chosen[:, 0].astype(np.int64))
    return Labelled(pictures if wanted.channels == 3 else _grey(pictures), labels)


def _grey(pictures: UInt8[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 1 h w"]:
    return torch.einsum("nchw,c->nhw", pictures.float(), LUMA).round()[:, None].to(torch.uint8)


def _names(path: Path, classes: int) -> tuple[str, ...]:
    """Read the class names; a set without that file has numbers for names."""
    if not path.exists():
        return tuple(str(number) for number in range(classes))
    return tuple(path.read_text("utf-8").split()[:classes])
