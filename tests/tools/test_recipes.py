"""Every bundled recipe reads, names what there is, and says truly where its numbers come from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch

from compress.models import MODELS, import_callable
from compress.overrides import Overrides
from compress.recipe import read_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "tools" / "recipes").rglob("*.toml"))
PUBLISHED = [path for path in RECIPES if path.parent.name == "published"]
DOCUMENTATION = (ROOT / "docs" / "recipes.md").read_text("utf-8")
STEPS = re.compile(r"steps = (\d+) +# (\d+) epochs x (\d+) / (\d+)")


def stem(path: Path) -> str:
    return path.stem


def comment(path: Path) -> str:
    """Return the text of the comment on top."""
    lines = path.read_text("utf-8").splitlines()
    length = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:length])


@pytest.mark.parametrize("path", RECIPES, ids=stem)
def test_a_recipe_reads_and_is_named_as_its_file(path):
    assert read_recipe(path).name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=stem)
def test_a_recipes_networks_can_be_built(path):
    recipe = read_recipe(path)
    networks = [(recipe.model.name, recipe.model.factory_arguments)]
    if inverse := recipe.task.arguments.get("inverse"):
        networks.append((inverse, MODELS[inverse].arguments | recipe.task.arguments.get("inverse_arguments", {})))
    with torch.device("meta"):  # no numbers are drawn
        for name, arguments in networks:
            assert sum(each.numel() for each in import_callable(MODELS[name].factory)(**arguments).parameters()) > 0


def test_no_two_recipes_share_a_name():
    assert len({read_recipe(path).name for path in RECIPES}) == len(RECIPES)


@pytest.mark.parametrize("path", PUBLISHED, ids=stem)
def test_a_published_recipe_names_its_paper_its_data_its_numbers_and_what_differs(path):
    text = comment(path)
    assert re.search(r"(BMVC|CVPR|ECCV|ICCV|NeurIPS|Pattern Recognition) 20\d\d, arXiv \d{4}\.\d{5}", text)
    assert all(f" {heading}" in text for heading in ("Data: ", "Published", "Differs: "))


@pytest.mark.parametrize("path", PUBLISHED, ids=stem)
def test_a_published_recipe_takes_its_folder_from_the_command_line(path, tmp_path):
    assert read_recipe(path).task.arguments["folder"] == "DATA"  # no such folder: the command stops at once
    assert read_recipe(path, Overrides(data=tmp_path)).task.arguments["folder"] == str(tmp_path)


@pytest.mark.parametrize("path", PUBLISHED, ids=stem)
def test_published_steps_are_the_epochs_that_their_comments_state(path):
    text = path.read_text("utf-8")
    stated = {
        int(steps): (int(epochs), int(samples), int(batch)) for steps, epochs, samples, batch in STEPS.findall(text)
    }
    trainings = [part for part in tomllib.loads(text).values() if isinstance(part, dict) and "steps" in part]
    assert len(trainings) == len(STEPS.findall(text)) == text.count("steps = ")
    for training in trainings:
        epochs, samples, batch = stated[training["steps"]]
        assert batch == training["batch"]
        assert abs(epochs * samples / batch - training["steps"]) < 1


@pytest.mark.parametrize("path", RECIPES, ids=stem)
def test_a_recipe_is_in_the_table_of_all_recipes(path):
    assert f"`{path.relative_to(ROOT / 'tools' / 'recipes').as_posix()}`" in DOCUMENTATION
