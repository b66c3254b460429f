"""The benchmark of all methods, with two of them and a handful of steps."""

from __future__ import annotations

import json
import sys
from xml.etree import ElementTree

import pytest

from device_profiles.errors import BadInput, UnsupportedModel, Unwritable
from tools.benchmarks import methods
from tools.benchmarks.study import Small, recipe_for

TINY = Small(
    "classification",
    4,
    4,
    {
        "speedup": 1.3,
        "profile": "isolated",
        "profile_seconds": 0.3,
        "measure_seconds": 0.3,
        "model": {"name": "resnet-20", "depth": 8, "width": 8},
        "baseline": {"batch": 16},
        "finetune": {"batch": 16},
    },
    final_seconds=0.3,
)


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Run the benchmark in one folder; the second call finds what the first one made."""
    folder = tmp_path_factory.mktemp("methods")

    def start(*arguments: str) -> dict:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(methods.TASKS, "classification", TINY)
            common = ["--tasks", "classification", "--json", str(folder / "m.json"), "--work", str(folder / "work")]
            patch.setattr(sys, "argv", ["methods.py", *common, *arguments])
            methods.main()
        return json.loads((folder / "m.json").read_text())

    start.folder = folder
    return start


@pytest.fixture(scope="module")
def record(call):
    return call("--methods", "l2,network-slimming")


def test_every_network_has_its_row_at_the_same_budget(record):
    found = record["tasks"]["classification"]
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == [*methods.BASELINES, "l2", "network-slimming"]
    assert rows["l2"]["steps"] == {"condense": 0, "finetune": 4}
    assert rows["network-slimming"]["steps"] == {"condense": 2, "finetune": 2}
    assert rows["scratch, widths of Fisher"]["steps"] == {"train": 8}
    assert rows["baseline trained on"]["parameters"] == rows["baseline"]["parameters"] > rows["l2"]["parameters"]
    assert rows["scratch, uniform widths"]["macs"] == rows["uniform widths"]["macs"] < rows["baseline"]["macs"]
    assert rows["l2"]["cut_speedup"] >= 1.3
    for row in rows.values():
        assert set(row["targets"]) == {"onnxruntime-cpu", "openvino-cpu"}
        assert all(target["n"] > 0 and target["ms"] > 0 for target in row["targets"].values())
    assert "dcp" in found["not_run"]
    assert record["not_run"] == ["denoising", "super-resolution", "paired"]


def test_the_figure_names_every_network(call, record):
    text = (call.folder / "m.svg").read_text()
    drawn = {element.text for element in ElementTree.fromstring(text).iter() if element.tag.endswith("text")}
    assert {row["method"] for row in record["tasks"]["classification"]["rows"]} <= drawn


def test_a_full_disk_ends_the_command_and_is_no_methods_result(call, monkeypatch):
    def full(*_: object) -> None:
        raise Unwritable("cannot write: no space left")

    monkeypatch.setattr("compress.methods.plain.Fpgm.prepare", full)
    with pytest.raises(Unwritable):
        call("--methods", "l2,fpgm")


def test_a_second_run_trains_nothing_again_and_a_method_that_cannot_is_a_row(call, record, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise UnsupportedModel("the network has no such thing")

    monkeypatch.setattr("compress.methods.plain.Fpgm.prepare", refuse)
    monkeypatch.setattr("compress.train.loop._go_on_", lambda *_: pytest.fail("it trains again"))
    before = {row["method"]: row["quality"] for row in record["tasks"]["classification"]["rows"]}
    again = call("--methods", "l2,fpgm")["tasks"]["classification"]["rows"]
    (failed,) = [row for row in again if "reason" in row]
    assert failed == {
        "task": "classification",
        "method": "fpgm",
        "seed": 0,
        "reason": "the network has no such thing",
    }
    assert all(row["quality"] == before[row["method"]] for row in again if row is not failed)
    assert "fpgm 0: the network has no such thing" in capsys.readouterr().out


@pytest.mark.parametrize(("higher", "beaten"), [(True, "1 of 2: a"), (False, "1 of 2: b")])
def test_the_summary_says_where_scratch_wins(higher, beaten):
    scratch, uniform = "scratch, widths of Fisher", "uniform widths"
    qualities = {scratch: 2.0, uniform: 0.0, "a": 1.0, "b": 3.0}
    found = {
        "goal_speedup": 2.0,
        "metric": {"higher_is_better": higher},
        "rows": [{"method": name, "quality": quality} for name, quality in qualities.items()],
    }
    first, second, _ = methods.verdict(found, methods.BASELINES, (*methods.SCRATCH, uniform)).splitlines()
    assert first == f"{scratch} (2.00) is at least as good as {beaten}"
    assert second == "scratch, uniform widths: not run"


def test_the_summary_says_what_is_much_faster_than_asked():
    rows = [
        {"method": name, "seed": 0, "quality": 1.0, "targets": {"one": {"speedup": speedup}, "two": {"speedup": 9.0}}}
        for name, speedup in (("near", 2.4), ("far", 3.6))
    ]
    found = {"goal_speedup": 2.0, "metric": {"higher_is_better": True}, "rows": rows}
    assert methods.verdict(found, [], []) == "far 0 is 3.60 times as fast, 2 was asked"


@pytest.mark.parametrize("task", methods.TASKS)
@pytest.mark.parametrize("method", ["l1", "dhp"])
def test_every_task_has_a_recipe_of_the_whole_budget(task, method):
    recipe = recipe_for(methods.TASKS[task], seed=3, steps=10, method=method)
    own = recipe.condense.steps if recipe.condense else 0
    assert own + recipe.finetune.steps == 10
    assert own == (5 if method == "dhp" else 0)
    assert recipe.task.arguments["seed"] == recipe.seed == 3


def test_unknown_names_and_too_few_steps_are_refused(call, capsys):
    with pytest.raises(SystemExit):
        call("--methods", "l3")
    assert "'l3' is none of decig" in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"--steps \(=1\) must be 2 or more"):
        call("--steps", "1")
