"""The reference of a recipe's keys is what the code says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tools.recipe_keys import reference

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text():
    return reference()


def test_the_committed_reference_is_what_the_command_prints(text):
    committed = (ROOT / "docs" / "recipe_keys.md").read_text("utf-8")
    assert committed == text, "run: python tools/recipe_keys.py > docs/recipe_keys.md"


@pytest.mark.parametrize("path", sorted((ROOT / "tools" / "recipes").rglob("*.toml")), ids=lambda path: path.stem)
def test_every_key_of_a_bundled_recipe_is_in_it(text, path):
    def keys(table):
        for key, value in table.items():
            yield key
            if isinstance(value, dict):
                yield from keys(value)

    recipe = tomllib.loads(path.read_text("utf-8"))
    assert [key for key in keys(recipe) if f"| `{key}` |" not in text and f"`[{key}]`" not in text] == []


def test_a_default_is_written_as_a_recipe_would_have_it(text):
    assert '| `targets` | `["onnxruntime", "openvino"]`; of `"onnxruntime"`, `"openvino"`, `"tensorrt"` |' in text
    assert '| `schedule` | `"cosine"`; or `"flat"`, `"multistep"`, `"constant"` |' in text
    assert "| `steps` |  | Optimizer steps" in text
    assert "| `blocks` | `false` |" in text
