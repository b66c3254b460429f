from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_profiles.errors import ToolkitError
from runtimes.model_file import to_bytes
from tests.runtimes.networks import unet
from tools import profile_target
from tools.benchmarks import profiling_repeated
from tools.benchmarks.profiling_repeated import main

QUICK = ["--budget-s", "0.01", "--patience-s", "0", "--variants", "8"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of the benchmark; what it starts runs in this process."""
    (tmp_path / "net.onnx").write_bytes(to_bytes(unet()))
    monkeypatch.setattr(profiling_repeated, "_call", lambda command: profile_target.main(command[1:]))
    model = str(tmp_path / "net.onnx")
    return ["--models", model, "--runtimes", "openvino", "--output", str(tmp_path / "found.json"), *QUICK]


def test_two_profiles_are_compared_once(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling_repeated, "ALLOWED_PERCENT", 1e6)
    assert main(call) == 0
    (row,) = json.loads(Path(call[5]).read_text())
    assert row["command"].startswith("python tools/profile_target.py --runtime openvino --model")
    assert "--how in-context --budget-s 0.01" in row["command"]
    assert len(row["seconds"]) == 2
    assert row["agreement"]["in context"]["differences_percent"]
    assert row["agreement"]["in context"]["level"] > 0
    monkeypatch.setattr(profiling_repeated, "_call", lambda _: pytest.fail("it measures again"))
    assert main(call) == 0


def test_what_is_missed_is_named(
    call: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profiling_repeated, "ALLOWED_PERCENT", -1.0)
    monkeypatch.setitem(profiling_repeated.GOALS_S, call[1], 0.0)
    assert main(call) == 3
    out = capsys.readouterr().out
    assert "net.onnx on openvino took" in out
    assert "differs by" in out


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(ToolkitError, match=r"python tools/profile_target.py --runtime nothing ended with 2; see above"):
        profiling_repeated._call(["tools/profile_target.py", "--runtime", "nothing"])
