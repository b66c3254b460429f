"""What has been measured of a profile so far, kept beside it until it is finished."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from device_profiles.json_form import from_json, to_json
from device_profiles.measurement import Measurement
from device_profiles.store import write_whole
from runtimes.sitting import Sitting


@dataclass(frozen=True)
class PartialProfile:
    """A file of finished sittings.

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
        if self.path is None:
            return []
        try:
            document = json.loads(self.path.read_text("utf-8"))
            if document["key"] == self.key:
                return [
                    {name: from_json(Measurement, item, name) for name, item in sitting.items()}
                    for sitting in document["sittings"]
                ]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass  # absent or damaged: nothing is lost but the time to measure again
        return []

    def write(self, sittings: list[Sitting]) -> None:
        """Keep the finished sittings.

        Raises:
            BadInput: The place cannot be written.
        """
        if self.path:
            write_whole(self.path, json.dumps({"key": self.key, "sittings": to_json(tuple(sittings))}, allow_nan=False))

    def remove(self) -> None:
        """Forget them."""
        if self.path:
            self.path.unlink(missing_ok=True)
