"""A recipe: everything a run needs to know, read from one TOML file and checked before anything starts."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.arguments import check_arguments, construct, find_callable, first_problem
from compress.budget import Budget
from compress.methods import METHODS
from compress.methods.base import Replacing, Settings
from compress.models import MODELS
from compress.overrides import Overrides
from compress.select import Selection
from compress.tasks import TASKS
from compress.train.loop import Training
from device_profiles.errors import BadInput
from device_profiles.target import Target
from runtimes.base import RUNTIMES


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Choice(BaseModel):
    """Something by name, bundled or "module:callable", with its arguments as further keys."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Return every key but the name."""
        return dict(self.model_extra or {})


class ModelChoice(Choice):
    """Which network; further keys are the arguments of what is named.

    Attributes:
        name: A bundled network, or "package.module:callable" of your own.
        weights: A file with trained weights: .safetensors, or a state dict of torch; none: `[baseline]` trains.
    """

    weights: Path | None = None

    @property
    def factory(self) -> str:
        """Return "package.module:callable" of what builds the network."""
        return MODELS[self.name].factory if self.name in MODELS else self.name

    @property
    def factory_arguments(self) -> dict[str, Any]:
        """Return the arguments of the bundled network, changed by those of the recipe."""
        return {**(MODELS[self.name].arguments if self.name in MODELS else {}), **self.arguments}


class Distillation(_Strict):
    """Who teaches in the fine-tuning.

    Attributes:
        teacher: The "original" network, the "condensed" one as in DECIG's paper, or "none".
        weight: How much the distillation loss counts beside the task's own.
    """

    teacher: Literal["original", "condensed", "none"] = "original"
    weight: float = Field(0.4, ge=0)


class Goals(_Strict):
    """What the run promises; missing one makes it exit with 3.

    Attributes:
        speedup: Least measured speedup on every target; None for what the cut is steered to, less 5 %. A latency in
            `budget_ms` is a promise of its own.
        quality_loss_percent: How much worse than the baseline the pruned network may be.
        quality_loss: The same in the metric's own unit, in place of percent: decibels, points of accuracy.
        over_trivial: By how much, in the metric's unit, the pruned network must beat an answer that nothing was
            learned for, where the task knows one.
        narrow_penalty_percent: How much worse a network of a quarter of the width must be; otherwise the task is too
            easy for the result to mean anything. Asking for it costs the training of that network.
    """

    speedup: float | None = Field(None, gt=1)
    quality_loss_percent: float = Field(3.0, ge=0)
    quality_loss: float | None = Field(None, ge=0)
    over_trivial: float = Field(0.0, ge=0)
    narrow_penalty_percent: float | None = Field(None, ge=0)


class Sweep(_Strict):
    """A list of budgets, for each of which the run makes a network beside its own.

    Attributes:
        speedups: On the slowest of the targets; these or `budgets_ms`.
        budgets_ms: Latencies by target.
        condense: "once": stage I is steered to the most demanding budget within reach, and all networks are cut from
            what comes of it; "per budget": stage I is repeated for each.
    """

    speedups: tuple[Annotated[float, Field(gt=1)], ...] = ()
    budgets_ms: tuple[Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)], ...] = ()
    condense: Literal["once", "per budget"] = "once"

    @model_validator(mode="after")
    def _has_one_list(self) -> Self:
        if bool(self.speedups) == bool(self.budgets_ms):
            raise ValueError("give either speedups such as [1.5, 2, 3], or budgets_ms such as [{onnxruntime = 12}]")
        budgets = self.speedups or self.budgets_ms
        if any(budget in budgets[:place] for place, budget in enumerate(budgets)):
            raise ValueError(f"the budgets (={list(budgets)}) name one twice; name each once")
        return self

    def budgets(self, runtimes: tuple[str, ...]) -> list[Budget]:
        """Return the budgets, each for all of these targets."""
        found = [Budget(runtimes, speedup, place=f"sweep/{speedup:.12g}x") for speedup in self.speedups]
        for each in self.budgets_ms:
            name = "-".join(f"{runtime}-{milliseconds:.12g}ms" for runtime, milliseconds in each.items())
            found.append(Budget(runtimes, None, each, f"sweep/{name}"))
        return found


