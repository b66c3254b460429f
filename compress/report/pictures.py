"""Sample images inside the page: as PNG in a data URI, and how wrong each one is as a heat map."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # n h w 3

LARGEST_SIDE = 192  # pixels; shown at about 150 CSS pixels
MOST_ROWS = 4
MOST_BYTES = 1_300_000  # of all pictures together: the page stays below 2 MB
# Dark to light with even steps of luminance, so that it reads the same in every kind of colour vision and in print.
HEAT = np.array([[12, 10, 28], [92, 32, 104], [206, 70, 84], [252, 165, 90], [252, 246, 205]], dtype=np.float64)


@dataclass(frozen=True)
class Column:
    """One column of the table of samples: a heading and a data URI per sample."""

    heading: str
    style: str
    uris: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """The columns that matter most, the other networks', and the error (in 1/255) that is brightest on a heat map."""

    columns: tuple[Column, ...]
    others: tuple[Column, ...]
    brightest: float


def gallery(samples: Mapping[str, Images], labels: Mapping[str, str]) -> Gallery | None:
    """Lay out input, target, what each network drew, and how wrong it is.

    Args:
        samples: What `compress.report.store.load_samples` returns.
        labels: Network key -> label; networks without samples are left out.

    Returns:
        The gallery, or None if the target or the drawings of the baseline and the pruned network are missing.
    """
    if not {"target", "baseline", "pruned"} <= samples.keys():
        return None
    drawn = [key for key in labels if key in samples]
    small = {key: shrink(samples[key][:MOST_ROWS]) for key in ("input", "target", *drawn) if key in samples}
    wrong = {key: _error(small[key], small["target"]) for key in drawn}
    brightest = max(float(np.quantile(np.stack([wrong["baseline"], wrong["pruned"]]), 0.995)), 1.0)
    pictures = {(key, key): list(images) for key, images in small.items()}
    pictures |= {(f"error of {key}", key): list(heat(wrong[key] / brightest)) for key in drawn}
    uris = {of: [data_uri(image) for image in images] for of, images in pictures.items()}
    rows = len(small["target"])
    while rows > 1 and sum(len(uri) for column in uris.values() for uri in column[:rows]) > MOST_BYTES:
        rows -= 1
    columns = {of: Column(of[0], f"k-{of[1]}", tuple(column[:rows])) for of, column in uris.items()}
    main = {"input", "target", "baseline", "pruned"}
    return Gallery(
        tuple(column for (_, key), column in columns.items() if key in main),
        tuple(
            Column(labels[key] if heading == key else heading, column.style, column.uris)
            for (heading, key), column in columns.items()
            if key not in main
        ),
        brightest,
    )


def shrink(images: Images) -> Images:
    """Average whole blocks of pixels until no side is above `LARGEST_SIDE`."""
    n, height, width, channels = images.shape
    factor = -(-max(height, width) // LARGEST_SIDE)
    if factor <= 1:
        return images
    cut = images[:, : height // factor * factor, : width // factor * factor]
    blocks = cut.reshape(n, height // factor, factor, width // factor, factor, channels)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _error(images: Images, targets: Images) -> NDArray[np.float64]:
    """Return the mean absolute difference over the colours, n h w, in 1/255."""
    return np.abs(images.astype(np.float64) - targets).mean(axis=-1)


def heat(share: NDArray[np.float64]) -> Images:
    """Colour values in [0, 1]; what is above is shown as 1."""
    at = np.clip(share, 0.0, 1.0) * (len(HEAT) - 1)
    low = np.minimum(at.astype(int), len(HEAT) - 2)
    return np.rint(HEAT[low] + (at - low)[..., None] * (HEAT[low + 1] - HEAT[low])).astype(np.uint8)


def data_uri(image: NDArray[np.uint8]) -> str:
    """Return an h w 3 image as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an h w 3 image as PNG (ISO/IEC 15948), every row by its difference to the one above."""
    height, width, _ = image.shape
    rows = image.reshape(height, width * 3)
    differences = np.diff(rows, axis=0, prepend=np.zeros((1, width * 3), np.uint8))
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), differences], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
