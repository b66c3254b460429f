"""Networks with a task, a seed and a baseline in common: each is made once, in a folder of its own, and measured.

What `methods.py` and `peers_trained.py` are built on. A killed benchmark goes on where it stopped.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.methods import METHODS
from device_profiles.errors import ToolkitError, Unwritable
from device_profiles.store import write_whole

if TYPE_CHECKING:
    from torch import nn

    from compress.graph.network import Network
    from compress.recipe import Recipe
    from compress.run_folder import RunFolder
    from compress.train.extras import Extras
    from compress.train.training import Training
    from device_profiles.target import Target

RECIPES = Path(__file__).parents[1] / "recipes"
Row = dict[str, Any]


@dataclass(frozen=True)
class Small:
    """What a benchmark puts in place of a bundled recipe's values, so that every network takes seconds on one core.

    Attributes:
        recipe: The bundled recipe.
        baseline_steps: Training steps of the baseline.
        budget_steps: Training steps after it.
        changes: By section of the recipe.
        final_seconds: How long the networks are measured on each target at the end: there may be 65 of them.
    """

    recipe: str
    baseline_steps: int
    budget_steps: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    final_seconds: float = 60.0


@dataclass(frozen=True)
class Made:
    """A network, and what is to be known of how it was made."""

    module: nn.Module
    facts: Row


def recipe_for(small: Small, seed: int, steps: int, method: str = "l1") -> Recipe:
    """Return a task's recipe with a method, a seed and so many training steps after the baseline.

    A method that trains has half of them for itself and half for fine-tuning.
    """
    from compress.arguments import find_callable
    from compress.recipe import Recipe

    content = dict(_bundled(small.recipe))
    for section, change in small.changes.items():
        content[section] = {**content[section], **change} if isinstance(change, dict) else change
    own = steps // 2 if find_callable(method, METHODS, "method").trains else 0
    finetune = content["finetune"] | {"steps": steps - own}
    content |= {
        "seed": seed,
        "task": content["task"] | {"seed": seed},
        "method": {"name": method},
        "baseline": content["baseline"] | {"steps": small.baseline_steps},
        "condense": finetune | {"steps": own, "schedule": "flat"} if own else None,
        "finetune": finetune,
        "goals": {},
        "blocks": small.changes.get("blocks", False),  # uniform widths keep all of them
    }
    return Recipe.model_validate(content)


@functools.cache
def _bundled(name: str) -> dict[str, Any]:
    """Read a recipe, once: all networks come from the same one, whoever edits it meanwhile."""
    return tomllib.loads((RECIPES / f"{name}.toml").read_text("utf-8"))


class Study:
    """The networks of one task and seed.

    Args:
        small: The task.
        seed: Of the weights, of the order of the data and of what methods draw.
        steps: After the baseline.
        folder: Where the networks' folders go.
    """

    def __init__(self, small: Small, seed: int, steps: int, folder: Path) -> None:
        from compress.start import Start

        self.small, self.seed, self.steps, self.folder = small, seed, steps, folder
        self._folders: dict[str, RunFolder] = {}
        self.start = Start(recipe_for(small, seed, steps), self.folder_of("start"))

    def folder_of(self, name: str) -> RunFolder:
        """Return the folder of a network."""
        from compress.run_folder import RunFolder

        if name not in self._folders:
            common = recipe_for(self.small, self.seed, self.steps).model_dump(mode="json")
            self._folders[name] = RunFolder(self.folder / name, {"recipe": common})
        return self._folders[name]

    def description(self) -> dict[str, Any]:
        """Return what all networks have in common."""
        recipe, metric = self.start.recipe, self.start.task.metric
        return {
            "baseline_steps": recipe.baseline.steps,
            "budget_steps": self.steps,
            "metric": {"name": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better},
            "recipe": recipe.model_dump(mode="json", exclude={"method", "condense", "seed", "goals"}),
        }

    def row(self, name: str, make: Callable[[], Made]) -> Row:
        """Make a network, unless it is there, and return what is known of it; a reason where it cannot be made."""
        folder = self.folder_of(name)
        try:
            return folder.once("row", lambda: self._deployed(folder, make()))
        except Unwritable:
            raise  # says nothing of the network, which is made when the command is repeated
        except ToolkitError as error:
            return {"reason": str(error)}

    def network(self, name: str) -> Network:
        """Return a network as it is deployed, once its row is there."""
        from compress.graph.network import Network
        from runtimes.model_file import read_model

        return Network(read_model(self.folder / name / "model.onnx"))

    def train_(self, name: str, module: nn.Module, training: Training, extras: Extras | None = None) -> nn.Module:
        """Train a module in place, from where an earlier run stopped, and return it."""
        from compress.train.loop import train_

        folder, task = self.folder_of(name), self.start.task
        with folder.timed("train"):
            train_(module, task, training, label=name, checkpoint=folder.checkpoint("train"), extras=extras)
        return module

    def _deployed(self, folder: RunFolder, made: Made) -> Row:
        from compress.export import deployable, export_module
        from compress.graph.count import macs
        from runtimes.model_file import to_bytes

        network = deployable(export_module(made.module, self.start.example))
        write_whole(folder.path / "model.onnx", to_bytes(network.model))
        return made.facts | {
            "quality": self.start.quality(made.module),
            "parameters": sum(parameter.numel() for parameter in made.module.parameters()),
            "macs": macs(network),
            "seconds": folder.seconds(),
        }


def measured(
    networks: Mapping[str, Network], wholes: Mapping[str, str], targets: Sequence[Target], seconds: float
) -> dict[str, dict[str, Row]]:
    """Measure networks on each target, interleaved in one run.

    Args:
        networks: As they are deployed.
        wholes: Network -> the one that its speedup is over.
        targets: Where.
        seconds: How long on each.

    Returns:
        Network -> target -> its latency, with the number of samples and their spread.
    """
    from compress.validate import measure_latencies

    rows: dict[str, dict[str, Row]] = {key: {} for key in networks}
    for target in targets:
        found = measure_latencies(networks, target, seconds)
        for key, one in found.items():
            rows[key][target.name] = {
                "speedup": round(found[wholes[key]].ms / one.ms, 3),
                "ms": round(one.ms, 4),
                "n": one.n,
                "spread_percent": round(one.spread_percent, 2),
            }
    return rows