class Recipe(_Strict):
    """One run.

    Attributes:
        name: Names the run's folder.
        title: The report's heading.
        model: The network.
        task: Data, loss and metric.
        method: Shapes and scores the channels.
        seed: Of the initial weights and of what the method draws.
        targets: The runtimes that the result is for, each on the device it is made for.
        threads: Of one inference on a CPU.
        speedup: What the cut is steered to on the slowest of the targets; this or `budget_ms`.
        budget_ms: The latency that the cut is steered to, by target; targets that are missing only have to become no
            slower.
        sweep: Further budgets, and a network for each.
        networks: "one" that fits all targets, or "one per target" beside it.
        retrain: Whether to also train the found widths from new weights, for as many steps as all trainings together.
        allow_slower: Whether to write a model that is slower than the original on one of the targets.
        selection: How to cut where the method's own choice is not fast enough: at a "threshold" that all layers share,
            or by a "solver" that keeps the most score within every target's budget; see `compress.cut.cut_scores`.
            None: as suits the method's scores.
        blocks: Whether residual branches may go whole, where less score is lost so than by narrowing alone; see
            `compress.block_choice.choose_blocks`.
        profile: How latencies of other widths are predicted: from layers "in context" of whole networks of random
            widths, the better way and the longer one, or from "isolated" layers.
        profile_seconds: How long to measure l(i) on each target; in context, again.
        measure_seconds: How long to measure latencies on each target, each time.
        distillation: Who teaches in the fine-tuning.
        goals: What the run promises.
        baseline: How to train the network that is to become faster; without it, the weights of the model are it.
        condense: How the method trains; a score that needs no training does without.
        finetune: How the pruned network is trained on.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    model: ModelChoice
    task: Choice
    method: Choice = Choice(name="decig")
    seed: int = Field(0, ge=0)
    targets: tuple[Literal["onnxruntime", "openvino", "tensorrt"], ...] = Field(
        ("onnxruntime", "openvino"), min_length=1
    )
    threads: int = Field(1, ge=1)
    speedup: float | None = Field(None, gt=1)
    budget_ms: dict[str, Annotated[float, Field(gt=0)]] = {}
    sweep: Sweep | None = None
    networks: Literal["one", "one per target"] = "one"
    retrain: bool = False
    allow_slower: bool = False
    selection: Selection | None = None
    blocks: bool = False
    profile: Literal["in context", "isolated"] = "in context"
    profile_seconds: float = Field(12.0, gt=0)
    measure_seconds: float = Field(6.0, gt=0)
    distillation: Distillation = Distillation()
    goals: Goals = Goals()
    baseline: Training | None = None
    condense: Training | None = None
    finetune: Training

    @model_validator(mode="after")
    def _has_a_baseline(self) -> Self:
        if self.baseline is None and self.model.weights is None:
            raise ValueError("there is nothing to start from; add [baseline] to train, or weights to [model]")
        if self.baseline is None and self.goals.narrow_penalty_percent is not None:
            raise ValueError("goals.narrow_penalty_percent trains a narrow network as [baseline] says; add that table")
        if self.baseline is None and self.retrain:
            raise ValueError("retrain trains new weights as [baseline] says; add that table")
        return self

    @model_validator(mode="after")
    def _has_minutes_for_all_or_none(self) -> Self:
        trained = {"condense": self.condense, "finetune": self.finetune}
        trained |= {"baseline": self.baseline} if self.retrain else {}
        timed = {name: each.minutes is not None for name, each in trained.items() if each is not None}
        if any(timed.values()) and not all(timed.values()):
            given, missing = (sorted(name for name in timed if timed[name] is has) for has in (True, False))
            raise ValueError(
                f"minutes are given to {' and '.join(given)}, not to {' and '.join(missing)}, and other networks are "
                "trained for the steps and minutes of these together; give minutes to all of them, or to none"
            )
        return self

    @model_validator(mode="after")
    def _probes_no_method(self) -> Self:
        if self.condense is not None and self.condense.probe:
            raise ValueError(
                f"condense.probe (={list(self.condense.probe)}) cannot be: methods hold on to the network that they "
                "train, and probes train copies; probe in [baseline] and [finetune]"
            )
        return self

    @model_validator(mode="after")
    def _has_each_target_once(self) -> Self:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets (={list(self.targets)}) names one twice; name each once")
        if self.networks == "one per target" and len(self.targets) == 1:
            raise ValueError("networks (='one per target') needs two targets or more; leave it out, or name another")
        return self

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        if (self.speedup is None) == (not self.budget_ms):
            raise ValueError("give either speedup or budget_ms, such as budget_ms = {onnxruntime = 12}")
        swept = self.sweep.budgets_ms if self.sweep else ()
        for name, budget in (("budget_ms", self.budget_ms), *(("sweep.budgets_ms", each) for each in swept)):
            if unknown := sorted(budget.keys() - set(self.targets)):
                raise ValueError(f"{name} names {unknown}, which are not among the targets {list(self.targets)}")
        return self

    @property
    def budget(self) -> Budget:
        """What the run's own network is to reach, on all targets at once."""
        return Budget(self.targets, self.speedup, self.budget_ms)

    @property
    def further_budgets(self) -> tuple[Budget, ...]:
        """What the run's other networks are to reach: those of the sweep, then each target's own.

        A budget of the sweep that is the run's own needs no other network.
        """
        swept = self.sweep.budgets(self.targets) if self.sweep else []
        own = [
            Budget((name,), self.speedup, {k: v for k, v in self.budget_ms.items() if k == name}, f"targets/{name}")
            for name in self.targets
            if self.networks == "one per target"
        ]
        return (*(each for each in swept if replace(each, place="") != self.budget), *own)

    @property
    def full_training(self) -> Training:
        """The baseline's training over the steps, and the minutes if all have some, of all trainings together."""
        assert self.baseline is not None, "a recipe that retrains has a baseline's training"
        return _together(self.baseline, (self.baseline, self.condense, self.finetune))

    @property
    def after_baseline(self) -> Training:
        """The fine-tuning over the steps, and the minutes if they have some, of the method's training and its own."""
        return _together(self.finetune, (self.condense, self.finetune))

    def settings(self) -> Settings:
        """Return the method's settings.

        Raises:
            BadInput: There is no such method, or a setting is wrong.
        """
        return construct(find_callable(self.method.name, METHODS, "method"), self.method.arguments, "method")

    def chosen_targets(self) -> tuple[Target, ...]:
        """Return the targets that the result is measured on."""
        return tuple(Target(name, RUNTIMES[name].device, threads=self.threads) for name in self.targets)


