from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from device_profiles.errors import BadInput
from tests.compress.report.example import write_example_run
from tools.benchmark_report import main

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_report.py"


def test_one_run_is_rebuilt_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_example_run(tmp_path / "demo run")
    assert main([str(folder)]) == 0
    printed = capsys.readouterr()
    assert (folder / "report.html").exists()
    assert (folder / "summary.json").exists()
    assert printed.err.strip() == str(folder / "report.html")
    assert [line.split()[0] for line in printed.out.splitlines()] == ["target", "onnxruntime-cpu", "openvino-cpu"]


def test_several_runs_are_compared_by_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(write_example_run(tmp_path / name)) for name in "ab"]
    assert main([*folders, folders[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["onnxruntime-cpu"] * 2 + ["openvino-cpu"] * 2


def test_json_holds_the_summary_of_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_example_run(tmp_path / "a")
    assert main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {str(folder): json.loads((folder / "summary.json").read_text())}


def test_nothing_is_written_when_one_folder_is_bad(tmp_path: Path) -> None:
    good = write_example_run(tmp_path / "good")
    with pytest.raises(BadInput, match=r"has no results\.json"):
        main([str(good), str(tmp_path / "missing")])
    assert not (good / "report.html").exists()


def test_a_bad_folder_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, TOOL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "give the folder of a finished run" in ended.stderr


def test_help_is_the_module_docstring() -> None:
    ended = subprocess.run([sys.executable, TOOL, "--help"], capture_output=True, text=True, check=True)
    assert "python tools/benchmark_report.py runs/demo" in ended.stdout
