"""Learned group convolution: each group of filters learns which inputs it needs, and the others are never read.

G. Huang et al., "CondenseNet: An Efficient DenseNet using Learned Group Convolutions", CVPR 2018, arXiv 1711.09224. A
group convolution is a dense one with a fixed block mask, and a channel shuffle (ShuffleNet, X. Zhang et al., CVPR 2018,
arXiv 1707.01083) is a hand-made choice of what each block sees: pruning parts of a layer instead of channels. Here the
mask is learned. What differs from the paper:

* Groups are blocks of filters in their order, not every G-th filter: filters of a layer are exchangeable before their
  inputs are chosen, and so the exported groups need no shuffle afterwards that a consumer would have to absorb.
* Any convolution with enough channels can be condensed, not 1x1 ones only, and trained ones too.
* It is done only where it pays: `grouping_gain` measures the gathered group convolution against the dense one. The
  gather is a pass over memory that the dense one does not need: with G = C = 4, in two runtimes on one CPU, layers of
  64 and 256 channels became 1.6 to 3.9 times as fast, layers of 16 channels 0.9 to 1.4 times.
* Learned inputs are better than drawn ones right after they are chosen; trained on for long enough, digits were read as
  well with either.

It removes no channel, so it scores all alike and has no choice of channels; after `finish_` the network has other
layers, and its channel graph has to be found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from compress.export import deployable, export_module
from compress.graph.channels import Keep
from compress.methods.base import Context
from compress.scores import Scores
from compress.train.loop import Extras
from compress.validate import measure_latencies
from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.measurement import Measurement
from device_profiles.target import Target

WORTHWHILE = 1.1  # how much faster a layer must become: inside a network its neighbours may lose their layout
SECONDS = 5.0


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class LearnedGroups:
    """Settings, with CondenseNet's defaults.

    Args:
        groups: G, groups of filters in each layer.
        condense: C, so that each group ends with 1/C of the inputs.
        layers: Names of the layers to condense; None: all that `eligible` lists. `grouping_gain` tells for which of
            them it pays on a target.
    """

    title: ClassVar[str] = "Learned group convolution"
    source: ClassVar[str] = "Huang et al., CVPR 2018, arXiv 1711.09224; Zhang et al., CVPR 2018, arXiv 1707.01083"
    score: ClassVar[str] = "1: no channel is removed, only what reads it"
    trains: ClassVar[bool] = True

    groups: int = Field(4, gt=1)
    condense: int = Field(4, gt=1)
    layers: tuple[str, ...] | None = None

    def prepare(self, context: Context) -> Condensing:
        """Begin with all inputs in every group.

        Raises:
            BadInput: A named layer cannot be condensed.
            UnsupportedModel: No layer can.
        """
        return Condensing(self, context)


class GatheredConv2d(nn.Conv2d):
    """A group convolution that first gathers its inputs, each as often as groups read it.

    Args:
        dense: The convolution that it takes the place of, one group, whose masked weights are zero.
        inputs: Which inputs each group reads.
    """

    def __init__(self, dense: nn.Conv2d, inputs: Int[Tensor, "groups inputs"]) -> None:
        groups, count = inputs.shape
        super().__init__(
            groups * count,
            dense.out_channels,
            dense.kernel_size,
            dense.stride,
            dense.padding,
            dense.dilation,
            groups,
            bias=dense.bias is not None,
            padding_mode=dense.padding_mode,
            device=dense.weight.device,
            dtype=dense.weight.dtype,
        )
        self.register_buffer("index", inputs.reshape(-1).clone())
        blocks = dense.weight.detach().unflatten(0, (groups, -1))
        with torch.no_grad():
            self.weight.copy_(torch.cat([block[:, own] for block, own in zip(blocks, inputs, strict=True)]))
            if dense.bias is not None:
                self.bias.copy_(dense.bias)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Gather, then convolve by groups."""
        return super().forward(x.index_select(1, self.index))


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
        able = eligible(context.module, settings)
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

    def extras(self) -> Extras:
        """Condense after the steps at which a stage ends, and hold what was dropped at zero after every other."""
        return Extras(after_step=self.after_step_, modules={"masks": self.masks})

    def after_step_(self, step: int, _: float) -> None:
        """Drop what a stage that ends with this step drops, and zero what was dropped."""
        stages = self.settings.condense - 1
        done = min(stages, 2 * step * stages // self.context.training.steps)
        for name, layer in self.layers.items():
            drop_inputs_(self.masks.of(name), layer.weight, layer.in_channels * done // self.settings.condense)
            mask_(layer.weight, self.masks.of(name))

    def finish_(self) -> None:
        """Put a gathered group convolution in the place of every condensed one.

        Raises:
            BadInput: The training ended before all inputs were dropped.
        """
        for name, layer in self.layers.items():
            left = self.masks.of(name).sum(1)
            if (left > layer.in_channels // self.settings.condense).any():
                raise BadInput(
                    f"{name!r} still reads {int(left.max())} of {layer.in_channels} inputs in a group; give the method "
                    f"training steps, at least {2 * (self.settings.condense - 1)}"
                )
        for name in self.layers:
            gather_(self.context.module, name, self.masks.of(name))
        self.context.module.eval()

    def scores(self) -> Scores:
        """Return 1 for every channel: none is removed as a whole."""
        return {one.name: np.ones(one.width) for one in self.context.graph.prunable}

    def keep(self) -> Keep | None:
        """Return no choice of channels."""
        return None


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


def drop_inputs_(mask: Bool[Tensor, "groups inputs"], weight: Float[Tensor, "out inputs h w"], dropped: int) -> None:
    """Drop the inputs with the smallest summed magnitude from each group, until so many are dropped."""
    magnitude = weight.detach().abs().sum((2, 3)).unflatten(0, (len(mask), -1)).sum(1)
    for row, values in zip(mask, magnitude, strict=True):
        more = dropped - int((~row).sum())
        if more > 0:
            row[values.masked_fill(~row, torch.inf).argsort(stable=True)[:more]] = False


def mask_(weight: Float[Tensor, "out inputs h w"], mask: Bool[Tensor, "groups inputs"]) -> None:
    """Zero the weights of inputs that a filter's group does not read."""
    with torch.no_grad():
        weight.mul_(mask.repeat_interleave(len(weight) // len(mask), 0)[:, :, None, None])


def gather_(module: nn.Module, name: str, mask: Bool[Tensor, "groups inputs"]) -> None:
    """Replace a convolution by its gathered form, in place."""
    inputs = torch.stack([torch.nonzero(row).flatten() for row in mask])
    parent, _, own = name.rpartition(".")
    made = GatheredConv2d(module.get_submodule(name), inputs)
    setattr(module.get_submodule(parent), own, made.train(module.training))


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
    forms = {"dense": layer, "grouped": GatheredConv2d(layer, inputs)}
    networks = {
        key: deployable(export_module(nn.Sequential(form), torch.zeros(tuple(input_shape))))
        for key, form in forms.items()
    }
    measured = measure_latencies(networks, target, seconds, 1.0)
    return GroupingGain(**measured)
