"""Results as JSON lines, written so that a crash loses at most the line that it interrupts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a file; those that a crash cut off do not count, nor does a file that is not there."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("record"), str):
            records.append(record)
    return records


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line to a file, on a line of its own where a crash cut the last one off."""
    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" * torn + json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
