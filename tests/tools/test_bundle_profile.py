from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from device_profiles.errors import BadInput
from device_profiles.store import load_profile
from runtimes import bundle_host
from runtimes.bundle import read_manifest
from runtimes.bundled import runner
from runtimes.model_file import to_bytes
from tests.runtimes.networks import unet
from tools import profile_target
from tools.bundle_profile import main

TOOL = Path(__file__).parents[2] / "tools" / "bundle_profile.py"
QUICK = ["--model", "net.onnx", "--budget-s", "0.01", "--patience-s", "0", "--variants", "8"]
BUNDLE = Path("runs/bundles/net-onnxruntime-cpu")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("net.onnx").write_bytes(to_bytes(unet()))


def test_a_bundle_is_written_run_and_read_as_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(QUICK) == 0
    assert capsys.readouterr().out == f"{BUNDLE}\n"
    assert runner.main(["--folder", str(BUNDLE)]) == 0
    assert profile_target.main(["--from-bundle", str(BUNDLE)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:5]} == {"down.0", "down.1", "up.0", "up.1"}
    profile = load_profile("runs/profiles/net-onnxruntime-cpu.json")
    assert profile.command == f"python tools/profile_target.py --from-bundle {BUNDLE}"
    assert profile.in_context is not None


def test_options_reach_the_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--runtime", "openvino", "--threads", "2", "--how", "isolated", "--output", "b", "--memory-mib", "1"]
    assert main([*QUICK, *options]) == 0
    manifest = read_manifest(Path("b"))
    assert (manifest.target.runtime, manifest.target.threads, manifest.variants) == ("openvino", 2, ())
    assert len(manifest.layers.points) > 4


def test_little_memory_makes_more_sittings() -> None:
    assert main([*QUICK, "--how", "in-context", "--output", "small", "--memory-mib", "1"]) == 0
    assert main([*QUICK, "--how", "in-context", "--output", "large"]) == 0
    small, large = (read_manifest(Path(name)) for name in ("small", "large"))
    assert len(small.sittings) >= len(large.sittings) == 2
    assert len(large.layers.points) == len(large.layers.layers)


def test_a_host_measures_what_is_bundled_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def run_on_host(folder: Path, host: str, python: str) -> None:
        asked.append((host, python))
        assert runner.main(["--folder", str(folder)]) == 0

    monkeypatch.setattr(bundle_host, "run_on_host", run_on_host)
    options = ["--how", "both", "--host", "user@device", "--host-python", "venv/bin/python", "--output", "p.json"]
    assert profile_target.main([*QUICK, *options]) == 0
    assert asked == [("user@device", "venv/bin/python")]
    assert load_profile("p.json").in_context is not None
    assert capsys.readouterr().out.endswith("profile: p.json\n")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(BadInput, match=r"memory_mib \(=0\) must be at least 1"):
        main([*QUICK, "--memory-mib", "0"])
    with pytest.raises(BadInput, match=r"check \(=3\) measures on this machine, not on the device"):
        profile_target.main([*QUICK, "--host", "device", "--check", "3"])
    with pytest.raises(BadInput, match=r"target \(='tensorrt-cuda'\) cannot be bundled"):
        main([*QUICK, "--runtime", "tensorrt", "--device", "cuda"])


def test_a_mistake_is_one_line_and_exit_code_2() -> None:
    ended = subprocess.run(
        [sys.executable, str(TOOL), "--model", "none.onnx"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "no model at none.onnx" in ended.stderr
