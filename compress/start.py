"""What every budget of a run starts from: the data, the network as it is, its channels and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn

from compress.arguments import build, check_arguments, find_callable
from compress.balanced import keep_counts
from compress.budget import Budget
from compress.cut import Rig
from compress.export import deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.methods.base import Context
from compress.models import import_callable
from compress.profiling import Profiling
from compress.recipe import Recipe
from compress.report.results import Metric, Phase
from compress.rigid import rigid_sets
from compress.run_folder import RunFolder
from compress.scores import Scores, producers, set_norms
from compress.tasks import TASKS
from compress.tasks.base import Batch, Comparable, Task
from compress.tasks.teaching import check_teaching
from compress.train.judge import CHUNK, mean_quality, run_in_chunks
from compress.train.loop import Extras, Training, train_
from compress.train.probe import Probed, check_probe, probe
from compress.train.processes import make_fabric, on_first
from compress.weights import load_weights_
from device_profiles.errors import BadInput
from device_profiles.profile import DeviceProfile
from device_profiles.store import load_profile
from device_profiles.target import Target
from runtimes.base import check_target
from runtimes.environment import read_environment
from runtimes.profiler import ProfileConfig

MEMBERS = ("description", "metric", "batch", "held_out", "loss", "quality")  # what every task has
LEAST_WIDTH = 0.1  # of the widths that latencies are measured at: speedups of 5 and more need such narrow layers
PROBED = TypeAdapter(Probed)
NARROW = 4  # the yardstick of the task's difficulty is a network of this fraction of the width


@dataclass(frozen=True)
class Trained:
    """A network at the end of a training run, with the run's curve."""

    module: nn.Module
    phase: Phase | None = None


