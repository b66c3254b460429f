"""DCP: select the input channels of each convolution by the gradient of what it should keep doing.

Z. Zhuang et al., "Discrimination-aware Channel Pruning for Deep Neural Networks", NeurIPS 2018, arXiv 1810.11809. P
auxiliary heads cut the network into P + 1 stages. They are trained with it; then each set of channels is emptied and
filled again greedily: the channel with the largest gradient of (reconstruction + lambda * discrimination) returns with
its trained weights, and all returned ones are refined. What differs from the paper:

* A set is selected for all convolutions that take it at once, so that the skip connections of a U-Net can shrink. A set
  with more takers than `most_consumers` (a residual trunk) or with another taker (the classifier) keeps all its
  channels, as in the paper.
* Networks that make pictures have heads that predict the target, by the task's own loss.
* A pass that raises the loss is taken back and its learning rate halved, so that the loss never rises; the paper has
  one learning rate for networks whose activations it knows.
* Heads are trained all together and up front, as in the authors' code, not stage by stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn
from torch.nn import functional

from compress.graph.channels import ChannelGraph, ChannelSet, Keep, Layer
from compress.methods.base import Context
from compress.operators import Operators, Values
from compress.scores import Scores
from compress.select import Selection, keep_strongest, rounded_width
from compress.surgery import named_tensors
from compress.tasks.base import Batch
from compress.train.loop import Extras
from device_profiles.errors import BadInput, UnsupportedModel
from runtimes.progress import progress_bar

IN_AXIS: dict[type[nn.Module], int] = {nn.Conv2d: 1, nn.ConvTranspose2d: 0}
LEAST_HEAD_WEIGHT = 0.01  # of a head in training, as in the authors' code
HALVINGS = 20


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class Dcp:
    """Settings; the defaults are those of the authors' code where it has them.

    Args:
        heads: P, how many auxiliary heads; 3 for ResNet-56 in the authors' code.
        balance: lambda, the weight of the discrimination loss.
        keep_ratio: kappa over the width of each set. None: the largest, equal for all sets, whose predicted speedup
            meets the goal.
        epsilon: Stop filling a set when a channel lowers the loss by no more than this share of the empty set's loss:
            DCP-Adapt. With it, keep_ratio is an upper bound, and 1 where it is not given. The paper's values are 0.1
            to 0.001.
        samples: How many training samples the selection sees, rounded down to whole batches; the authors take 10,000
            on ImageNet.
        batch: Samples of one step of the refinement. At a keep ratio of a quarter 32 of 256 samples left a network
            for digits 67 and 72 % accuracy (two seeds), 64 left it 33 and 35 %.
        learning_rate: Of the refinement by SGD with Nesterov momentum.
        momentum: Of the same.
        most_additions: A set is filled in at most so many rounds, by several channels each if it is wider. The paper
            adds one channel a round, at the price of two passes over the samples for each.
        most_consumers: Sets that more layers take are left whole. 2 takes in skip connections and leaves residual
            trunks, as in the paper.
    """

    title: ClassVar[str] = "DCP"
    source: ClassVar[str] = "Zhuang et al., NeurIPS 2018, arXiv 1810.11809"
    score: ClassVar[str] = "place in the order of selection"
    trains: ClassVar[bool] = True
    selection: ClassVar[Selection] = "threshold"

    heads: int = Field(3, gt=0)
    balance: float = Field(1.0, ge=0)
    keep_ratio: float | None = Field(None, gt=0, le=1)
    epsilon: float | None = Field(None, gt=0)
    samples: int = Field(256, gt=0)
    batch: int = Field(32, gt=0)
    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, gt=0, lt=1)
    most_additions: int = Field(64, gt=0)
    most_consumers: int = Field(2, gt=0)

    def prepare(self, context: Context) -> DiscriminationAwarePruning:
        """Place the heads.

        Raises:
            UnsupportedModel: The network makes neither logits nor pictures, or nowhere has a feature map.
        """
        return DiscriminationAwarePruning(self, context)


class Head(nn.Module):
    """BN-ReLU-GAP-FC for logits, BN-ReLU-1x1 convolution for pictures, enlarged as much as the network does from there.

    Args:
        feature: Shape of what it reads, n c h w, for inputs of some size.
        outputs: Shape of what the network makes of the same inputs: n c, or n c h w.
    """

    def __init__(self, feature: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = tuple(whole / part for whole, part in zip(outputs[2:], feature[2:], strict=False))
        self.norm = nn.BatchNorm2d(feature[1])
        self.read = nn.Conv2d(feature[1], outputs[1], 1)

    def forward(self, feature: Float[Tensor, "n c h w"]) -> Tensor:
        """Return what the network should have made, as far as this feature tells."""
        seen = functional.relu(self.norm(feature.float()))
        if not self.factors:
            return self.read(seen.mean((2, 3), keepdim=True)).flatten(1)
        size = [round(part * factor) for part, factor in zip(seen.shape[2:], self.factors, strict=True)]
        return functional.interpolate(self.read(seen), size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Subject:
    """A set whose channels are selected.

    Attributes:
        name: Of the set.
        width: Of the set.
        channels: Weight of a layer that takes the set -> the set's channel at every position of the weight, -1 where
            the position is another set's.
    """

    name: str
    width: int
    channels: Mapping[str, Tensor]


class DiscriminationAwarePruning:
    """The heads in training, then the selection. `finish_` draws nothing at random: a resumed job repeats it.

    Attributes:
        heads: By the layer whose input they read, dots written as slashes.
        losses: Set -> the joint loss of the empty set and after each round of filling it.
    """

    def __init__(self, settings: Dcp, context: Context) -> None:
        self.settings, self.context = settings, context
        self.losses: dict[str, list[float]] = {}
        graph, module = context.graph, context.module
        self._order: dict[str, Float[np.ndarray, " channels"]] = {}
        self._kept: dict[str, int] = {}
        outputs = next(iter(graph.network.outputs.values()))
        if len(outputs) not in (2, 4):
            raise UnsupportedModel(
                f"the network's output has the shape {outputs}; DCP's heads know logits (n, classes) and pictures "
                "(n, channels, height, width), so choose another method"
            )
        taken = {node.name: node.input[0] for node in graph.network.model.graph.node}
        self._places = place_heads(graph, module, settings.heads)
        shapes = [graph.network.shapes[taken[layer.node]] for layer in self._places]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            made = [Head(tuple(shape), tuple(outputs)) for shape in shapes]
        names = [layer.name.replace(".", "/") for layer in self._places]  # a ModuleDict takes no dots
        self.heads = nn.ModuleDict(dict(zip(names, made, strict=True)))
        self._features: dict[str, Tensor] = {}
        self._hooks = [
            module.get_submodule(layer.name).register_forward_pre_hook(self._reader(name))
            for layer, name in zip(self._places, self.heads, strict=True)
        ]

    def extras(self) -> Extras:
        """Train the heads with the network, later ones with more weight, as in the authors' code."""
        return Extras(
            penalty=self.penalty,
            modules={"heads": self.heads},
            parameter_groups=[
                {"params": list(self.context.module.parameters()), "lr": 1.0},
                {"params": list(self.heads.parameters()), "lr": 1.0},
            ],
        )

    def penalty(self, batch: Batch, _: Tensor) -> Float[Tensor, ""]:
        """Return the weighted sum of the heads' losses on the features of the last forward pass."""
        names = [layer.name for layer in self.context.graph.layers]
        total = torch.zeros(())
        for layer, (name, head) in zip(self._places, self.heads.items(), strict=True):
            depth = names.index(layer.name) / len(names)
            loss = self.context.task.loss(head(self._features.pop(name)), batch.targets)
            total = total + max(LEAST_HEAD_WEIGHT, depth**2) * loss
        return total

    def finish_(self) -> None:
        """Select the channels, and leave their refined weights in the network and zeros for the others.

        Raises:
            BadInput: The heads were never trained.
            UnsupportedModel: There is nothing to select, or torch.export cannot trace the network.
        """
        for hook in self._hooks:
            hook.remove()
        if any(int(head.norm.num_batches_tracked) == 0 for head in self.heads.values()):
            raise BadInput("the heads of DCP have seen no batch (steps = 0); give the method training steps")
        self.context.module.eval()
        self.heads.eval().requires_grad_(requires_grad=False)
        selection = _Selection(self.settings, self.context, self.heads, self._places)
        widths = self._widths(selection.subjects)
        for subject in progress_bar(selection.subjects, "select channels", "sets"):
            filled = selection.select_(subject, widths[subject.name])
            self._order[subject.name] = filled.scores
            self._kept[subject.name] = filled.kept
            self.losses[subject.name] = filled.losses

    def scores(self) -> Scores:
        """Return 1 for the channel selected first, falling evenly to 0; 1 for all where nothing was selected.

        Channels that were not selected rank below by the gradient that they had at the end.
        """
        return {one.name: self._order.get(one.name, np.ones(one.width)) for one in self.context.graph.prunable}

    def keep(self) -> Keep:
        """Return the selected channels; sets that are left whole are not named."""
        return {name: keep_strongest(scores, self._kept[name]) for name, scores in self._order.items()}

    def _widths(self, subjects: list[Subject]) -> dict[str, int]:
        """Return kappa of each set."""
        ratio = self.settings.keep_ratio
        if ratio is not None or self.settings.epsilon is not None:
            return {one.name: most_kept(one.width, 1.0 if ratio is None else ratio) for one in subjects}

        def widths_at(ratio: float) -> dict[str, int]:
            return {one.name: rounded_width(most_kept(one.width, ratio), one.width) for one in subjects}

        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fast = self.context.speedup(widths_at(middle)) >= self.context.goal
            low, high = (middle, high) if fast else (low, middle)
        return widths_at(low)

    def _reader(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def read(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if layer.training:
                self._features[name] = inputs[0]

        return read


def most_kept(width: int, keep_ratio: float) -> int:
    """Return kappa: as many as the authors' code keeps at the pruning rate 1 - keep_ratio, and at least one.

    Example:
        >>> most_kept(64, 0.25), most_kept(10, 0.9), most_kept(3, 0.5)
        (16, 9, 2)
    """
    return max(1, math.ceil(width * keep_ratio - 1e-9))


def place_heads(graph: ChannelGraph, module: nn.Module, count: int) -> list[Layer]:
    """Choose the layers whose inputs the heads read: evenly spaced, where the whole network passes if there are enough.

    A tensor that all paths pass (the sum at the end of a residual block, any in a plain network) tells all that the
    network knows there. A U-Net has too few of those, and takes any.

    Raises:
        UnsupportedModel: The network has fewer places than heads.
    """
    taken = {node.name: node.input[0] for node in graph.network.model.graph.node}
    modules = dict(module.named_modules())
    names = [layer.name for layer in graph.layers]
    inputs = set(graph.network.inputs)
    first_taker = {taken[layer.node]: layer for layer in reversed(graph.layers)}
    places = [
        layer
        for layer in graph.layers
        if layer is first_taker[taken[layer.node]]
        and type(modules.get(layer.name)) in IN_AXIS
        and names.count(layer.name) == 1
        and taken[layer.node] not in inputs
        and len(graph.network.shapes[taken[layer.node]]) == 4
    ]
    passed = _passed_by_all(graph)
    narrow = [layer for layer in places if taken[layer.node] in passed]
    places = narrow if len(narrow) >= count else places
    if len(places) < count:
        raise UnsupportedModel(
            f"heads (={count}) need as many layers that take a feature map, the network has {len(places)}; lower heads"
        )
    chosen: list[Layer] = []
    for index in range(count):
        wanted = (index + 1) * len(names) / (count + 1)
        free = [layer for layer in places if layer not in chosen]
        chosen.append(min(free, key=lambda layer, wanted=wanted: abs(names.index(layer.name) - wanted)))
    return sorted(chosen, key=lambda layer: names.index(layer.name))


def _passed_by_all(graph: ChannelGraph) -> set[str]:
    """Return the tensors that are alone alive right after they were made: every later one depends on them only."""
    nodes = graph.network.model.graph.node
    last_use = {name: position for position, node in enumerate(nodes) for name in node.input}
    alive = set(graph.network.inputs)
    found = set()
    for position, node in enumerate(nodes):
        if alive.isdisjoint(node.input):
            continue  # works on weights only
        alive |= set(node.output)
        alive = {name for name in alive if last_use.get(name, -1) > position}
        if len(alive) == 1:
            found |= alive
    return found


def next_channels(norms: Float[Tensor, " channels"], selected: Bool[Tensor, " channels"], count: int) -> Tensor:
    """Return the channels to select next: those with the largest gradients of the ones that are left."""
    return norms.masked_fill(selected, -math.inf).argsort(descending=True, stable=True)[:count]


@dataclass(frozen=True)
class _Filled:
    """What the selection of one set came to."""

    scores: Float[np.ndarray, " channels"]
    kept: int
    losses: list[float]


@dataclass(frozen=True)
class _Problem:
    """The joint loss of one set as a function of the weights of the layers that take it."""

    subject: Subject
    span: tuple[int, int]
    goals: list[Values]  # chunk by chunk, what the layers made before anything was pruned
    end: str  # the value that the stage's head reads, or the network's output
    head: nn.Module


class _Selection:
    """Goes through the network from front to back with the values of all samples at the present layer."""

    def __init__(self, settings: Dcp, context: Context, heads: nn.ModuleDict, places: list[Layer]) -> None:
        self.settings, self.context = settings, context
        size = min(settings.batch, settings.samples)
        self.chunks = [context.task.batch(-1 - index, size) for index in range(settings.samples // size)]
        self.operators = Operators(context.module, self.chunks[0].inputs)
        self.layers = self.operators.layers()
        self.tensors = {name: tensor.detach() for name, tensor in named_tensors(context.module).items()}
        self.whole = {name: tensor.clone() for name, tensor in self.tensors.items()}
        self.subjects = sorted(self._subjects(), key=self._positions)
        if not self.subjects:
            raise UnsupportedModel(
                f"no prunable channels of {type(context.module).__name__} are taken by at most "
                f"{settings.most_consumers} convolutions and nothing else; raise most_consumers or take another method"
            )
        self.stages = {
            self.operators.operand(self.layers[layer.weight]): head
            for layer, head in zip(places, heads.values(), strict=True)
            if layer.weight in self.layers
        }
        self.stages[self.operators.output] = nn.Identity()
        self.position = 0
        self.values: list[Values] = [{self.operators.input: chunk.inputs} for chunk in self.chunks]
        self.whole_values: list[Values] = list(self.values)

    def select_(self, subject: Subject, most: int) -> _Filled:
        """Empty a set, fill it again up to `most` channels and leave that in the network."""
        problem = self._problem(subject)
        trained = {name: self.tensors[name].clone() for name in subject.channels}
        own = {name: channels >= 0 for name, channels in subject.channels.items()}
        weights = {name: torch.where(own[name], 0.0, tensor) for name, tensor in trained.items()}
        selected, order = torch.zeros(subject.width, dtype=torch.bool), []
        loss, norms = self._evaluate(problem, weights)
        losses, rate = [loss], self.settings.learning_rate
        addition = math.ceil(most / self.settings.most_additions)
        while len(order) < most:
            added = next_channels(norms, selected, min(addition, most - len(order)))
            order += added.tolist()
            selected[added] = True
            free = {name: own[name] & selected[channels] for name, channels in subject.channels.items()}
            returned = {name: own[name] & torch.isin(channels, added) for name, channels in subject.channels.items()}
            trial = {name: torch.where(returned[name], trained[name], weight) for name, weight in weights.items()}
            self._refine_(problem, trial, free, rate)
            trial_loss, trial_norms = self._evaluate(problem, trial)
            if not trial_loss <= loss:
                rate /= 2
                losses.append(loss)
                continue
            gained, loss, norms, weights = loss - trial_loss, trial_loss, trial_norms, trial
            losses.append(loss)
            if self.settings.epsilon is not None and gained <= self.settings.epsilon * losses[0]:
                break
        for name, weight in weights.items():
            self.tensors[name].copy_(weight)
        rest = next_channels(norms, selected, subject.width - len(order)).tolist()
        scores = np.empty(subject.width)
        scores[[*order, *rest]] = 1 - np.arange(subject.width) / subject.width
        return _Filled(scores, len(order), losses)

    def _problem(self, subject: Subject) -> _Problem:
        """Move to the first layer that takes a set, and note what the layers that do should make."""
        operators = self.operators
        positions = self._positions(subject)
        step = (self.position, positions[0])
        self.values = self._advanced(self.values, step, self.tensors)
        self.whole_values = self._advanced(self.whole_values, step, self.whole)
        self.position = positions[0]
        end = next(name for name in self.stages if operators.positions[name] >= positions[-1])
        made = [operators.result(position) for position in positions]
        to_the_last = (positions[0], positions[-1] + 1)
        goals = [
            {name: values[name] for name in made}
            for values in self._advanced(self.whole_values, to_the_last, self.whole, made)
        ]
        return _Problem(subject, (positions[0], operators.positions[end] + 1), goals, end, self.stages[end])

    def _advanced(
        self, values: list[Values], span: tuple[int, int], tensors: Mapping[str, Tensor], wanted: Sequence[str] = ()
    ) -> list[Values]:
        with torch.no_grad():
            return [self.operators.run(chunk, span, tensors, wanted) for chunk in values]

    def _loss(self, problem: _Problem, weights: Mapping[str, Tensor], chunk: int) -> Float[Tensor, ""]:
        goals = problem.goals[chunk]
        made = self.operators.run(self.values[chunk], problem.span, {**self.tensors, **weights}, [*goals, problem.end])
        reconstruction = sum(functional.mse_loss(made[name], goal) for name, goal in goals.items())
        if not self.settings.balance:
            return reconstruction
        told = self.context.task.loss(problem.head(made[problem.end]), self.chunks[chunk].targets)
        return reconstruction + self.settings.balance * told

    def _evaluate(self, problem: _Problem, weights: Mapping[str, Tensor]) -> tuple[float, Float[Tensor, " channels"]]:
        """Return the joint loss over all samples and the norm of its gradient by channel."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        total = 0.0
        for chunk in range(len(self.chunks)):
            loss = self._loss(problem, leaves, chunk) / len(self.chunks)
            loss.backward()
            total += loss.item()
        squares = torch.zeros(problem.subject.width)
        for name, channels in problem.subject.channels.items():
            own = channels >= 0
            squares.index_add_(0, channels[own], leaves[name].grad[own].square())
        return total, squares.sqrt()

    def _refine_(
        self, problem: _Problem, weights: Mapping[str, Tensor], free: Mapping[str, Tensor], rate: float
    ) -> None:
        """Lower the joint loss by one pass over the samples, in the selected channels' weights only, in place."""
        leaves = {name: weight.requires_grad_() for name, weight in weights.items()}
        optimizer = torch.optim.SGD(leaves.values(), lr=rate, momentum=self.settings.momentum, nesterov=True)
        for chunk in range(len(self.chunks)):
            optimizer.zero_grad()
            self._loss(problem, leaves, chunk).backward()
            for name, weight in leaves.items():
                weight.grad.mul_(free[name])
            optimizer.step()
        for weight in leaves.values():
            weight.requires_grad_(requires_grad=False)

    def _positions(self, subject: Subject) -> list[int]:
        return sorted(self.layers[name] for name in subject.channels)

    def _subjects(self) -> list[Subject]:
        graph = self.context.graph
        families = [one.family for one in graph.sets.values()]
        found = [
            self._subject(one) for one in graph.prunable if one.step == 1 and families.count(one.family) == 1
        ]  # where widths must be balanced, the greedy choice is not free, and the set is left whole
        return [one for one in found if one is not None]

    def _subject(self, one: ChannelSet) -> Subject | None:
        """Find where the layers that take a set have its channels; None if they are too many or unknown."""
        graph, modules = self.context.graph, dict(self.context.module.named_modules())
        takers = [graph.layer(name) for name in one.consumers]
        takers = [layer for layer in takers if layer.groups == 1]  # a depthwise layer hands its channels on
        known = all(type(modules.get(layer.name)) in IN_AXIS and layer.weight in self.layers for layer in takers)
        if not known or not 1 <= len(takers) <= self.settings.most_consumers:
            return None
        axes = {layer.weight: IN_AXIS[type(modules[layer.name])] for layer in takers}
        channels = {
            piece.initializer: torch.from_numpy(piece.channels).expand(self.tensors[piece.initializer].shape)
            for piece in graph.slices(one.name)
            if axes.get(piece.initializer) == piece.axis
        }
        return Subject(one.name, one.width, channels) if len(channels) == len(takers) else None
