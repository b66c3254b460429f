from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.bundled.records import append_record, read_records


def test_records_are_read_as_they_were_added(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert read_records(path) == []
    records = [{"record": "sitting", "name": "a"}, {"record": "operators", "ms": [1.5, 2.0]}]
    for record in records:
        append_record(path, record)
    assert read_records(path) == records


@pytest.mark.parametrize(
    "torn", [b'{"record": "sit', b'{"record": "\xc3', b"[1, 2", b"\x00\x00\x00", b"[3]\n", b'{"a": 1}\n']
)
def test_a_line_that_a_crash_cut_off_does_not_count_and_does_not_spoil_the_next(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "r.jsonl"
    append_record(path, {"record": "a"})
    with open(path, "ab") as file:
        file.write(torn)
    append_record(path, {"record": "b"})
    assert [record["record"] for record in read_records(path)] == ["a", "b"]


def test_what_is_no_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_record(tmp_path / "r.jsonl", {"record": "a", "ms": float("nan")})
