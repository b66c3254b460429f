"""The steps of a run, each computed once, kept in the run's folder and found there when the run is started again."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from compress.arguments import build, check_arguments, find_callable
from compress.cut import Cut, Rig, cut_at_random, cut_scores, cut_uniform, widths_of
from compress.export import deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Proof
from compress.graph.surgery import prune
from compress.methods.base import Context, Method
from compress.models import import_callable
from compress.profiling import Profiling
from compress.recipe import Recipe
from compress.report.results import Metric, Phase, PruningError, TargetNetwork
from compress.run_folder import RunFolder
from compress.scores import Scores, producers, set_norms
from compress.surgery import named_tensors, prune_module, with_weights
from compress.tasks import TASKS
from compress.tasks.base import Comparable, Task
from compress.train.judge import judge, recalibrate_, run_in_chunks
from compress.train.loop import Extras, Teacher, Training, train_
from compress.train.processes import on_first
from compress.validate import Candidate, layer_latencies, validate
from compress.weights import load_weights_
from device_profiles.errors import BadInput
from device_profiles.profile import DeviceProfile
from device_profiles.store import load_profile
from device_profiles.target import Target
from runtimes.base import check_target
from runtimes.environment import read_environment
from runtimes.profiler import ProfileConfig
from runtimes.progress import progress_bar

VALIDATED = TypeAdapter(dict[str, TargetNetwork])
RANDOM_CUTS = 3
MEMBERS = ("description", "metric", "batch", "held_out", "loss", "quality")  # what every task has
LEAST_WIDTH = 0.1  # of the widths that latencies are measured at: speedups of 5 and more need such narrow layers
NARROW = 4  # the yardstick of the task's difficulty is a network of this fraction of the width


@dataclass(frozen=True)
class Trained:
    """A network at the end of a training run, with the run's curve."""

    module: nn.Module
    phase: Phase | None = None


@dataclass(frozen=True)
class Condensed:
    """A network that a method has shaped, its channels' scores and the method's own choice where it makes one."""

    module: nn.Module
    phase: Phase | None
    scores: Scores
    chosen: Keep | None


