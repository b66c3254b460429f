"""What has been measured of a profile so far, kept beside it until it is finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from device_profiles.json_form import from_json, to_json
from device_profiles.measurement import Measurement
from device_profiles.store import write_whole
from runtimes.operators import LayerTimes
from runtimes.sitting import Sitting

T = TypeVar("T")


@dataclass(frozen=True)
class PartialProfile:
    """A file of finished sittings, and of what layers took inside networks.

    Args:
        path: The file; None to keep nothing.
        key: Everything that the measurements depend on; those of another key are not used.
    """

    path: Path | None
    key: str

    @classmethod
    def beside(cls, output: Path | None, depends_on: tuple[object, ...]) -> PartialProfile:
        """Name the file after the profile's."""
        key = hashlib.sha256(json.dumps(to_json(depends_on)).encode()).hexdigest()
        return cls(output and output.with_name(f"{output.name}.partial"), key)

    def read(self) -> list[Sitting]:
        """Return the finished sittings; none if there is no file, or one that does not belong to this profile."""
        return self._read("sittings", dict[str, Measurement])

    def read_times(self) -> list[LayerTimes]:
        """Return what layers took inside the first variants, as far as that was measured."""
        return self._read("times", LayerTimes)

    def write(self, sittings: Sequence[Sitting], times: Sequence[LayerTimes] = ()) -> None:
        """Keep what is finished.

        Raises:
            BadInput: The place cannot be written.
        """
        if self.path:
            document = {"key": self.key, "sittings": to_json(tuple(sittings)), "times": to_json(tuple(times))}
            write_whole(self.path, json.dumps(document, allow_nan=False))

    def remove(self) -> None:
        """Forget them."""
        if self.path:
            self.path.unlink(missing_ok=True)

    def _read(self, field: str, kind: type[T]) -> list[T]:
        if self.path is None:
            return []
        try:
            document = json.loads(self.path.read_text("utf-8"))
            if document["key"] == self.key:
                return [from_json(kind, item, field) for item in document[field]]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass  # absent or damaged: nothing is lost but the time to measure again
        return []
