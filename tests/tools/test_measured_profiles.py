from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles.store import load_profile, save_profile
from runtimes.model_file import to_bytes
from tests.runtimes.networks import unet
from tools.benchmarks import measured_profiles
from tools.benchmarks.measured_profiles import main

ROOT = Path(__file__).parents[2]
QUICK = ["--runtimes", "openvino", "--output", "found", "--budget-s", "0.01", "--patience-s", "0", "--variants", "8"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(to_bytes(unet()))
    return tmp_path / "found"


def test_a_profile_is_measured_once_per_machine_and_holds_its_own_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--models", "net.onnx", *QUICK]) == 0
    path = folder / "net.onnx-openvino-cpu.json"
    profile = load_profile(path)
    assert profile.in_context is not None
    assert profile.command.startswith("python tools/profile_target.py --runtime openvino --model net.onnx")
    assert str(path.relative_to(folder.parent)) in profile.command
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:2] == ["net.onnx", "openvino-cpu"]

    measured: list[str] = []
    monkeypatch.setattr(measured_profiles.profile_target, "main", lambda arguments: measured.append(arguments[3]))
    assert main(["--models", "net.onnx", *QUICK]) == 0
    assert measured == []
    assert main(["--models", "net.onnx", "--again", *QUICK]) == 0
    assert measured == ["net.onnx"]
    elsewhere = replace(profile.environment, cpu_model="Other CPU")
    save_profile(replace(profile, environment=elsewhere), path)
    assert main(["--models", "net.onnx", *QUICK]) == 0
    assert measured == ["net.onnx"] * 2


def test_what_cannot_be_measured_is_named_and_the_rest_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--models", "unet-17", "net.onnx", *QUICK]) == 3
    assert "error: unet-17 on openvino-cpu: model (='unet-17') is not a bundled network" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["net.onnx-openvino-cpu.json"]


def test_the_profiles_that_are_kept_hold_the_command_that_repeats_them() -> None:
    kept = sorted((ROOT / measured_profiles.FOLDER).glob("*.json"))
    assert kept
    for path in kept:
        profile = load_profile(path)
        assert profile.in_context is not None
        assert profile.command.startswith("python tools/profile_target.py --runtime ")
        assert profile.command.endswith(f"--how in-context --output {measured_profiles.FOLDER / path.name}")
