from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from compress.overrides import Overrides
from compress.recipe import read_recipe
from device_profiles.errors import BadInput

DEMO = Path(__file__).parents[2] / "tools" / "recipes" / "demo.toml"


def changed(tmp_path, old, new):
    text = DEMO.read_text()
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new))
    return path


def test_the_bundled_recipe_is_valid_and_names_both_cpu_targets():
    assert [target.name for target in read_recipe(DEMO).chosen_targets()] == ["onnxruntime-cpu", "openvino-cpu"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("speedup = 2.7", "speedpu = 2.4", r"unknown key 'speedpu'; allowed here: name, title, model.*"),
        ('ranking = "linear"', 'ranking = "cubic"', r"method\.ranking \(='cubic'\).*'uniform', 'linear'"),
        ("speedup = 2.7", "speedup = 0.5", r"speedup \(=0\.5\).*greater than 1"),
        ("steps = 600", "steps = 0", r"baseline\.steps \(=0\).*greater than 0"),
        ("steps = 600", "stepps = 600", r"unknown key 'baseline\.stepps'; allowed here: steps, batch"),
        ('targets = ["onnxruntime", "openvino"]', 'targets = ["tflite"]', r"targets\.0 \(='tflite'\)"),
        ("speedup = 2.7", "", r"recipe\.toml: give either speedup or budget_ms"),
        ("speedup = 2.7", "speedup = inf", r"speedup \(=inf\): input should be a finite number"),
        (
            '["onnxruntime", "openvino"]',
            '["openvino", "openvino"]',
            r"targets \(=\['openvino', 'openvino'\]\) names one",
        ),
        ('name = "unet-32"', 'name = ".unet:UNet"', r"must look like package\.module:callable"),
        ("[baseline]\nsteps = 600\nlearning_rate = 8e-3\n", "", r"recipe\.toml: there is nothing to start from"),
        ("speedup = 2.7", "speedup = 2.7\nbudget_ms = {openvino = 3}", "give either speedup or budget_ms"),
        ("[condense]", "[condense]\nprobe = [1, 3]", r"condense\.probe \(=\[1\.0, 3\.0\]\) cannot be: methods hold"),
        ("[finetune]", "[finetune]\nprobe = [0]", r"finetune\.probe\.0 \(=0\).*greater than 0"),
        ("speedup = 2.7", "speedup = 2.7\nblocks = 2", r"blocks \(=2\): input should be a valid boolean"),
        ("speedup = 2.7", "budget_ms = {tflite = 3}", r"budget_ms names \['tflite'\]"),
        ("speedup = 2.7", "budget_ms = {openvino = 0}", r"budget_ms\.openvino \(=0\).*greater than 0"),
        ('name = "decig"', 'name = "magic"', r"method\.name \(='magic'\) is not bundled; bundled are decig"),
        ("[baseline]", "[sweep]\nspeedups = [2, 1]\n[baseline]", r"sweep\.speedups\.1 \(=1\).*greater than 1"),
        ("[baseline]", "[sweep]\nspeedups = [2, 3, 2]\n[baseline]", r"\(=\[2\.0, 3\.0, 2\.0\]\) name one twice"),
        ("[baseline]", "[sweep]\n[baseline]", r"give either speedups such as .* or budgets_ms such as"),
        ("[baseline]", "[sweep]\nbudgets_ms = [{tflite = 3}]\n[baseline]", r"sweep\.budgets_ms names \['tflite'\]"),
        ("[baseline]", '[sweep]\nspeedups = [3]\ncondense = "never"\n[baseline]', r"condense.*'once' or 'per budget'"),
        ('["onnxruntime", "openvino"]', '["openvino"]\nnetworks = "one per target"', "needs two targets or more"),
        ('title = "A', 'titles = "A', r"title"),
        ('name = "demo"', 'name = "../demo"', r"name \(='\.\./demo'\)"),
        ("[task]", "[task", r"is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(tmp_path, old, new, message):
    with pytest.raises(BadInput, match=message) as error:
        read_recipe(changed(tmp_path, old, new))
    assert "\n" not in str(error.value)


def test_how_hard_a_task_is_cannot_be_asked_without_training(tmp_path):
    path = changed(tmp_path, "[baseline]\nsteps = 600\nlearning_rate = 8e-3\n", "")
    path.write_text(path.read_text().replace('"unet-32"', '"unet-32"\nweights = "mine.pt"'))
    with pytest.raises(BadInput, match=r"goals\.narrow_penalty_percent trains a narrow network.*add that table"):
        read_recipe(path)


def test_widths_cannot_be_trained_anew_without_saying_how(tmp_path):
    path = changed(tmp_path, "[baseline]\nsteps = 600\nlearning_rate = 8e-3\n", "")
    text = path.read_text().replace('"unet-32"', '"unet-32"\nweights = "mine.pt"').replace("narrow_penalty", "#")
    path.write_text(text)
    with pytest.raises(BadInput, match=r"retrain trains new weights as \[baseline\] says; add that table"):
        read_recipe(path, Overrides(retrain=True))


def test_a_missing_recipe_names_where_the_bundled_ones_are(tmp_path):
    with pytest.raises(BadInput, match=r"no recipe at .*missing\.toml; the bundled ones are in tools/recipes/"):
        read_recipe(tmp_path / "missing.toml")


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(BadInput, match="is a folder; give a recipe file"):
        read_recipe(tmp_path)


def test_the_command_line_replaces_budgets_and_data(tmp_path):
    recipe = read_recipe(DEMO, Overrides(speedup=3.0))
    assert (recipe.speedup, recipe.goals.speedup) == (3.0, None)
    recipe = read_recipe(DEMO, Overrides(budget_ms={"openvino": 4.0}))
    assert recipe.speedup is None
    by_name = {target.runtime: recipe.budget.needed_speedup(target, 10.0) for target in recipe.chosen_targets()}
    assert by_name == {"openvino": 2.5, "onnxruntime": 1.0}
    with pytest.raises(BadInput, match=r"unknown key 'task\.folder'; allowed here: train, held_out, size, seed"):
        read_recipe(DEMO, Overrides(data=tmp_path))


def test_a_sweep_and_a_network_for_each_target_are_further_budgets():
    recipe = read_recipe(DEMO, Overrides(sweep={"speedups": [1.5, 2.7, 4]}, per_target=True))
    assert [budget.key for budget in recipe.further_budgets] == [
        "sweep-1.5x", "sweep-4x", "targets-onnxruntime", "targets-openvino",
    ]  # fmt: skip  # 2.7 is the run's own
    assert [str(budget) for budget in recipe.further_budgets[-2:]] == ["2.7 times as fast"] * 2
    assert recipe.further_budgets[-1].runtimes == ("openvino",)
    assert read_recipe(DEMO).further_budgets == ()
    one_budget = read_recipe(DEMO, Overrides(budget_ms={"openvino": 4.0}, per_target=True))
    assert [str(budget) for budget in one_budget.further_budgets] == ["no slower", "4 ms on openvino"]


def test_a_sweep_of_latencies_names_each_budget_by_them():
    budgets = [{"onnxruntime": 12.0}, {"onnxruntime": 9.5, "openvino": 4.0}]
    first, second = read_recipe(DEMO, Overrides(sweep={"budgets_ms": budgets})).further_budgets
    assert (first.place, second.place) == ("sweep/onnxruntime-12ms", "sweep/onnxruntime-9.5ms-openvino-4ms")
    assert str(second) == "9.5 ms on onnxruntime, 4 ms on openvino"


def test_the_command_line_keeps_how_a_recipe_condenses_for_its_sweep(tmp_path):
    path = changed(tmp_path, "[baseline]", '[sweep]\nspeedups = [3]\ncondense = "per budget"\n[baseline]')
    recipe = read_recipe(path, Overrides(sweep={"speedups": [1.5]}))
    assert recipe.sweep is not None
    assert (recipe.sweep.speedups, recipe.sweep.condense) == ((1.5,), "per budget")


def test_blocks_stay_unless_a_recipe_lets_them_go(tmp_path):
    assert not read_recipe(DEMO).blocks
    assert read_recipe(changed(tmp_path, "speedup = 2.7", "speedup = 2.7\nblocks = true")).blocks


def test_widths_are_trained_anew_for_all_steps_and_minutes_together():
    recipe = read_recipe(DEMO, Overrides(retrain=True))
    assert recipe.full_training == replace(recipe.baseline, steps=600 + 200 + 300)
    timed = {name: replace(getattr(recipe, name), minutes=2.0) for name in ("baseline", "condense", "finetune")}
    assert recipe.model_copy(update=timed).full_training.minutes == 6.0
    assert recipe.model_copy(update={"baseline": timed["baseline"]}).full_training.minutes is None


def test_uniform_widths_are_trained_for_all_steps_and_minutes_after_the_baseline():
    recipe = read_recipe(DEMO)
    assert recipe.after_baseline == replace(recipe.finetune, steps=200 + 300)
    timed = {name: replace(getattr(recipe, name), minutes=2.0) for name in ("condense", "finetune")}
    assert recipe.model_copy(update=timed).after_baseline.minutes == 4.0


@pytest.mark.parametrize("table", ["condense", "finetune"])
def test_minutes_are_given_to_all_trainings_that_are_compared_or_to_none(tmp_path, table):
    path = changed(tmp_path, f"[{table}]", f"[{table}]\nminutes = 5")
    with pytest.raises(
        BadInput, match=f"minutes are given to {table}, not to .* give minutes to all of them, or to none"
    ):
        read_recipe(path)
    text = path.read_text()
    for name in {"condense", "finetune"} - {table}:
        text = text.replace(f"[{name}]", f"[{name}]\nminutes = 5")
    path.write_text(text)
    assert read_recipe(path).after_baseline.minutes == 10
    with pytest.raises(BadInput, match="minutes are given to condense and finetune, not to baseline"):
        read_recipe(path, Overrides(retrain=True))


@dataclass
class Silent:
    """A method that does not say how its scores are cut."""

    title: ClassVar[str] = "Silent"
    source: ClassVar[str] = "made up"
    score: ClassVar[str] = "made up"
    trains: ClassVar[bool] = False


class Wrong(Silent):
    selection: ClassVar[str] = "Solver"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Silent", r"does not say its selection; give it the members of compress\.methods\.base\.Settings"),
        ("Wrong", r"has selection='Solver'; allowed: threshold, solver"),
    ],
)
def test_a_method_of_ones_own_says_what_a_run_needs_to_know(tmp_path, name, message):
    path = changed(tmp_path, 'name = "decig"\nranking = "linear"', f'name = "tests.compress.test_recipe:{name}"')
    with pytest.raises(BadInput, match=message):
        read_recipe(path)


def test_a_setting_that_a_method_of_ones_own_does_not_have_is_refused(tmp_path):
    path = changed(tmp_path, 'name = "decig"', 'name = "tests.compress.test_recipe:Silent"')
    with pytest.raises(BadInput, match=r"unknown key 'method\.ranking'; allowed here: "):
        read_recipe(path)
