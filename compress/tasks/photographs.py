"""The photographs that come with scikit-image and scikit-learn: something to restore without anything to download."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

from compress.tasks.pictures import Picture, to_tensor

_TRAIN: dict[str, Callable[[], np.ndarray]] = {
    "astronaut": skimage.data.astronaut,
    "chelsea": skimage.data.chelsea,
    "rocket": skimage.data.rocket,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "flower": lambda: load_sample_image("flower.jpg"),
    "brick": skimage.data.brick,
    "grass": skimage.data.grass,
    "gravel": skimage.data.gravel,
    "moon": skimage.data.moon,
    "coins": skimage.data.coins,
}
_HELD_OUT: dict[str, Callable[[], np.ndarray]] = {
    "coffee": skimage.data.coffee,
    "china": lambda: load_sample_image("china.jpg"),
    "camera": skimage.data.camera,
}


def training_photographs(channels: int) -> list[Picture]:
    """Return the photographs to train on: five in colour, or ten in grey."""
    return _photographs(_TRAIN, channels)


def held_out_photographs(channels: int) -> list[Picture]:
    """Return the photographs to judge by, of other scenes: two in colour, or three in grey."""
    return _photographs(_HELD_OUT, channels)


def _photographs(sources: dict[str, Callable[[], np.ndarray]], channels: int) -> list[Picture]:
    found = [load() for load in sources.values()]
    if channels == 3:
        found = [pixels for pixels in found if pixels.ndim == 3]
    return [to_tensor(Image.fromarray(pixels).convert("RGB" if channels == 3 else "L")) for pixels in found]
