from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import BadInput, ProfileMismatch
from device_profiles.json_form import from_json, to_json
from device_profiles.measurement import Measurement
from device_profiles.store import load_profile, save_profile, write_whole
from tests.device_profiles.example import profile

samples = st.lists(st.floats(0, 1e9), min_size=1, max_size=5).map(tuple)
measurements = st.builds(
    Measurement, samples, st.none(), st.just("wall"), st.booleans(), st.just(()), st.floats(0.1, 10)
)


def test_a_saved_profile_is_loaded_equal(tmp_path: Path) -> None:
    save_profile(profile(), tmp_path / "new folder" / "profile.json")
    assert load_profile(tmp_path / "new folder" / "profile.json") == profile()


@given(measurements)
def test_a_measurement_survives_json_to_the_last_bit(measurement: Measurement) -> None:
    assert from_json(Measurement, json.loads(json.dumps(to_json(measurement))), "it") == measurement


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    save_profile(profile(), path)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda d: d.update(format="x"), BadInput, "is not a device profile"),
        (lambda d: d.update(schema="1"), BadInput, "has the schema '1'; known are 1 to 4"),
        (lambda d: d.update(schema=5), ProfileMismatch, "has schema 5, this version reads up to 4; update Espalier"),
        (lambda d: d["profile"].pop("target"), BadInput, "lacks target"),
        (lambda d: d["profile"].update(extra=1), BadInput, "unknown fields extra"),
        (lambda d: d["profile"].update(seconds="1"), BadInput, r"seconds \(='1'\) must be of type float"),
        (lambda d: d["profile"].update(seconds=True), BadInput, r"seconds \(=True\) must be of type float"),
        (lambda d: d["profile"].update(layers={}), BadInput, r"layers \(={}\) must be of type list"),
        (lambda d: d["profile"]["target"].update(precision="f64"), BadInput, r"precision \(='f64'\) must be one of"),
        (lambda d: d["profile"]["target"].update(threads=0), BadInput, r"threads \(=0\)"),
        (lambda d: d["profile"]["layers"][0]["measurements"].update({"64": 0}), BadInput, "has the key '64'"),
        (lambda d: d["profile"]["probes"][0]["measurements"].update({"a": 0}), BadInput, "has the key 'a'"),
        (lambda d: d.update(profile=None), BadInput, r"\(=None\) must be of type dict"),
    ],
)
def test_a_changed_profile_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_profile(edited(tmp_path / "profile.json", edit))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": NaN}'])
def test_a_damaged_profile_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"profile\.json is damaged .*make it again"):
        load_profile(path)


def test_a_cut_off_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    save_profile(profile(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="is damaged"):
        load_profile(path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"3"])
def test_foreign_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="is not a device profile"):
        load_profile(path)


def test_a_missing_or_unreadable_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no profile at .*tools/profile_target\.py"):
        load_profile(tmp_path / "none.json")
    with pytest.raises(BadInput, match="cannot read the profile"):
        load_profile(tmp_path)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.json"
    write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"cannot write .*a\.json \(3 bytes\): No space left on device"):
        write_whole(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot write .*choose another place"):
        write_whole(tmp_path / "file" / "a.json", "x")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.json", b"x")
    assert list(tmp_path.iterdir()) == []
