"""The separating experiments' command, without the experiments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from compress.methods import METHODS
from tools.benchmarks import method_experiments
from tools.benchmarks.method_experiments import EXPERIMENTS, main

COMMITTED = Path(method_experiments.__file__).with_suffix(".json")


def test_what_is_not_run_again_stays_in_the_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"dhp": {"rows": []}}))
    monkeypatch.setitem(EXPERIMENTS, "decig", lambda: [{"kept": 3}])
    monkeypatch.setattr(sys, "argv", ["method_experiments.py", "--experiments", "decig", "--output", str(path)])
    main()
    found = json.loads(path.read_text())
    assert list(found) == ["dhp", "decig"]
    assert found["decig"]["rows"] == [{"kept": 3}]
    assert capsys.readouterr().out == "decig kept=3\n"


def test_an_unknown_experiment_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["method_experiments.py", "--experiments", "l1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "invalid choice: 'l1'" in capsys.readouterr().err


def test_every_experiment_is_committed_and_belongs_to_a_method():
    named = {name.replace("-", "_") for name in METHODS} | {"squeeze_excitation"}
    assert set(json.loads(COMMITTED.read_text())) == set(EXPERIMENTS) <= named