class Start:
    """The part of a run that no budget changes: every step is computed once, and found in the folder by the next run.

    Args:
        recipe: What to do.
        folder: Where to keep it.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe = recipe
        self.folder = folder
        for target in self.targets:
            check_target(target)
        with folder.timed("read the data"):
            self.task: Task = _task(recipe)
        for training in filter(None, (recipe.baseline, recipe.finetune)):
            check_probe(self.task, training)  # before anything is trained
        self.example = torch.zeros_like(self.task.held_out().inputs[:1])

    # 1. The network as it is, and the measure of the task's difficulty.

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments of the network's callable, converted to the types that it asks for."""
        model = self.recipe.model
        return check_arguments(import_callable(model.factory), model.factory_arguments, "model")

    def fresh(self, seed: int, **arguments: Any) -> nn.Module:
        """Build the network with new weights; `arguments` replace those of the recipe."""
        torch.manual_seed(seed)
        model = self.recipe.model
        module = build(import_callable(model.factory), self.model_arguments | arguments, "model")
        if not isinstance(module, nn.Module):
            raise BadInput(f"model (={model.name!r}) made a {type(module).__name__}; it must make a torch.nn.Module")
        return module

    @cached_property
    def baseline(self) -> Trained:
        """Build the network that is to become faster, with its weights if it has any, and train it."""
        module = self.fresh(self.recipe.seed)
        if self.recipe.model.weights is not None:
            load_weights_(module, self.recipe.model.weights)
        if not self.folder.checkpoint("baseline").exists():  # before it is trained
            self._check_judgement(module)
            if self.recipe.baseline is not None:
                self._check_prunable(module)
        return self.train("baseline", module, self.recipe.baseline)

    @cached_property
    def narrow(self) -> Trained | None:
        """Train a network of a quarter of the width for the same steps, if the recipe asks for that."""
        if self.recipe.goals.narrow_penalty_percent is None:
            return None
        width = max(1, self.model_arguments["width"] // NARROW)
        return self.train("quarter", self.fresh(self.recipe.seed, width=width), self.recipe.baseline)

    @cached_property
    def trivial_quality(self) -> float | None:
        """Judge the answer that needs no learning, where the task knows one."""
        if not isinstance(self.task, Comparable):
            return None
        held_out = self.task.held_out()
        return mean_quality(self.task, self.task.trivial(held_out.inputs), held_out)

    # 2. Its channels, and what each layer costs on each target.

    @cached_property
    def graph(self) -> ChannelGraph:
        """Export the baseline and find its channel graph, with what its code does not let go frozen."""
        with self.folder.timed("export and analyse"):
            return self._prunable(self.analysed(self.baseline.module, "rigid channels"))

    def analysed(self, module: nn.Module, step: str) -> ChannelGraph:
        """Export a module and find its channel graph, with what its code does not let go frozen.

        Args:
            module: The baseline, or what a method and the removal of blocks made of it.
            step: Names the step that finds what the code does not let go.
        """
        graph = analyse(export_module(module, self.example))
        rigid = self.folder.once(step, lambda: rigid_in_half(module, graph))
        return analyse(graph.network, frozen=rigid) if rigid else graph

    @cached_property
    def norms(self) -> Scores:
        """Each set's folded norms in the baseline, over their mean there."""
        return set_norms(producers(self.graph, self.baseline.module), self.baseline.module)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets that the recipe names."""
        return self.recipe.chosen_targets()

    @cached_property
    def profiles(self) -> dict[Target, DeviceProfile]:
        """Measure l(i) on every target."""
        return self.profiles_of(self.graph)

    def profiles_of(self, graph: ChannelGraph, place: str = "") -> dict[Target, DeviceProfile]:
        """Measure l(i) of a network on every target.

        Args:
            graph: Its channel graph, found by all processes, before the first one measures alone.
            place: Where to keep the profiles among those of the run; empty for those of the network as it is.
        """
        return {target: on_first(lambda on=target: self._profile(graph, on, place)) for target in self.targets}

    def latency_shares(self) -> dict[str, float]:
        """Return l(i): each layer's share of the summed latencies, averaged over the targets."""
        shares: dict[str, float] = {}
        for profile in self.profiles.values():
            latencies = profile.latencies_ms()
            total = sum(latencies.values())
            for name, milliseconds in latencies.items():
                shares[name] = shares.get(name, 0.0) + milliseconds / total / len(self.profiles)
        return shares

    def needed(self, budget: Budget) -> dict[Target, float]:
        """Return how much faster a budget asks the network to become, by target."""
        return {
            target: budget.needed_speedup(target, profile.end_to_end.ms)
            for target, profile in self.profiles.items()
            if target.runtime in budget.runtimes
        }

    def rig(self, budget: Budget) -> Rig:
        """Return what predicts and measures speedups for a budget.

        Raises:
            BadInput: The network as it is keeps the budget.
        """
        needed = self.needed(budget)
        profiles = {target: self.profiles[target] for target in needed}
        return Rig(self.graph, profiles, needed, self.recipe.measure_seconds / 3)

    def context(self, module: nn.Module, rig: Rig, training: Training) -> Context:
        """Return what a method is given.

        Args:
            module: A copy of the baseline's.
            rig: Predicts for the budget that the method is steered to.
            training: Of the method's own.
        """
        return Context(
            module=module,
            graph=self.graph,
            task=self.task,
            training=training,
            latency_shares=self.latency_shares(),
            goal=rig.goal,
            speedup=rig.predicted_speedup,
            seed=self.recipe.seed,
            multiples=rig.multiples,
        )

    # What steps are made of.

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a step's JSON result, computed once and timed."""
        with self.folder.timed(name):
            return self.folder.once(name, compute)

    def train(self, name: str, module: nn.Module, training: Training | None, extras: Extras | None = None) -> Trained:
        """Train a module in place, from where an earlier run stopped; without a training it stays as it is."""
        if training is None:
            return Trained(module.eval())
        if training.probe:
            probed = self._probed(name, module, training, extras)
            trained = self.train(name, module, replace(training, learning_rate=probed.best, probe=()), extras)
            tried, diverged = probed.named_losses, tuple(f"{rate:.3g}" for rate in probed.diverged)
            found = replace(trained.phase, tried=tried, rate=f"{probed.best:.3g}", diverged=diverged)
            return replace(trained, phase=found)
        with self.folder.timed(name):
            checkpoint = self.folder.checkpoint(name)
            return Trained(
                module, train_(module, self.task, training, label=name, checkpoint=checkpoint, extras=extras)
            )

    def _probed(self, name: str, module: nn.Module, training: Training, extras: Extras | None) -> Probed:
        """Find the learning rate of a training, once in a run."""

        def compute() -> Any:
            def place(rate: float) -> Path:
                return self.folder.checkpoint(f"{name} at {rate}")

            found = probe(module, self.task, training, label=name, checkpoint=place, extras=extras)
            return PROBED.dump_python(found, mode="json")

        step = f"learning rate of {name}"
        with self.folder.timed(step):
            return PROBED.validate_python(self.folder.once_together(step, compute))

    def quality(self, module: nn.Module) -> float:
        """Judge a network on the held-out data."""
        held_out = self.task.held_out()
        return mean_quality(self.task, run_in_chunks(module, held_out.inputs), held_out)

    def _check_judgement(self, module: nn.Module) -> None:
        """Make sure that the task can judge networks, and that a teacher's outputs can be compared with theirs."""
        held_out, teaching = self.task.held_out(), self.recipe.distillation
        outputs = run_in_chunks(module, held_out.inputs)
        mean_quality(self.task, outputs, held_out)
        _ = self.trivial_quality
        if teaching.teacher != "none" and teaching.weight:
            some, device = held_out.chunks(CHUNK)[0], make_fabric(self.recipe.finetune.device).device
            judged = Batch(some.inputs.to(device), some.targets.to(device))
            check_teaching(self.task, outputs[:CHUNK].to(device), judged)

    def _check_prunable(self, module: nn.Module) -> None:
        graph = self._prunable(analyse(export_module(module, self.example)))
        rigid = rigid_in_half(module, graph)
        self._prunable(analyse(graph.network, frozen=rigid))
        producers(graph, module)

    def _prunable(self, graph: ChannelGraph) -> ChannelGraph:
        if not graph.prunable:
            reasons = [f"; {one.name!r} {one.frozen}" for one in graph.sets.values() if one.frozen]
            raise BadInput(
                f"model (={self.recipe.model.name!r}) has no channels that can be removed: what its "
                f"{len(graph.layers)} layers make is the network's output or fixed{''.join(reasons[:1])}; give a "
                "network with inner channels"
            )
        return graph

    def _profile(self, graph: ChannelGraph, target: Target, place: str) -> DeviceProfile:
        path = self.folder.path / "profiles" / place / f"{target.name}.json"
        in_context = self.recipe.profile == "in context" and bool(graph.prunable)
        # The profile of isolated layers is there first; a run that was killed then has to go on from it.
        if not path.exists() or (in_context and load_profile(path).in_context is None):
            config = ProfileConfig(budget_s=self.recipe.profile_seconds)
            model = deployable(graph.network).model
            profiling = Profiling(model, self.recipe.model.name, target, config, path, least=LEAST_WIDTH)
            with self.folder.timed(" ".join(["profile", *filter(None, [place]), f"on {target.name}"])):
                profiling.profile(in_context=in_context)
        profile = load_profile(path)
        profile.check_matches(target=target, environment=read_environment())
        return profile


def rigid_in_half(module: nn.Module, graph: ChannelGraph) -> dict[str, str]:
    """Return the channel sets that a module's code does not let go, with the reasons, as half of all channels show."""
    generator = np.random.default_rng(0)
    scores = {one.name: generator.random(one.width) for one in graph.prunable}
    half = keep_counts(graph, scores, {one.name: one.width // 2 for one in graph.prunable})
    return rigid_sets(module, graph, half)


def _task(recipe: Recipe) -> Task:
    factory = find_callable(recipe.task.name, TASKS, "task")
    task = build(factory, recipe.task.arguments, "task")
    missing = [name for name in MEMBERS if not hasattr(task, name)]
    if missing:
        raise BadInput(f"task (={recipe.task.name!r}) has no {', '.join(missing)}; see compress.tasks.base.Task")
    if not isinstance(task.metric, Metric):
        raise BadInput(f"task.metric (={task.metric!r}) must be a compress.report.results.Metric with name and unit")
    if not len(task.held_out()):
        raise BadInput(f"task (={recipe.task.name!r}) holds out no samples; hold some out to judge the networks by")
    return task
