"""A recipe: everything a run needs to know, read from one TOML file and checked before anything starts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compress.methods.decig import Decig
from compress.models import MODELS, find
from compress.train.loop import Training
from device_profiles.errors import BadInput
from device_profiles.target import Target


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class TaskChoice(_Strict):
    """Which task: "scenes", with how many scenes to train on and to hold out, and the seed they are drawn from."""

    name: Literal["scenes"] = "scenes"
    train: int = Field(1024, gt=0)
    held_out: int = Field(128, ge=8)
    size: int = Field(128, ge=16)
    seed: int = Field(0, ge=0)


class Distillation(_Strict):
    """Who teaches in stage II: the original network, the condensed one as in the paper, or none; and how much."""

    teacher: Literal["original", "condensed", "none"] = "original"
    weight: float = Field(0.4, ge=0)


class Goals(_Strict):
    """What the run promises; missing one makes it exit with 3.

    Attributes:
        speedup: Least measured speedup on every target.
        quality_loss_percent: How much worse than the baseline the pruned network may be.
        narrow_penalty_percent: How much worse a network of a quarter of the width must be; otherwise the task is too
            easy for the result to mean anything.
    """

    speedup: float = Field(2.0, gt=1)
    quality_loss_percent: float = Field(3.0, ge=0)
    narrow_penalty_percent: float = Field(10.0, ge=0)


class Recipe(_Strict):
    """One run.

    Attributes:
        name: Names the run's folder.
        title: The report's heading.
        model: A bundled network, "unet-32".
        seed: Of the initial weights.
        targets: "onnxruntime", "openvino": where the result will run, on the CPU.
        threads: Of one inference.
        speedup: What the cut is steered to on the slowest of the targets.
        profile_seconds: How long to measure l(i) on each target.
        measure_seconds: How long to measure latencies on each target, each time.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    model: str
    seed: int = Field(0, ge=0)
    targets: tuple[Literal["onnxruntime", "openvino"], ...] = Field(("onnxruntime", "openvino"), min_length=1)
    threads: int = Field(1, ge=1)
    speedup: float = Field(gt=1)
    profile_seconds: float = Field(12.0, gt=0)
    measure_seconds: float = Field(6.0, gt=0)
    task: TaskChoice = TaskChoice()
    method: Decig = Decig()
    distillation: Distillation = Distillation()
    goals: Goals = Goals()
    baseline: Training
    condense: Training
    finetune: Training

    def cpu_targets(self) -> tuple[Target, ...]:
        """Return the targets that the result is measured on."""
        return tuple(Target(runtime, threads=self.threads) for runtime in self.targets)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        BadInput: The file is missing, is not TOML, or a key is unknown, missing or out of range.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"no recipe at {path}; the bundled ones are in tools/recipes/") from error
    except IsADirectoryError as error:
        raise BadInput(f"{path} is a folder; give a recipe file such as tools/recipes/demo.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"the recipe {path} is not valid TOML ({error})") from error
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"the recipe {path}: {_first_problem(error)}") from error
    _check_model(recipe)
    return recipe


def _check_model(recipe: Recipe) -> None:
    """Make sure that the network exists, can be narrowed and takes images of the task's size."""
    model = find(recipe.model)
    if "width" not in model.arguments or len(model.input_shapes) != 1:
        able = [name for name, each in MODELS.items() if "width" in each.arguments and len(each.input_shapes) == 1]
        raise BadInput(f"model (={recipe.model!r}) is no generator with a width; those are {', '.join(able)}")
    multiple = model.input_shapes[0][-1]
    if recipe.task.size % multiple:
        raise BadInput(
            f"task.size (={recipe.task.size}) must be a multiple of {multiple}, which {recipe.model!r} takes"
        )


def _first_problem(error: ValidationError) -> str:
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    problem = min(error.errors(), key=lambda each: each["type"] not in unknown)  # a misspelt key is also a missing one
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in unknown:
        return f"unknown key {key!r}; {_allowed_keys(problem['loc'][:-1])}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"the key {key!r} is missing; add it"
    return f"{key} (={problem['input']!r}): {problem['msg'].lower()}"


def _allowed_keys(section: tuple[int | str, ...]) -> str:
    fields: object = Recipe
    for part in section:
        fields = fields.model_fields[str(part)].annotation if hasattr(fields, "model_fields") else fields
    names = getattr(fields, "model_fields", None) or getattr(fields, "__dataclass_fields__", {})
    return f"allowed here: {', '.join(names)}"