class Job:
    """One run of a recipe: every step is computed once, in its folder, and found there by the next run.

    Args:
        recipe: What to do.
        folder: Where to keep it.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe = recipe
        self.folder = folder
        self.settings = recipe.settings()
        for target in self.targets:
            check_target(target)
        with folder.timed("read the data"):
            self.task: Task = _task(recipe)
        self.example = torch.zeros_like(self.task.held_out().inputs[:1])

    # 1. The network as it is, and the measure of the task's difficulty.

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments of the network's callable, converted to the types that it asks for."""
        model = self.recipe.model
        return check_arguments(import_callable(model.factory), model.factory_arguments, "model")

    @cached_property
    def baseline(self) -> Trained:
        """Build the network that is to become faster, with its weights if it has any, and train it."""
        module = self._fresh()
        if self.recipe.model.weights is not None:
            load_weights_(module, self.recipe.model.weights)
        if self.recipe.baseline is not None:
            producers(self._analysed(module), module)  # what cannot be pruned is found out before it is trained
        return self._train("baseline", module, self.recipe.baseline)

    @cached_property
    def narrow(self) -> Trained | None:
        """Train a network of a quarter of the width for the same steps, if the recipe asks for that."""
        if self.recipe.goals.narrow_penalty_percent is None:
            return None
        width = max(1, self.model_arguments["width"] // NARROW)
        return self._train("quarter", self._fresh(width=width), self.recipe.baseline)

    @cached_property
    def trivial_quality(self) -> float | None:
        """Judge the answer that needs no learning, where the task knows one."""
        if not isinstance(self.task, Comparable):
            return None
        held_out = self.task.held_out()
        return self.task.quality(self.task.trivial(held_out.inputs), held_out.targets).mean().item()

    @cached_property
    def graph(self) -> ChannelGraph:
        """Export the baseline and find its channel graph."""
        with self.folder.timed("export and analyse"):
            return self._analysed(self.baseline.module)

    # 2. What each layer costs on each target.

    @cached_property
    def profiles(self) -> dict[Target, DeviceProfile]:
        """Measure l(i) on every target."""
        return {target: self._profile(target) for target in self.targets}

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets that the recipe names."""
        return self.recipe.chosen_targets()

    @cached_property
    def rig(self) -> Rig:
        """What predicts and measures speedups."""
        needed = {
            target: self.recipe.needed_speedup(target, profile.end_to_end.ms)
            for target, profile in self.profiles.items()
        }
        return Rig(self.graph, self.profiles, needed, self.recipe.measure_seconds / 3)

    def latency_shares(self) -> dict[str, float]:
        """Return l(i): each layer's share of the summed latencies, averaged over the targets."""
        shares: dict[str, float] = {}
        for profile in self.profiles.values():
            latencies = profile.latencies_ms()
            total = sum(latencies.values())
            for name, milliseconds in latencies.items():
                shares[name] = shares.get(name, 0.0) + milliseconds / total / len(self.profiles)
        return shares

    # 3. Stage I: the method shapes and scores the channels.

    @cached_property
    def condensed(self) -> Condensed:
        """Let the method train on the baseline, if it trains, and score the channels."""
        module = copy.deepcopy(self.baseline.module)
        training = self.recipe.condense
        context = Context(
            module=module,
            graph=self.graph,
            task=self.task,
            training=training or self.recipe.finetune,
            latency_shares=self.latency_shares(),
            goal=self.rig.goal,
            speedup=self.rig.predicted_speedup,
            seed=self.recipe.seed,
            multiples=self.rig.multiples,
        )
        method: Method = self.settings.prepare(context)
        phase = self._train("condense", module, training, method.extras()).phase
        with self.folder.timed("score the channels"):
            method.finish_()
            return Condensed(module, phase, method.scores(), method.keep())

    @cached_property
    def baseline_norms(self) -> Scores:
        """Each set's folded norms in the baseline, over their mean there."""
        return set_norms(producers(self.graph, self.baseline.module), self.baseline.module)

    # 4. The cut.

    @cached_property
    def cut(self) -> Cut:
        """Cut as the method chose, or where that does not suffice, at the threshold that meets the recipe's speedup."""
        found = self.condensed
        return Cut.from_json(self._once("cut", lambda: cut_scores(found.scores, found.chosen, self.rig).to_json()))

    @cached_property
    def proof(self) -> Proof:
        """Remove the channels from the condensed network as it was exported, proven."""
        with self.folder.timed("prove the pruning"):
            condensed = with_weights(self.graph.network, named_tensors(self.condensed.module))
            proof = prune(condensed, self.cut.keep).proof
        assert proof is not None, "a pruned network carries its proof"
        return proof

    @cached_property
    def just_pruned(self) -> nn.Module:
        """The condensed network without the removed channels, in torch; compared with the pruned ONNX network."""
        return prune_module(self.condensed.module, self.graph, self.cut.keep)

    @cached_property
    def pruning_error(self) -> PruningError:
        """Judge the cut before anything repairs it, beside random cuts of the same counts."""

        def compute() -> dict[str, Any]:
            recalibrated = copy.deepcopy(self.just_pruned)
            recalibrate_(recalibrated, self.task)
            condensed = self.condensed.module
            draws = [cut_at_random(self.graph, self.cut.keep, seed) for seed in range(RANDOM_CUTS)]
            return asdict(
                PruningError(
                    condensed=self._quality(self.condensed.module),
                    pruned=self._quality(self.just_pruned),
                    recalibrated=self._quality(recalibrated),
                    random=tuple(
                        self._quality(prune_module(condensed, self.graph, draw, prove=False))
                        for draw in progress_bar(draws, "cut at random", "cuts")
                    ),
                )
            )

        return PruningError(**self._once("judge the cut", compute))

    # 5. Stage II, and the yardstick at the same latency.

    @cached_property
    def pruned(self) -> Trained:
        """Recalibrate and fine-tune the pruned network."""
        return self._finetune("finetune", self.just_pruned, self.recipe.finetune)

    @cached_property
    def uniform_cut(self) -> Cut:
        """Cut every layer of the baseline by the same share, to the latency that the pruned network has."""
        norms, goal = self.baseline_norms, self.cut.speedup
        return Cut.from_json(self._once("uniform cut", lambda: cut_uniform(norms, self.rig, goal).to_json()))

    @cached_property
    def uniform(self) -> Trained:
        """Fine-tune the uniform network for the steps of both stages together."""
        module = prune_module(self.baseline.module, self.graph, self.uniform_cut.keep)
        return self._finetune("uniform", module, replace(self.recipe.finetune, steps=self.steps_after_baseline))

    @property
    def steps_after_baseline(self) -> int:
        """Return the training steps of the method and of the fine-tuning together."""
        condense = self.recipe.condense
        return (condense.steps if condense else 0) + self.recipe.finetune.steps

    # 6. The same networks on the targets.

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        """Export every network as it would be deployed."""
        trained = {"baseline": self.baseline, "pruned": self.pruned, "uniform": self.uniform}
        if self.narrow is not None:
            trained["quarter"] = self.narrow
        with self.folder.timed("export"):
            return {
                key: Candidate(
                    each.module,
                    deployable(export_module(each.module, self.example)),
                    run_in_chunks(each.module, self.task.held_out().inputs),
                )
                for key, each in progress_bar(trained.items(), "export", "networks")
            }

    @cached_property
    def validated(self) -> dict[Target, dict[str, TargetNetwork]]:
        """Validate every network on every target."""
        return {target: self._validated(target) for target in self.targets}

    @cached_property
    def layer_latencies(self) -> dict[Target, dict[str, dict[str, float]]]:
        """Measure each layer of the baseline and of the pruned network by itself, ms, by network and layer."""
        networks = {key: self.candidates[key].network for key in ("baseline", "pruned")}
        seconds = self.recipe.measure_seconds
        return {
            target: self._once(f"layers on {target.name}", lambda on=target: layer_latencies(networks, on, seconds))
            for target in self.targets
        }

    def quality_by_image(self, key: str) -> list[float]:
        """Return the held-out quality of one network, image by image."""
        return self.task.quality(self.candidates[key].outputs, self.task.held_out().targets).reshape(-1).tolist()

    def _fresh(self, **arguments: Any) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        model = self.recipe.model
        module = build(import_callable(model.factory), self.model_arguments | arguments, "model")
        if not isinstance(module, nn.Module):
            raise BadInput(f"model (={model.name!r}) made a {type(module).__name__}; it must make a torch.nn.Module")
        return module

    def _analysed(self, module: nn.Module) -> ChannelGraph:
        graph = analyse(export_module(module, self.example))
        if not graph.prunable:
            raise BadInput(
                f"model (={self.recipe.model.name!r}) has no channels that can be removed: what its "
                f"{len(graph.layers)} layers make is the network's output or fixed; give a network with inner channels"
            )
        return graph

    def _train(self, name: str, module: nn.Module, training: Training | None, extras: Extras | None = None) -> Trained:
        if training is None:
            return Trained(module.eval())
        with self.folder.timed(name):
            checkpoint = self.folder.checkpoint(name)
            return Trained(
                module, train_(module, self.task, training, label=name, checkpoint=checkpoint, extras=extras)
            )

    def _finetune(self, name: str, start: nn.Module, training: Training) -> Trained:
        module = copy.deepcopy(start)
        recalibrate_(module, self.task)
        choice = self.recipe.distillation
        teachers = {"original": lambda: self.baseline.module, "condensed": lambda: self.condensed.module}
        taught = choice.teacher != "none" and choice.weight > 0
        teacher = Teacher(teachers[choice.teacher](), choice.weight) if taught else None
        return self._train(name, module, training, Extras(teacher=teacher))

    def _quality(self, module: nn.Module) -> float:
        return judge(module, self.task, self.task.held_out()).mean().item()

    def _once(self, name: str, compute: Any) -> Any:
        with self.folder.timed(name):
            return self.folder.once(name, compute)

    def _profile(self, target: Target) -> DeviceProfile:
        return on_first(lambda: self._measured_profile(target))

    def _measured_profile(self, target: Target) -> DeviceProfile:
        path = self.folder.path / "profiles" / f"{target.name}.json"
        in_context = self.recipe.profile == "in context"
        # The profile of isolated layers is there first; a run that was killed then has to go on from it.
        if not path.exists() or (in_context and load_profile(path).in_context is None):
            config = ProfileConfig(budget_s=self.recipe.profile_seconds)
            model = deployable(self.graph.network).model
            profiling = Profiling(model, self.recipe.model.name, target, config, path, least=LEAST_WIDTH)
            with self.folder.timed(f"profile on {target.name}"):
                profiling.profile(in_context=in_context)
        profile = load_profile(path)
        profile.check_matches(target=target, environment=read_environment())
        return profile

    def _validated(self, target: Target) -> dict[str, TargetNetwork]:
        def compute() -> Any:
            predicted = {
                key: self.rig.predict_ms(target, widths_of(cut.keep))
                for key, cut in (("pruned", self.cut), ("uniform", self.uniform_cut))
            }
            found = validate(self.candidates, target, self.task, self.task.held_out(), self.recipe.measure_seconds)
            return VALIDATED.dump_python(
                {key: replace(each, predicted_ms=predicted.get(key)) for key, each in found.items()}, mode="json"
            )

        return VALIDATED.validate_python(self._once(f"validate on {target.name}", compute))


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
