"""The files of a finished run that a report is made from: `results.json` and the images of `samples.npz`."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from compress.report.results import Results
from device_profiles.errors import BadInput
from device_profiles.store import write_whole

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.npz"

# History of the schema: 1, the first; 2 adds the trivial answer and what a method's scores are; 3 further budgets and
# layers' parts of the whole network's latency; 4 blocks that went whole, and layers that became
# grouped ones; 5 how the networks for further budgets were trained, which blocks stayed in them,
# and which of the learning rates that were tried won.
SCHEMA = 5
READABLE = (1, 2, 3, 4, 5)
_ADAPTER = TypeAdapter(Results)


def to_json(results: Results) -> str:
    """Return the text of `results.json`."""
    return json.dumps({"schema": SCHEMA, **_ADAPTER.dump_python(results, mode="json")}, indent=1, allow_nan=False)


def from_json(text: str, source: str = RESULTS_FILE) -> Results:
    """Read what `to_json` wrote.

    Args:
        text: The file's content.
        source: What to call the file in an error.

    Raises:
        BadInput: The text is damaged, is something else, or was written by a newer toolkit.
    """
    try:
        record = json.loads(text)
    except json.JSONDecodeError as err:
        raise BadInput(f"{source} is damaged ({err}); it must be the JSON that a run wrote, so run it again") from err
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise BadInput(f"{source} holds no schema number, so it is not a run's results; give a run's folder")
    schema = record.pop("schema")
    if schema not in READABLE:
        raise BadInput(f"{source} has schema {schema}, this toolkit reads schema {SCHEMA}; update the toolkit or rerun")
    try:
        return _ADAPTER.validate_python(record)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        raise BadInput(f"{source} is not a run's results ({where}: {first['msg']}); run it again") from err


def save_results(results: Results, folder: Path) -> Path:
    """Write `results.json` into a run's folder, whole or not at all, and return its path."""
    path = folder / RESULTS_FILE
    write_whole(path, to_json(results) + "\n")
    return path


def load_results(folder: Path) -> Results:
    """Read a run's `results.json`.

    Raises:
        BadInput: The folder has none (the run is not finished), or it is damaged or newer.
    """
    path = folder / RESULTS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as err:
        raise BadInput(f"{folder} has no {RESULTS_FILE}; give the folder of a finished run, such as runs/demo") from err
    except (UnicodeDecodeError, IsADirectoryError) as err:
        raise BadInput(f"{path} is damaged ({err}); it must be the JSON that a run wrote, so run it again") from err
    return from_json(text, str(path))


def save_samples(images: Mapping[str, NDArray[np.uint8]], folder: Path) -> Path:
    """Write the sample images into a run's folder, whole or not at all, and return the file's path.

    Args:
        images: "input", "target" and one entry per network key: arrays of shape (n, h, w, 3), the same n
            held-out samples in each.
        folder: The run's folder.

    Raises:
        BadInput: An array is not uint8 of shape (n, h, w, 3), or their n differ.
    """
    _check_samples(images, SAMPLES_FILE)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **images)
    path = folder / SAMPLES_FILE
    write_whole(path, buffer.getvalue())
    return path


def load_samples(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Read a run's sample images; a run without any (a task that draws none) gives an empty dictionary.

    Raises:
        BadInput: The file is damaged or holds something else than images.
    """
    path = folder / SAMPLES_FILE
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as err:
        raise BadInput(f"{path} is damaged ({err}); run it again to write it anew") from err
    _check_samples(images, str(path))
    return images


def _check_samples(images: Mapping[str, np.ndarray], source: str) -> None:
    for key, image in images.items():
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3:
            raise BadInput(f"{source}: {key!r} is {image.dtype} {image.shape}; it must be uint8 of shape (n, h, w, 3)")
    counts = {key: len(image) for key, image in images.items()}
    if len(set(counts.values())) > 1:
        raise BadInput(f"{source} holds a different number of images per key: {counts}; they must be the same samples")
