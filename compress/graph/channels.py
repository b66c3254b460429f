"""The channel graph: the layers of a network, and which of their channels belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from compress.graph.execute import Execution
from compress.graph.labels import FROZEN, BoolArray, IntArray
from compress.graph.network import Network
from device_profiles.errors import BadInput

Keep = Mapping[str, IntArray]


@dataclass(frozen=True)
class Norm:
    """A normalisation applied to exactly one layer's output channels; the names are initializers.

    Attributes:
        op: "BatchNormalization", "InstanceNormalization" or "LayerNormalization".
        scale: One factor per channel.
        bias: One offset per channel; None where there is none.
        mean: Stored mean per channel, of a BatchNormalization only.
        var: Stored variance per channel, of a BatchNormalization only.
        epsilon: What is added to the variance.
    """

    op: str
    scale: str
    bias: str | None
    mean: str | None
    var: str | None
    epsilon: float


@dataclass(frozen=True)
class Layer:
    """An operator with weights.

    Attributes:
        name: The weight's name without ".weight": a torch module's name.
        op: "Conv", "ConvTranspose", "Gemm" or "MatMul".
        node: Name of the operator.
        output: Name of the tensor it makes.
        weight: Name of the weight.
        bias: Name of the bias, if it has one.
        norm: The normalisation of its output, if one follows directly.
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        groups: Convolution groups.
        in_sets: Channel set -> how many of its input channels each coupled channel of the set has.
        out_sets: Channel set -> how many of its output channels each coupled channel of the set has.
    """

    name: str
    op: str
    node: str
    output: str
    weight: str
    bias: str | None
    norm: Norm | None
    in_channels: int
    out_channels: int
    groups: int
    in_sets: Mapping[str, int]
    out_sets: Mapping[str, int]

    @property
    def out_set(self) -> str | None:
        """The channel set of its outputs; None where they are frozen or belong to several sets."""
        return next(iter(self.out_sets)) if len(self.out_sets) == 1 else None


@dataclass(frozen=True)
class ChannelSet:
    """Coupled channels that one choice of indices decides on.

    Attributes:
        name: Name of the first layer that makes them (with "[2]" and so on where it makes several sets).
        width: How many coupled channels there are.
        step: Widths must be multiples of it; above 1 where balance rules demand it.
        family: Sets of one family must keep the same share; the name of the first of them.
        producers: Layers whose output channels they are.
        consumers: Layers whose input channels they are.
        frozen: Why they may not be removed though the network would allow it; None if they may.
        classes: Class of each coupled channel.
    """

    name: str
    width: int
    step: int
    family: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: str | None
    classes: IntArray = field(repr=False)


@dataclass(frozen=True)
class WeightSlice:
    """Where a channel set lies in an initializer.

    Attributes:
        initializer: Name of the initializer.
        axis: The axis along which its channels lie.
        channels: The set's channel at every position, -1 where another set's is; as many axes as the initializer,
            of size 1 where it does not vary.
    """

    initializer: str
    axis: int
    channels: IntArray


@dataclass(frozen=True)
class BalanceRule:
    """Rows of coupled channels that must keep equally many.

    Attributes:
        node: The operator that demands it.
        rows: Class of every position, one row per row.
    """

    node: str
    rows: IntArray = field(repr=False)


@dataclass(frozen=True)
class ChannelGraph:
    """What can be removed from a network, and what must go together.

    Attributes:
        network: The network.
        layers: Operators with weights, in topological order.
        sets: Channel sets by name, in the order of their first layer.
        balances: Rules between the channels of one or several sets.
        execution: The network executed on labels.
        class_of: Class of every label.
    """

    network: Network
    layers: tuple[Layer, ...]
    sets: Mapping[str, ChannelSet]
    balances: tuple[BalanceRule, ...] = field(repr=False)
    execution: Execution = field(repr=False)
    class_of: IntArray = field(repr=False)

    def layer(self, name: str) -> Layer:
        """Return a layer by name.

        Raises:
            BadInput: There is none of that name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise BadInput(f"layer {name!r} does not exist; the layers are {', '.join(one.name for one in self.layers)}")

    def layer_widths(self, widths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Return every layer's (input, output) width when channel sets have the given widths.

        Args:
            widths: Channel set -> width; sets that are not named keep all their channels.

        Raises:
            BadInput: A set is unknown or a width is out of range.
        """
        for name, width in widths.items():
            self._check_set(name)
            if not 1 <= width <= self.sets[name].width:
                raise BadInput(f"width (={width}) of {name!r} must be between 1 and {self.sets[name].width}")
        removed = {name: self.sets[name].width - width for name, width in widths.items()}
        return {
            layer.name: (
                layer.in_channels - sum(removed.get(name, 0) * count for name, count in layer.in_sets.items()),
                layer.out_channels - sum(removed.get(name, 0) * count for name, count in layer.out_sets.items()),
            )
            for layer in self.layers
        }

    def slices(self, name: str) -> tuple[WeightSlice, ...]:
        """Return where a set's channels lie in the network's initializers.

        Raises:
            BadInput: There is no such set.
        """
        self._check_set(name)
        channel_of = np.full(len(self.class_of), -1, np.int64)
        channel_of[self.sets[name].classes] = np.arange(self.sets[name].width)
        channel_of = channel_of[self.class_of]
        found = []
        for initializer in self.network.weights:
            for entry in self.execution.tensors[initializer].axes:
                channels = channel_of[entry.labels]
                if channels.max() >= 0:
                    found.append(WeightSlice(initializer, entry.axis, channels))
        return tuple(found)

    def alive(self, keep: Keep) -> BoolArray:
        """Return for every label whether it stays.

        Args:
            keep: Channel set -> sorted indices of the channels that stay; sets that are not named keep all.

        Raises:
            BadInput: A set is unknown or frozen, indices are wrong, or rows would keep unequally many.
        """
        stays = np.ones(len(self.class_of), np.bool_)
        for name, indices in keep.items():
            self._check_keep(name, np.asarray(indices))
            chosen = self.sets[name]
            stays[chosen.classes] = False
            stays[chosen.classes[np.asarray(indices, np.int64)]] = True
        for rule in self.balances:
            counts = stays[rule.rows].sum(1)
            if counts.min() != counts.max():
                sets = ", ".join(repr(name) for name in keep if np.isin(self.sets[name].classes, rule.rows).any())
                raise BadInput(
                    f"keep for {sets} leaves between {counts.min()} and {counts.max()} channels in the rows of "
                    f"{rule.node!r}; keep equally many in each (`compress.graph.choose.choose` does)"
                )
        return stays[self.class_of]

    @cached_property
    def prunable(self) -> tuple[ChannelSet, ...]:
        """The sets that may shrink."""
        return tuple(one for one in self.sets.values() if one.frozen is None and one.width > one.step)

    @cached_property
    def unread(self) -> tuple[str, ...]:
        """The sets that may shrink and that no operator combines: nothing depends on their channels."""
        read = np.zeros(len(self.class_of), np.bool_)
        for note in self.execution.trace.consumptions:
            for entry in note.axes:
                read[self.class_of[entry.labels]] = True
        return tuple(one.name for one in self.prunable if not read[one.classes].any())

    def _check_set(self, name: str) -> None:
        if name not in self.sets:
            raise BadInput(f"channel set {name!r} does not exist; the sets are {', '.join(self.sets) or '(none)'}")

    def _check_keep(self, name: str, indices: IntArray) -> None:
        self._check_set(name)
        chosen = self.sets[name]
        ordered = indices.ndim == 1 and indices.size > 0 and (np.diff(indices) > 0).all()
        if not ordered or indices[0] < 0 or indices[-1] >= chosen.width:
            raise BadInput(
                f"keep of {name!r} (={np.array2string(indices, threshold=8)}) must be sorted indices from 0 to "
                f"{chosen.width - 1}, each once and at least one"
            )
        if chosen.frozen is not None and len(indices) != chosen.width:
            raise BadInput(f"channel set {name!r} is frozen ({chosen.frozen}); keep all {chosen.width} of its channels")


def frozen_share(graph: ChannelGraph, layer: Layer) -> float:
    """Return which share of a layer's output channels may not be removed."""
    removable = sum(graph.sets[name].width * count for name, count in layer.out_sets.items())
    return 1 - removable / layer.out_channels if layer.out_channels else float(FROZEN)
