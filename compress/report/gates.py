"""What gates did, block by block, as data: what their figures and captions are made from, and its file in a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from device_profiles.errors import BadInput
from device_profiles.store import write_whole

GATES_FILE = "gates.json"
SCHEMA = 1  # History: 1, the first.
DIGITS = 5  # of a number in the file: more than a figure shows


@dataclass(frozen=True)
class GatedBlock:
    """The gates of one squeeze-and-excitation block over some samples.

    Attributes:
        name: Of the layer that excites.
        kinds: Names of the kinds of samples: classes, or groups of pictures.
        means: Mean gate of every channel by kind.
        largest: Largest gate of every channel over all samples.
        activity: Mean magnitude of gate times activation of every channel by kind.
        shut_below: A gate below it counts as shut.
        samples: How many samples were looked at.
        inserted: Whether the block was put in by the method, and absorbed afterwards.
    """

    name: str
    kinds: tuple[str, ...]
    means: Float[np.ndarray, "kinds channels"]
    largest: Float[np.ndarray, " channels"]
    activity: Float[np.ndarray, "kinds channels"]
    shut_below: float
    samples: int
    inserted: bool

    @property
    def dead(self) -> Bool[np.ndarray, " channels"]:
        """Which channels no sample opens."""
        return self.largest < self.shut_below

    @property
    def specific(self) -> Bool[np.ndarray, " channels"]:
        """Which channels some sample opens, but not all kinds of samples do on the mean."""
        return ~self.dead & (self.means.min(0) < self.shut_below)


def save_gates(blocks: Sequence[GatedBlock], folder: Path) -> Path:
    """Write the statistics of all blocks into a run's folder, whole or not at all, and return the file's path."""
    path = folder / GATES_FILE
    write_whole(path, json.dumps({"schema": SCHEMA, "blocks": [_to_json(block) for block in blocks]}, indent=1) + "\n")
    return path


def load_gates(folder: Path) -> tuple[GatedBlock, ...]:
    """Read what `save_gates` wrote; a run whose method looked at no gates has none.

    Raises:
        BadInput: The file is damaged, or was written by a newer toolkit.
    """
    path = folder / GATES_FILE
    if not path.exists():
        return ()
    try:
        record = json.loads(path.read_bytes())
        schema, blocks = record["schema"], record["blocks"]
    except (ValueError, KeyError, TypeError) as err:
        raise BadInput(f"{path} is damaged ({err}); it must be the JSON that a run wrote, so run it again") from err
    if schema != SCHEMA:
        raise BadInput(f"{path} has schema {schema}, this toolkit reads schema {SCHEMA}; update the toolkit or rerun")
    try:
        return tuple(_from_json(block) for block in blocks)
    except (ValueError, KeyError, TypeError) as err:
        raise BadInput(f"{path} is no run's gates ({err}); run it again to write it anew") from err


def _to_json(block: GatedBlock) -> dict[str, Any]:
    arrays = {name: _rounded(getattr(block, name)) for name in ("means", "largest", "activity")}
    return {**vars(block), **arrays, "kinds": list(block.kinds)}


def _rounded(values: np.ndarray) -> Any:
    flat = [float(f"{value:.{DIGITS}g}") for value in values.reshape(-1).tolist()]
    return np.asarray(flat).reshape(values.shape).tolist()


def _from_json(record: dict[str, Any]) -> GatedBlock:
    arrays = {name: np.asarray(record[name], np.float64) for name in ("means", "largest", "activity") if name in record}
    block = GatedBlock(**{**record, **arrays, "kinds": tuple(record["kinds"])})
    wanted = (len(block.kinds), block.largest.size)
    if block.largest.ndim != 1 or block.means.shape != wanted or block.activity.shape != wanted:
        raise ValueError(
            f"block {block.name!r} has means {block.means.shape}, activity {block.activity.shape} and largest gates "
            f"{block.largest.shape} for {len(block.kinds)} kinds"
        )
    return block
