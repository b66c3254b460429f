"""Learned group convolution: each group of filters learns which inputs it needs, and the others are never read.

G. Huang et al., "CondenseNet: An Efficient DenseNet using Learned Group Convolutions", CVPR 2018, arXiv 1711.09224. A
group convolution is a dense one with a fixed block mask, and a channel shuffle (ShuffleNet, X. Zhang et al., CVPR 2018,
arXiv 1707.01083) is a hand-made choice of what each block sees: pruning parts of a layer instead of channels. Here the
mask is learned. What differs from the paper:

* Groups are blocks of filters in their order, not every G-th filter: filters of a layer are exchangeable before their
  inputs are chosen, and so the exported groups need no shuffle afterwards that a consumer would have to absorb.
* Each input belongs to one group only, unless `overlap` is on. So the layers before a condensed one can still lose
  channels, equally many of each group, and where none of them is condensed itself, their filters are put into the order
  in which the groups read them: nothing is gathered then, exactly. After 60 steps digits were read better so, 97.2 %
  against 95.6 %, after 120 steps 98.9 % against 98.3 % (means of three starts).
* Any convolution with enough channels can be condensed, not 1x1 ones only, and trained ones too.
* It is done only where it pays: `grouping_gain` measures the gathered group convolution against the dense one. The
  gather is a pass over memory that the dense one does not need: with G = C = 4, in two runtimes on one CPU, layers of
  64 and 256 channels became 1.6 to 3.9 times as fast, layers of 16 channels 0.9 to 1.4 times.
* Learned inputs are better than drawn ones right after they are chosen; trained on for long enough, digits were read as
  well with either.

It removes no channel, so it scores all alike and has no choice of channels; after `finish_` the network has other
layers, and its channel graph has to be found again. A recipe goes on with that (`compress.replaced`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from compress.export import deployable, export_module
from compress.gathered import gathered
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Proof
from compress.graph.proof import TOLERANCE
from compress.graph.reorder import input_set, rearrangements
from compress.methods.base import Context, Gains, PaysNowhere
from compress.methods.learned_groups_inputs import deal_inputs_, drop_inputs_, inputs_of, mask_
from compress.scores import Scores
from compress.select import Selection
from compress.surgery import named_tensors, run_module
from compress.train.loop import Extras
from compress.validate import measure_latencies
from device_profiles.errors import BadInput, ParityFailed, UnsupportedModel
from device_profiles.measurement import Measurement
from device_profiles.target import Target
from runtimes.progress import progress_bar

WORTHWHILE = 1.1  # how much faster a layer must become: inside a network its neighbours may lose their layout
SECONDS = 5.0


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class LearnedGroups:
    """Settings, with CondenseNet's defaults but for the overlap.

    Args:
        groups: G, groups of filters in each layer.
        condense: C, so that each group ends with 1/C of the inputs.
        overlap: Whether groups may read the same inputs, as in the paper; without, groups and condense are one number.
            Channels before a layer whose groups overlap can hardly be removed: of all layers of a ResNet-20, none.
        layers: Names of the layers to condense; None: all that `eligible` lists. In a recipe, None stands for those
            where it pays on the targets.
    """

    title: ClassVar[str] = "Learned group convolution"
    source: ClassVar[str] = "Huang et al., CVPR 2018, arXiv 1711.09224; Zhang et al., CVPR 2018, arXiv 1707.01083"
    score: ClassVar[str] = "folded norm, once layers are grouped"
    trains: ClassVar[bool] = True
    selection: ClassVar[Selection] = "threshold"

    groups: int = Field(4, gt=1)
    condense: int = Field(4, gt=1)
    overlap: bool = False
    layers: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _shares_out_all_inputs(self) -> Self:
        if not self.overlap and self.groups != self.condense:
            raise ValueError(
                f"groups (={self.groups}) and condense (={self.condense}) must be the same number where each input "
                "belongs to one group; change one of them, or let groups share inputs with overlap = true"
            )
        return self

    def gains(self, module: nn.Module, graph: ChannelGraph, targets: Sequence[Target], seconds: float) -> Gains:
        """Measure what grouping gains for the layers that may be condensed, or are named, each kind of layer once.

        Args:
            module: The network.
            graph: Its channel graph.
            targets: Where to run.
            seconds: How long to measure each kind on each target.

        Raises:
            RuntimeUnavailable: A target is not here.
        """
        nodes = {node.name: node for node in graph.network.model.graph.node}
        shapes = {layer.name: graph.network.shapes[nodes[layer.node].input[0]] for layer in graph.layers}
        named = shapes if self.layers is None else self.layers
        names = [name for name in eligible(module, self) if name in shapes and name in named]
        kinds = {name: f"{module.get_submodule(name)} of {shapes[name]}" for name in names}
        found = {}
        for kind in progress_bar(dict.fromkeys(kinds.values()), "gains of grouping", "kinds of layers"):
            name = next(name for name in names if kinds[name] == kind)
            layer = module.get_submodule(name)
            found[kind] = {
                target.name: grouping_gain(layer, shapes[name], self, target, seconds).speedup for target in targets
            }
        return {name: found[kinds[name]] for name in names}

    def where_it_pays(self, gains: Gains, needed: Mapping[str, float]) -> Self:
        """Return these settings for the layers where grouping pays; as they are where they name layers.

        It pays where a layer becomes clearly faster on the targets that ask for more speed, and slower on none.

        Args:
            gains: What `gains` returned.
            needed: How much faster the network is to become, by target.

        Raises:
            PaysNowhere: There is no such layer.
        """
        if self.layers is not None:
            return self
        least = {on: WORTHWHILE if speedup > 1 else 1.0 for on, speedup in needed.items()}
        paying = tuple(name for name, own in gains.items() if all(own[on] >= least[on] for on in least))
        if not paying:
            best = {on: round(max((own[on] for own in gains.values()), default=0.0), 2) for on in least}
            raise PaysNowhere(
                f"grouped convolution pays for no layer: the most that one gains is {best} times, of {least} that make "
                "it worthwhile; choose other groups and condense, other targets or another method"
            )
        return replace(self, layers=paying)

    def prepare(self, context: Context) -> Condensing:
        """Begin with all inputs in every group.

        Raises:
            BadInput: A named layer cannot be condensed.
            UnsupportedModel: No layer can.
        """
        return Condensing(self, context)


class Masks(nn.Module):
    """Which inputs each group still reads, by layer, as buffers, so that a resumed run has them."""

    def __init__(self, sizes: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.keys = {name: name.replace(".", "/") for name in sizes}  # a buffer's name takes no dots
        for name, size in sizes.items():
            self.register_buffer(self.keys[name], torch.ones(size, dtype=torch.bool))

    def of(self, name: str) -> Bool[Tensor, "groups inputs"]:
        """Return a layer's mask; it may be written to."""
        return self.get_buffer(self.keys[name])


