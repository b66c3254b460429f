"""Profiles on disk: JSON with a schema number, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

from device_profiles.errors import BadInput, ProfileMismatch, Unwritable
from device_profiles.json_form import from_json, to_json
from device_profiles.profile import DeviceProfile

FORMAT = "espalier device profile"
# 1: the first; 2: in_context, what layers take inside the network; 3: what GPUs say; 4: what disturbed a
# measurement, and how isolated layers add to predictions in context. What an older file lacks has a default.
SCHEMA = 4


def write_whole(path: Path | str, content: bytes | bytearray | str) -> None:
    """Write a file so that readers find the old one or the whole new one, never a part, whatever happens.

    Args:
        path: The file; missing folders are made.
        content: What to write; text is encoded as UTF-8.

    Raises:
        Unwritable: The disk is full, or the place cannot be written; nothing is left behind.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise Unwritable(
            f"cannot write {path} ({len(data)} bytes): {err.strerror}; free some space or choose another place"
        ) from err


def save_profile(profile: DeviceProfile, path: Path | str) -> None:
    """Write a profile as JSON.

    Raises:
        BadInput: The place cannot be written.
    """
    document = {"format": FORMAT, "schema": SCHEMA, "profile": to_json(profile)}
    write_whole(path, json.dumps(document, allow_nan=False) + "\n")


def load_profile(path: Path | str) -> DeviceProfile:
    """Read a profile.

    Raises:
        BadInput: The file is missing, damaged, or something else than a profile.
        ProfileMismatch: It was written by a newer version.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as err:
        raise BadInput(f"no profile at {path}; make one with tools/profile_target.py") from err
    except OSError as err:
        raise BadInput(f"cannot read the profile {path}: {err.strerror}") from err
    except ValueError as err:  # broken JSON or UTF-8
        raise BadInput(f"the profile {path} is damaged ({err}); make it again with tools/profile_target.py") from err
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInput(f"{path} is not a device profile; give a file that tools/profile_target.py wrote")
    schema = document.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise BadInput(f"the profile {path} has the schema {schema!r}; known are 1 to {SCHEMA}")
    if schema > SCHEMA:
        raise ProfileMismatch(
            f"the profile {path} has schema {schema}, this version reads up to {SCHEMA}; update Espalier"
        )
    return from_json(DeviceProfile, document.get("profile"), f"the profile {path}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no measurement")
