"""Print every key that a recipe may have, with its default and meaning: docs/recipe_keys.md is what this printed.

All of it is read off the code: the classes that check a recipe, and what bundled methods, tasks and networks take.

    python tools/recipe_keys.py > docs/recipe_keys.md
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from compress.methods import METHODS
from compress.models import MODELS, import_callable
from compress.recipe import Choice, Distillation, Goals, ModelChoice, Recipe, Sweep
from compress.tasks import TASKS
from compress.train.training import Training
from tools.command_line import run

TRAININGS = ("baseline", "condense", "finetune")
INTRODUCTION = """# Every key of a recipe

What `python tools/recipe_keys.py` prints, read off the code. Keys without a default must be given; "none" is what a key
is that was left out. [recipes.md](recipes.md) says what they are good for.
"""


def main() -> int:
    """Print the reference as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(reference(), end="")
    return 0


def reference() -> str:
    """Return the reference of all keys, as Markdown."""
    return "\n".join([INTRODUCTION, *_tables(), *_named("method", METHODS), *_named("task", TASKS), *_networks()])


def _tables() -> Iterator[str]:
    yield from _section("## The recipe itself", Recipe)
    for name, model in (("model", ModelChoice), ("sweep", Sweep), ("distillation", Distillation), ("goals", Goals)):
        yield from _section(f"## `[{name}]`", model)
    yield from _section(" ".join(["##", ", ".join(f"`[{name}]`" for name in TRAININGS)]), Training)


def _named(kind: str, table: dict[str, str]) -> Iterator[str]:
    yield f"## `[{kind}]`\n"
    yield '`name` is one of these, or "package.module:callable" of your own; further keys are its arguments.\n'
    for name, path in table.items():
        described = import_callable(path)
        title = f"\n\n**{described.title}**: {described.source}." if kind == "method" else ""
        yield from _section(f"### `{name}`{title}", described)


def _networks() -> Iterator[str]:
    yield "## Networks\n"
    yield "| name | built by | with | input |\n|---|---|---|---|"
    for name, model in MODELS.items():
        given = ", ".join(f"{key} = {_literal(value)}" for key, value in model.arguments.items())
        shapes = ", ".join("x".join(map(str, shape)) for shape in model.input_shapes)
        yield f"| `{name}` | {model.factory.split(':')[1]} | {given or '-'} | {shapes} |"
    yield ""
    for factory in dict.fromkeys(model.factory for model in MODELS.values()):
        yield from _section(f"### {factory.split(':')[1]}", import_callable(factory))


def _section(heading: str, described: type[Any]) -> Iterator[str]:
    """Describe what a class takes by its docstring and its signature."""
    text, meanings = _docstring(described)
    parameters = [
        each for each in inspect.signature(described).parameters.values() if each.kind is not each.VAR_KEYWORD
    ]
    checked = is_dataclass(described) or issubclass(described, BaseModel)
    hints = get_type_hints(described if checked else described.__init__)
    yield f"{heading}\n\n{text}\n"
    if defaults := {each.name: each.default for each in parameters}:
        yield _rows(defaults, hints, meanings)


def _docstring(described: object) -> tuple[str, dict[str, str]]:
    """Split a docstring into what it says first, as paragraphs, and what each argument means."""
    text, *sections = re.split(r"\n\n(?=\w+:\n)", inspect.getdoc(described) or "")
    arguments = next((each for each in sections if each.startswith(("Args:", "Attributes:"))), "")
    meanings = re.findall(r"^ {4}(\w+): ((?:.|\n {5,})*)", arguments, re.MULTILINE)
    return text, {name: " ".join(meaning.split()) for name, meaning in meanings}


def _rows(defaults: dict[str, Any], hints: dict[str, Any], meanings: dict[str, str]) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, default in defaults.items():
        several = isinstance(default, tuple)
        choices = [f"`{_literal(value)}`" for value in _choices(hints.get(name)) if several or value != default]
        shown = "" if default is inspect.Parameter.empty else f"`{_literal(default)}`"
        allowed = f"; {'of' if several else 'or'} {', '.join(choices)}" if choices else ""
        lines.append(f"| `{name}` | {shown}{allowed} | {meanings[name].replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, ""])


def _choices(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(value for part in get_args(hint) for value in _choices(part))


def _literal(value: Any) -> str:
    """Write a value as TOML has it, and none for what it has no word for."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, Choice):
        return f"{{name = {_literal(value.name)}}}"
    if isinstance(value, int | float):
        return str(value)
    return "none" if value is None else "{}"


if __name__ == "__main__":
    run(main)