def _together(training: Training, parts: Sequence[Training | None]) -> Training:
    """Return a training over the steps, and the minutes if all have some, of several; None is one that is left out."""
    given = [each for each in parts if each is not None]
    minutes = [each.minutes for each in given if each.minutes is not None]
    return replace(
        training,
        steps=sum(each.steps for each in given),
        minutes=sum(minutes) if len(minutes) == len(given) else None,
    )


def read_recipe(path: Path, overrides: Overrides | None = None) -> Recipe:
    """Read and check a recipe. Modules that it names are looked for in its own folder, too.

    Args:
        path: A TOML file.
        overrides: What the command line says in place of the recipe.

    Raises:
        BadInput: The file is missing, is not TOML, a key is unknown, missing or out of range, or names nothing.
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
        recipe = Recipe.model_validate((overrides or Overrides()).apply(content))
    except ValidationError as error:
        raise BadInput(f"the recipe {path}: {_problem(error)}") from error
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return _with_checked_arguments(recipe)
    except BadInput as error:
        raise BadInput(f"the recipe {path}: {error}") from error


def _with_checked_arguments(recipe: Recipe) -> Recipe:
    """Import what the recipe names and check its arguments, without building any of it."""
    settings = recipe.settings()
    if missing := [member for member in get_annotations(Settings) if not hasattr(settings, member)]:
        raise BadInput(
            f"method (={recipe.method.name!r}) does not say its {', '.join(missing)}; give it the members of "
            "compress.methods.base.Settings"
        )
    if settings.selection not in get_args(Selection):
        raise BadInput(
            f"method (={recipe.method.name!r}) has selection={settings.selection!r}; allowed: "
            f"{', '.join(get_args(Selection))}"
        )
    if recipe.blocks and isinstance(settings, Replacing):
        raise BadInput(
            f"blocks (=true) go by what was measured of the network as it is, and method (={recipe.method.name!r}) "
            "puts other layers into it; leave blocks out, or choose another method"
        )
    if settings.trains and recipe.condense is None:
        raise BadInput(f"method (={recipe.method.name!r}) trains the network before it cuts; add [condense] with steps")
    task = find_callable(recipe.task.name, TASKS, "task")
    check_arguments(task, recipe.task.arguments, "task")
    factory = find_callable(recipe.model.name, {name: model.factory for name, model in MODELS.items()}, "model")
    arguments = check_arguments(factory, recipe.model.factory_arguments, "model")
    if recipe.goals.narrow_penalty_percent is not None and "width" not in arguments:
        raise BadInput(
            f"goals.narrow_penalty_percent needs a model with the argument 'width', {recipe.model.name!r} was given "
            "none; give model.width, or leave the goal out"
        )
    return recipe


def _problem(error: ValidationError) -> str:
    first = min(error.errors(), key=lambda each: each["type"] not in ("extra_forbidden", "unexpected_keyword_argument"))
    fields: Any = Recipe
    for part in first["loc"][:-1]:
        annotation = fields.model_fields[str(part)].annotation if hasattr(fields, "model_fields") else fields
        fields = next((each for each in getattr(annotation, "__args__", ()) if each is not type(None)), annotation)
    names = getattr(fields, "model_fields", None) or getattr(fields, "__dataclass_fields__", {})
    return first_problem(error, "", list(names))
