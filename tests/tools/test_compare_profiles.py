from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles.store import save_profile
from tests.device_profiles.example import profile
from tests.device_profiles.test_agreement import scaled
from tools.compare_profiles import main


def saved(folder: Path, factor: float) -> list[str]:
    first = profile()
    layers = tuple(replace(first.layers[0], name=name) for name in "abc")
    first = replace(first, layers=(*layers, first.layers[1]))
    second = replace(first, layers=(*layers, scaled(first.layers[3], factor)))
    for name, each in (("first.json", first), ("second.json", second)):
        save_profile(each, folder / name)
    return [str(folder / "first.json"), str(folder / "second.json")]


def test_profiles_that_agree_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(saved(tmp_path, 1.02)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "stepped"
    assert lines[1].split()[-1] == "+2.0"
    assert lines[-1] == "isolated: at most 2.0 % apart; the machine was at 1.000 of its first level"


def test_profiles_that_do_not_agree_fail_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*saved(tmp_path, 1.05), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["isolated"]["worst_percent"] == pytest.approx(5)
    assert main([*saved(tmp_path, 1.05), "--allowed-percent", "6"]) == 0
