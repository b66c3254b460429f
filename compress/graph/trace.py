"""What executing a network on labels brings to light: which labels are one channel, which are frozen, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from compress.graph.labels import FROZEN, AxisLabels, IntArray, Labelled
from device_profiles.errors import ParityFailed

Combine = Literal["sum", "mean", "max", "min", "norm", "softmax", "product"]


@dataclass(frozen=True)
class Union:
    """Labels that a node makes one channel, pair by pair."""

    node: int
    first: IntArray
    second: IntArray


@dataclass(frozen=True)
class Freeze:
    """Labels that may not be removed, and why."""

    node: int
    labels: IntArray
    reason: str


@dataclass(frozen=True)
class Balance:
    """Rows (first axis) that must keep equally many of their labels."""

    node: int
    rows: IntArray


@dataclass(frozen=True)
class Consumption:
    """An operator combines an input over labelled axes, so removed positions must not count.

    Attributes:
        node: Index of the operator.
        operand: Which of its inputs.
        axes: The labels it combines.
        combine: How: the neutral element and the divisor follow from it.
    """

    node: int
    operand: int
    axes: tuple[AxisLabels, ...]
    combine: Combine


@dataclass(frozen=True)
class Given:
    """What a pruned network's labels and choices must be, known from the original.

    Attributes:
        labels: Label arrays by the key they were issued under.
        decisions: Choices by key.
    """

    labels: Mapping[str, IntArray]
    decisions: Mapping[str, int]


@dataclass
class Trace:
    """Collects what the rules find while a network is executed on labels.

    Attributes:
        given: For a pruned network, what to issue and decide instead of something fresh.
        wishes: Choices to make differently from the default, by key.
        node: Index of the node being executed; -1 before the first.
    """

    given: Given | None = None
    wishes: Mapping[str, int] = field(default_factory=dict)
    node: int = -1
    unions: list[Union] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    pieces: list[IntArray] = field(default_factory=list)
    consumptions: list[Consumption] = field(default_factory=list)
    issued: dict[str, tuple[str, AxisLabels]] = field(default_factory=dict)
    decisions: dict[str, int] = field(default_factory=dict)
    alternatives: dict[str, tuple[tuple[int, ...], IntArray]] = field(default_factory=dict)
    labels: int = FROZEN + 1

    def fresh(self, tensor: Labelled, axis: int, rows: Sequence[int] = (), alike: int = 1) -> AxisLabels:
        """Issue new labels along an axis of a tensor, which must have a name.

        Args:
            tensor: The tensor the labels are for.
            axis: The axis they run along.
            rows: Other axes along which they differ.
            alike: How many positions in a row, along the first of `rows`, share their labels; divides its size.

        Raises:
            ParityFailed: The tensor of a pruned network has another size than its labels.
        """
        key = f"{tensor.name}:{axis}"
        shape = [size if a == axis or a in rows else 1 for a, size in enumerate(tensor.shape)]
        if self.given is not None:
            labels = self.given.labels.get(key, np.zeros(shape, np.int64))
            fits = all(one in (1, size) for one, size in zip(labels.shape, tensor.shape, strict=True))
            if not fits or labels.shape[axis] != tensor.shape[axis]:
                raise ParityFailed(
                    f"{tensor.name!r} has the shape {tensor.shape} after pruning, but {labels.size} labels survive "
                    f"along axis {axis}; report this network"
                )
            return AxisLabels(axis, labels)
        if alike > 1:
            shape[rows[0]] //= alike
        count = int(np.prod(shape))
        labels = np.arange(self.labels, self.labels + count, dtype=np.int64).reshape(shape)
        entry = AxisLabels(axis, labels.repeat(alike, rows[0]) if alike > 1 else labels)
        self.labels += count
        self.issued[key] = (tensor.name, entry)
        return entry

    def decide(self, key: str, default: int) -> int:
        """Choose by default, by wish, or as the original network chose."""
        value = self.wishes.get(key, default)
        if self.given is not None:
            value = self.given.decisions.get(key, value)
        self.decisions[key] = value
        return value

    def unite(self, first: IntArray, second: IntArray) -> None:
        """Make labels one channel, element by element; the arrays broadcast."""
        one, two = np.broadcast_arrays(first, second)
        self.unions.append(Union(self.node, one.reshape(-1), two.reshape(-1)))

    def freeze(self, labels: IntArray, reason: str) -> None:
        """Forbid the removal of labels."""
        self.freezes.append(Freeze(self.node, labels.reshape(-1), reason))

    def freeze_tensor(self, tensor: Labelled, reason: str) -> None:
        """Forbid the removal of every label of a tensor."""
        for entry in tensor.axes:
            self.freeze(entry.labels, reason)

    def tie(self, labels: IntArray, axis: int) -> IntArray:
        """Make labels equal along an axis; return them without that variation."""
        if labels.shape[axis] == 1:
            return labels
        first = labels.take([0], axis)
        self.unite(labels, first)
        return first

    def balance(self, entry: AxisLabels) -> None:
        """Demand that every row keeps equally many, where an axis's labels differ between rows."""
        if entry.rows and entry.labels.shape[entry.axis] > 0:
            last = np.moveaxis(entry.labels, entry.axis, -1)
            self.balances.append(Balance(self.node, last.reshape(-1, last.shape[-1])))

    def consume(self, operand: int, axes: Sequence[AxisLabels], combine: Combine) -> None:
        """Note that the operator combines positions of an operand, so removed ones must be neutral."""
        if axes:
            self.consumptions.append(Consumption(self.node, operand, tuple(axes), combine))
