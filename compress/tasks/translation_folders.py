"""Images of one size from files of any size, as pix2pix and CycleGAN read them: resized, cropped, mirrored.

Training images are enlarged to 286/256 of the size, cropped at random and mirrored at random, as published; held-out
images are resized to the size. Neither keeps the aspect ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Generator, Tensor

from compress.tasks.draws import draw
from compress.tasks.pictures import Picture, open_picture, to_tensor
from device_profiles.errors import BadInput

ENLARGED = 286 / 256


def read_square(path: Path, size: int) -> Picture:
    """Read an image and resize it to a square."""
    return to_tensor(_resized(open_picture(path), size))


def read_side_by_side(path: Path, size: int) -> tuple[Picture, Picture]:
    """Read A and B, which lie side by side in one file, and resize each to a square.

    Raises:
        BadInput: The file's width is odd, or it cannot be read.
    """
    both = open_picture(path)
    width, height = both.size
    if width % 2:
        raise BadInput(
            f"the picture {path} is {width} x {height} pixels; A and B must lie side by side, equally wide; mend it"
        )
    left, right = both.crop((0, 0, width // 2, height)), both.crop((width // 2, 0, width, height))
    return to_tensor(_resized(left, size)), to_tensor(_resized(right, size))


@dataclass(frozen=True)
class Crop:
    """What happens to one training image: where it is cropped to `size`, and whether it is mirrored."""

    top: int
    left: int
    size: int
    mirrored: bool

    def __call__(self, picture: Picture) -> UInt8[Tensor, "c s s"]:
        """Crop and mirror an image."""
        part = picture[:, self.top : self.top + self.size, self.left : self.left + self.size]
        return part.flip(2) if self.mirrored else part


def random_crop(enlarged: int, size: int, generator: Generator, *, mirror: bool) -> Crop:
    """Draw a crop of an image of `enlarged` pixels a side."""
    room = enlarged - size + 1
    return Crop(draw(room, generator), draw(room, generator), size, bool(draw(2, generator)) and mirror)


def enlarged_size(size: int) -> int:
    """Return how large a training image is before it is cropped to `size`."""
    return round(size * ENLARGED)


def to_signed(pictures: list[Picture]) -> Float[Tensor, "n c h w"]:
    """Turn images of one size into numbers from -1 to 1."""
    return torch.stack(pictures).float() / 127.5 - 1


def _resized(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)
