"""What goes into a session: checked against the model, or drawn at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import BadInput

Array = NDArray[np.generic]


def check_feeds(
    feeds: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, np.dtype[np.generic]],
) -> dict[str, Array]:
    """Make sure that feeds fit a session's inputs; return them contiguous, as runtimes need them.

    Raises:
        BadInput: A name is missing or unknown, or an array has another shape or element type.
    """
    if feeds.keys() != shapes.keys():
        raise BadInput(f"feeds (={sorted(feeds)}) must be named like the model's inputs (={sorted(shapes)})")
    for name, array in feeds.items():
        shape = shapes[name]
        fits = len(array.shape) == len(shape) and all(
            w in (-1, have) for w, have in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise BadInput(f"feed {name!r} has the shape {array.shape}, the model takes {shape} (-1: any)")
        if array.dtype != dtypes[name]:
            raise BadInput(f"feed {name!r} is {array.dtype}, the model takes {dtypes[name]}; convert it with .astype")
    return {name: np.ascontiguousarray(array) for name, array in feeds.items()}


def random_feeds(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype[np.generic]], seed: int = 0
) -> dict[str, Array]:
    """Draw inputs for timing: standard normal numbers, and zeros where the model takes integers (safe as indices).

    Raises:
        BadInput: A shape is open.
    """
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for name, shape in shapes.items():
        if min(shape, default=1) < 0:
            raise BadInput(f"input {name!r} has the open shape {shape}; give every size, such as --input 1x3x128x128")
        numbers = generator.standard_normal(shape) if np.issubdtype(dtypes[name], np.floating) else np.zeros(shape)
        feeds[name] = numbers.astype(dtypes[name])
    return feeds
