from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtimes.bundle_results import profile_from_bundle
from runtimes.bundled import runner
from runtimes.bundled.records import append_record, read_records
from runtimes.bundled.runner import MANIFEST, RESULTS, Watchdog, main
from runtimes.bundled.sessions import RUNTIMES
from runtimes.model_file import to_bytes
from tests.runtimes.bundles import bundle, run_here
from tests.runtimes.networks import conv


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    for file in written.rglob("*"):
        if file.is_file():
            (tmp_path / file.relative_to(written)).parent.mkdir(exist_ok=True)
            (tmp_path / file.relative_to(written)).write_bytes(file.read_bytes())
    return tmp_path


def refused(folder: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(folder)]) == 2
    assert message in capsys.readouterr().err


def jobs_of(folder: Path) -> list[list[str]]:
    found: list[list[str]] = json.loads((folder / MANIFEST).read_text())["jobs"]
    return found


def interrupt_after(jobs: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the runner stop after some jobs; return those that were begun."""
    real, begun = runner.Run.job, []

    def job(self: runner.Run, kind: str, name: str) -> Mapping[str, Any]:
        if len(begun) == jobs:
            raise KeyboardInterrupt
        begun.append(name)
        return real(self, kind, name)

    monkeypatch.setattr(runner.Run, "job", job)
    return begun


def test_a_run_that_was_killed_goes_on_after_what_is_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        first = interrupt_after(3, patch)
        assert main(["--folder", str(folder)]) == 130
    with open(folder / RESULTS, "ab") as file:
        file.write(b'{"record": "operators", "name": "variant 2", "no')  # what a power cut leaves
    rest = interrupt_after(99, monkeypatch)
    assert main(["--folder", str(folder)]) == 0
    assert first + rest == [name for _, name in jobs_of(folder)]
    assert profile_from_bundle(folder).in_context is not None
    again = interrupt_after(0, monkeypatch)
    assert main(["--folder", str(folder)]) == 0
    assert again == []


def test_progress_is_told_on_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(folder)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "[1/11] in context 1 of 1: 9 networks against each other, about 0 s" in printed.err
    assert "[2/11] the operators of variant 0" in printed.err


@pytest.mark.parametrize("name", ["variant 0", "up.1 32x4"])
def test_a_changed_network_is_refused(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / json.loads((folder / MANIFEST).read_text())["models"][name]["file"]
    file.write_bytes(file.read_bytes()[:-1])
    refused(
        folder, f"{file.name} is not the file that the bundle was written with; copy the whole bundle again", capsys
    )
    file.unlink()
    refused(folder, f"{file.name} is missing; copy the whole bundle again", capsys)
    assert not (folder / RESULTS).exists()


def test_a_changed_block_is_refused_and_changed_weights_are_made_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(folder)]) == 0
    weights = next((folder / "models").glob("weights-*.bin"))
    whole = weights.read_bytes()
    weights.write_bytes(b"torn")
    assert main(["--folder", str(folder)]) == 0
    assert weights.read_bytes() == whole
    (folder / "block.bin").write_bytes(b"\0" * 4)
    refused(folder, "block.bin is not the file", capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no manifest.json"), ("{", "is damaged"), ("[]", "has schema None"), ('{"schema": 9}', "has schema 9")],
)
def test_a_wrong_manifest_is_refused(
    folder: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / MANIFEST).unlink()
    if content:
        (folder / MANIFEST).write_text(content)
    refused(folder, message, capsys)


def test_results_of_another_bundle_are_kept_and_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_record(folder / RESULTS, {"record": "environment", "bundle": "another"})
    refused(folder, "holds results of another bundle; move it away", capsys)
    assert len(read_records(folder / RESULTS)) == 1


@pytest.mark.parametrize("field", ["version", "cpu_model", "cores"])
def test_results_that_were_begun_elsewhere_are_refused_by_name(
    folder: Path, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(folder)
    first = read_records(folder / RESULTS)[0]
    (folder / RESULTS).unlink()
    environment = first["environment"] | ({} if field == "version" else {field: 99})
    changed = first | {"environment": environment} | ({"version": "0.1"} if field == "version" else {})
    append_record(folder / RESULTS, changed)
    refused(folder, f"{field} was ", capsys)


def test_a_runtime_that_is_missing_or_refuses_a_network_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        refused(folder, "install it with: pip install onnxruntime", capsys)
    session = RUNTIMES["onnxruntime"]({}, {})
    (folder / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(runner.Refusal, match=r"onnxruntime .* cannot load .*bad\.onnx"):
        session.open(folder / "bad.onnx", {})


def test_what_hangs_is_ended_and_what_is_finished_kept(folder: Path) -> None:
    code = f"""
import time
from pathlib import Path
from runtimes.bundled import runner
real = runner.Run.job
def job(self, kind, name):
    if name == "variant 0":
        time.sleep(60)
    return real(self, kind, name)
runner.Run.job = job
runner.main(["--folder", {str(folder)!r}, "--watchdog-s", "1"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 2
    assert "has not moved for 1 s; what is finished is kept" in ended.stderr
    assert [record["record"] for record in read_records(folder / RESULTS)] == ["environment", "sitting"]


def test_a_watchdog_leaves_work_alone_that_moves() -> None:
    watchdog = Watchdog(2.0)
    with watchdog:
        for _ in range(10):
            watchdog.moved("work")
            time.sleep(0.3)


def test_a_watchdog_leaves_alone_what_comes_after_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(runner.os, "_exit", ended.append)
    runner.run_bundle(folder, Watchdog(1e9))
    with Watchdog(0.05):
        time.sleep(0.5)
    assert ended == [2]  # what hangs is ended
    with pytest.raises(KeyError), Watchdog(1.0):  # so long that a busy machine gets from here to the next line
        raise KeyError
    watchers = [thread for thread in threading.enumerate() if "_watch" in thread.name]
    time.sleep(1.5)
    assert ended == [2]
    assert not any(thread.is_alive() for thread in watchers)


def test_openvino_in_another_precision_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(to_bytes(conv()))
    session = RUNTIMES["openvino"]({"INFERENCE_PRECISION_HINT": "f32"}, {"device": "cpu", "precision": "bf16"})
    with pytest.raises(runner.Refusal, match=r"precision \(='bf16'\) was asked for, but OpenVINO computes in f32 here"):
        session.open(tmp_path / "net.onnx", {})
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(runner.Refusal, match=r"OpenVINO .* cannot load .*bad\.onnx"):
        session.open(tmp_path / "bad.onnx", {})
