"""The main job from the command line, on a recipe that is too short to learn anything."""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.model_folder import load_folder, load_network
from compress.pipeline import compress
from compress.report.store import load_results
from device_profiles.errors import BadInput
from tools.compress_model import sweep

ROOT = Path(__file__).parents[2]
RECIPE = """
name = "tiny"
title = "A run that is over at once"
speedup = 1.3
profile = "isolated"
profile_seconds = 0.1
measure_seconds = 0.1
[model]
name = "unet-16"
[task]
name = "scenes"
train = 16
held_out = 8
[baseline]
steps = 2
[condense]
steps = 2
[finetune]
steps = 2
"""
FILES = [
    "config.json", "environment.json", "model.onnx", "profiles/onnxruntime-cpu.json", "profiles/openvino-cpu.json",
    "recipe.json", "report.html", "results.json", "samples.npz", "summary.json", "weights.safetensors",
]  # fmt: skip


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "compress_model.py"), *map(str, arguments)]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """Start a run, kill it at a random moment, twice; then let it finish."""
    folder = tmp_path_factory.mktemp("a path with spaces")
    (folder / "tiny.toml").write_text(RECIPE)
    arguments = (folder / "tiny.toml", "--output", folder / "run")
    for _ in range(2):
        with subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(random.Random(time.time_ns()).uniform(2, 8))
            process.kill()
    return folder, call(*arguments)


def test_a_run_that_was_killed_ends_with_every_file_and_nothing_half_written(killed_and_resumed):
    folder, finished = killed_and_resumed
    assert finished.returncode == 3, finished.stderr  # two steps teach nothing: the goals are missed, and it says so
    files = [path.relative_to(folder / "run") for path in (folder / "run").rglob("*") if path.is_file()]
    assert sorted(str(path) for path in files if path.parts[0] != "work") == FILES
    assert not list((folder / "run").rglob("*.part"))
    assert "MISSED" in finished.stdout
    assert finished.stdout.rstrip().endswith("report.html")


def test_the_summary_holds_what_was_promised(killed_and_resumed):
    folder, _ = killed_and_resumed
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert set(summary["targets"]) == {"onnxruntime-cpu", "openvino-cpu"}
    for target in summary["targets"].values():
        assert target["speedup"] == pytest.approx(target["baseline_ms"] / target["pruned_ms"])
    assert summary["quality"]["higher_is_better"] is False
    assert summary["parameters"]["baseline"] == 2_617_507
    assert summary["parameters"]["pruned"] < 2_617_507
    assert summary["passed"] is False


def test_the_pruned_model_loads_again_and_is_the_one_that_was_measured(killed_and_resumed):
    folder, _ = killed_and_resumed
    results = load_results(folder / "run")
    module = load_folder(folder / "run")
    assert sum(parameter.numel() for parameter in module.parameters()) == results.pruned.parameters
    assert load_network(folder / "run").inputs["image"] == (1, 3, 128, 128)
    assert results.proof.passed
    assert results.proof.removed_channels == sum(layer.width_before - layer.width_after for layer in results.layers)


def test_a_finished_run_prints_its_table_again_without_running(killed_and_resumed):
    folder, first = killed_and_resumed
    again = call(folder / "tiny.toml", "--output", folder / "run")
    assert again.stdout == first.stdout
    assert "steps" not in again.stderr


def test_another_recipe_in_the_same_folder_is_refused(killed_and_resumed):
    folder, _ = killed_and_resumed
    (folder / "other.toml").write_text(RECIPE.replace("speedup = 1.3", "speedup = 1.4"))
    refused = call(folder / "other.toml", "--output", folder / "run")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "add --restart" in refused.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"unet-16"', '"unet-17"', r"model\.name \(='unet-17'\) is not bundled; bundled are unet-16"),
        ('"unet-16"', '"unet-16"\nwidht = 8', r"unknown key 'model\.widht'; allowed here: width"),
        ('"unet-16"', '"missing:Network"', r"no module named 'missing'"),
        ('"scenes"', '"scene"', r"task\.name \(='scene'\) is not bundled; bundled are scenes"),
        ("train = 16", 'train = "many"', r"task\.train \(='many'\)"),
        ("[baseline]\nsteps = 2", "", "there is nothing to start from"),
        ("[condense]\nsteps = 2", "", r"method \(='decig'\) trains the network before it cuts; add \[condense\]"),
        ("speedup = 1.3", "speedup = -1", r"speedup \(=-1\)"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(tmp_path, old, new, message):
    (tmp_path / "wrong.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(BadInput, match=message) as error:
        compress(tmp_path / "wrong.toml", tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_wrong_recipe_is_one_line_and_exit_code_2(tmp_path):
    refused = call(tmp_path / "missing.toml")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: no recipe at")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sweep", "1.5,0.5"), "sweep.speedups.1 (=0.5)"),
        (("--sweep", "tflite=3,2"), "sweep.budgets_ms names ['tflite'], which are not among the targets"),
        (("--sweep", "2,2"), "name one twice"),
        (("--sweep", "fast"), "argument --sweep: 'fast' must look like 1.5,2,3 or onnxruntime=12,9,6"),
    ],
)
def test_wrong_budgets_are_exit_code_2_and_say_what_is_allowed(tmp_path, options, message):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    refused = call(tmp_path / "tiny.toml", *options, "--output", tmp_path / "run")
    assert refused.returncode == 2
    assert message in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_list_of_budgets_is_of_speedups_or_of_milliseconds():
    assert sweep("1.5,2") == {"speedups": [1.5, 2.0]}
    assert sweep("openvino=12,9") == {"budgets_ms": [{"openvino": 12.0}, {"openvino": 9.0}]}
    with pytest.raises(argparse.ArgumentTypeError, match="must look like"):
        sweep("1.5;2")


def test_help_loads_no_torch():
    script = "import runpy, sys; sys.argv = ['x', '--help']; runpy.run_path(%r, run_name='__main__')"
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script % str(ROOT / "tools" / "compress_model.py")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "tools/recipes/demo.toml" in listed.stdout
    assert not re.search(r"\|\s+torch$", listed.stderr, re.MULTILINE)


def test_two_processes_compress_one_network(tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("steps = 2", "steps = 2\nbatch = 4"))
    arguments = [str(tmp_path / "tiny.toml"), "--output", str(tmp_path / "run")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [*launcher, str(ROOT / "tools" / "compress_model.py"), *arguments],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert finished.stdout.count("report: ") == 1, finished.stderr[-3000:]
    assert load_results(tmp_path / "run").proof.passed
    again = call(*arguments)
    assert again.stdout == finished.stdout