class Condensing:
    """Drops inputs in C - 1 stages over the first half of the training, and trains what is left in the second."""

    def __init__(self, settings: LearnedGroups, context: Context) -> None:
        self.settings, self.context = settings, context
        used = {layer.name for layer in context.graph.layers}
        able = [name for name in eligible(context.module, settings) if name in used]
        names = able if settings.layers is None else list(settings.layers)
        for name in names:
            if name not in able:
                raise BadInput(
                    f"layers: {name!r} cannot be condensed; it must be a dense Conv2d whose inputs are a multiple of "
                    f"condense (={settings.condense}) and outputs of groups (={settings.groups}): {', '.join(able)}"
                )
        if not names:
            raise UnsupportedModel(
                f"no convolution of {type(context.module).__name__} can be condensed with groups (={settings.groups}) "
                f"and condense (={settings.condense}); lower them"
            )
        self.layers = {name: context.module.get_submodule(name) for name in names}
        self.masks = Masks({name: (settings.groups, layer.in_channels) for name, layer in self.layers.items()})
        self.proof: Proof | None = None

    def extras(self) -> Extras:
        """Condense after the steps at which a stage ends, and hold what was dropped at zero after every other."""
        return Extras(after_step=self.after_step_, modules={"masks": self.masks})

    def after_step_(self, step: int, _: float) -> None:
        """Drop what a stage that ends with this step drops, and zero what was dropped."""
        done, before = (self._stages_done(each) for each in (step, step - 1))
        for name, layer in self.layers.items():
            mask = self.masks.of(name)
            if done > before and self.settings.overlap:
                drop_inputs_(mask, layer.weight, layer.in_channels * done // self.settings.condense)
            elif done > before:
                deal_inputs_(mask, layer.weight, done, self._blocks(name))
            mask_(layer.weight, mask)

    def finish_(self) -> None:
        """Put a group convolution in the place of every condensed one, and prove that this changes nothing.

        Where the filters before it can stand in the order in which its groups read them, they do; otherwise it gathers.

        Raises:
            BadInput: The training ended before all inputs were dropped.
            ParityFailed: The network does not compute what it did with masks.
        """
        for name, layer in self.layers.items():
            left = self.masks.of(name).sum(1)
            if (left > layer.in_channels // self.settings.condense).any():
                raise BadInput(
                    f"{name!r} still reads {int(left.max())} of {layer.in_channels} inputs in a group, as fewer than "
                    f"half of the method's steps (={self.context.training.steps}) were trained; give it fewer steps "
                    "or more minutes"
                )
            mask_(layer.weight, self.masks.of(name))  # a moving average remembers what was dropped
        started = time.perf_counter()
        module, network = self.context.module, self.context.graph.network
        masked = run_module(module, network)
        ordered: set[str] = set()
        for name in self.layers:
            self._order_inputs_(name, ordered)
        for name, layer in self.layers.items():
            module.set_submodule(name, gathered(layer, inputs_of(self.masks.of(name))))
        module.eval()
        error = max(
            float((one - two).abs().max() / ((one.max() - one.min()) or 1.0))
            for one, two in zip(masked, run_module(module, network), strict=True)
        )
        if not error <= TOLERANCE:
            raise ParityFailed(
                f"{type(module).__name__} computes {error:.1e} of its spread away from its masked form once its layers "
                "are grouped; report this network, and name other layers"
            )
        dropped = sum(int((~self.masks.of(name)).sum()) for name in self.layers)
        self.proof = Proof(dropped, error, TOLERANCE, time.perf_counter() - started)

    def scores(self) -> Scores:
        """Return 1 for every channel: none is removed as a whole."""
        return {one.name: np.ones(one.width) for one in self.context.graph.prunable}

    def keep(self) -> Keep | None:
        """Return no choice of channels."""
        return None

    def _stages_done(self, step: int) -> int:
        """Return how many of the C - 1 stages are over after a step."""
        stages = self.settings.condense - 1
        return min(stages, 2 * step * stages // self.context.training.steps)

    def _blocks(self, name: str) -> int:
        """Return in how many blocks of a layer's inputs all groups get equally many.

        Where groups of another condensed layer make them, these are the blocks, so that both can lose channels alike.
        """
        groups = self.settings.groups
        return groups if self._reads_groups(name) and self.layers[name].in_channels % groups**2 == 0 else 1

    def _reads_groups(self, name: str) -> bool:
        """Whether other condensed layers make what a layer reads."""
        graph = self.context.graph
        return any(maker in self.layers for one in graph.layer(name).in_sets for maker in graph.sets[one].producers)

    def _order_inputs_(self, name: str, ordered: set[str]) -> None:
        """Have a layer's inputs come in the order in which its groups read them, if nothing speaks against it.

        Args:
            name: Of the layer.
            ordered: Channel sets that are in the order of another layer; what is put in order here is added.
        """
        graph, tensors = self.context.graph, named_tensors(self.context.module)
        order = inputs_of(self.masks.of(name)).reshape(-1).cpu().numpy()
        own = input_set(graph, name)
        if own is None or own in ordered or self._reads_groups(name):
            return
        found = rearrangements(graph, name, order)
        if found is None or not all(one.initializer in tensors for one in found):
            return
        ordered.add(own)
        for one in found:
            index = torch.from_numpy(one.index)
            layer = one.initializer.removesuffix(".weight")
            moved = [tensors[one.initializer]]
            if one.axis == 1 and layer in self.layers:
                moved.append(self.masks.of(layer))
            for tensor in moved:
                with torch.no_grad():
                    tensor.copy_(tensor.index_select(one.axis, index.to(tensor.device)))


def eligible(module: nn.Module, settings: LearnedGroups) -> list[str]:
    """Return the names of the dense convolutions whose channels divide evenly."""
    return [
        name
        for name, part in module.named_modules()
        if type(part) is nn.Conv2d
        and part.groups == 1
        and part.in_channels % settings.condense == 0
        and part.out_channels % settings.groups == 0
    ]


@dataclass(frozen=True)
class GroupingGain:
    """What a gathered group convolution gains over a dense one on a target.

    Attributes:
        dense: Latency of the dense one.
        grouped: Latency of the gathered one.
    """

    dense: Measurement
    grouped: Measurement

    @property
    def speedup(self) -> float:
        """Of the layer by itself."""
        return self.dense.ms / self.grouped.ms

    @property
    def pays(self) -> bool:
        """Whether that is clearly worth it."""
        return self.speedup >= WORTHWHILE


def grouping_gain(
    layer: nn.Conv2d, input_shape: Sequence[int], settings: LearnedGroups, target: Target, seconds: float = SECONDS
) -> GroupingGain:
    """Measure a convolution against its gathered form, interleaved, on a target.

    Args:
        layer: The dense convolution; its weights do not matter and which inputs are gathered neither, so these are
            drawn.
        input_shape: Of its input: (n, c, h, w).
        settings: G and C.
        target: Where to run.
        seconds: How long to measure.

    Raises:
        BadInput: The channels do not divide.
        RuntimeUnavailable: The target is not here.
    """
    if not eligible(nn.Sequential(layer), settings):
        raise BadInput(
            f"a convolution of {layer.in_channels} to {layer.out_channels} channels in {layer.groups} groups cannot be "
            f"condensed with groups (={settings.groups}) and condense (={settings.condense}); choose divisors"
        )
    generator = torch.Generator().manual_seed(0)
    count = layer.in_channels // settings.condense
    inputs = torch.stack(
        [torch.randperm(layer.in_channels, generator=generator)[:count].sort().values for _ in range(settings.groups)]
    )
    forms = {"dense": layer, "grouped": gathered(layer, inputs)}
    networks = {
        key: deployable(export_module(nn.Sequential(form), torch.zeros(tuple(input_shape))))
        for key, form in forms.items()
    }
    measured = measure_latencies(networks, target, seconds, 1.0)
    return GroupingGain(**measured)
