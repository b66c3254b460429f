"""Labelled tensors: which channel every position along an axis belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Item = TypeVar("Item", bound=np.generic)

FROZEN = 0  # the label of what may not be removed


@dataclass(frozen=True)
class AxisLabels:
    """The labels along one axis of a tensor.

    Attributes:
        axis: The axis that shrinks when labels are removed.
        labels: As many axes as the tensor; full along `axis`, of size 1 along axes where they do not vary.
    """

    axis: int
    labels: IntArray

    @property
    def rows(self) -> tuple[int, ...]:
        """The other axes along which the labels vary."""
        return tuple(a for a, size in enumerate(self.labels.shape) if size > 1 and a != self.axis)


@dataclass(frozen=True)
class Labelled:
    """A tensor as the channel graph sees it: an element disappears if and only if one of its labels is removed.

    Attributes:
        shape: Its size along every axis.
        axes: Labels along the axes that can shrink; an axis may have several label arrays.
        name: The tensor's name in the network, for messages.
    """

    shape: tuple[int, ...]
    axes: tuple[AxisLabels, ...] = ()
    name: str = ""

    def along(self, axis: int) -> tuple[IntArray, ...]:
        """Return the label arrays along an axis; none if it cannot shrink."""
        return tuple(entry.labels for entry in self.axes if entry.axis == axis)

    def vector(self, axis: int) -> IntArray | None:
        """Return the labels along an axis as a vector where they are one array that varies along no other axis."""
        arrays = self.along(axis)
        if len(arrays) != 1 or arrays[0].size != self.shape[axis]:
            return None
        return arrays[0].reshape(-1)

    def survivors(self, alive: BoolArray) -> Labelled:
        """Return the tensor that is left when labels are removed.

        Args:
            alive: Per label whether it stays.
        """
        masks = [(entry.axis, alive[entry.labels]) for entry in self.axes]
        axes = tuple(AxisLabels(entry.axis, compress(entry.labels, masks)) for entry in self.axes)
        return Labelled(self.shape_after(alive), axes, self.name)

    def shape_after(self, alive: BoolArray) -> tuple[int, ...]:
        """Return the tensor's shape once labels are removed."""
        shape = list(self.shape)
        for axis in sorted({entry.axis for entry in self.axes}):
            masks = [(axis, alive[labels]) for labels in self.along(axis)]
            count = np.ones([1] * axis + [self.shape[axis]] + [1] * (len(shape) - axis - 1), np.int64)
            shape[axis] = compress(count, masks).shape[axis]
        return tuple(shape)

    def take(self, data: NDArray[np.generic], alive: BoolArray) -> NDArray[np.generic]:
        """Return what is left of the tensor's data when labels are removed."""
        return compress(data, [(entry.axis, alive[entry.labels]) for entry in self.axes])

    def mapped(self, function: Callable[[AxisLabels], AxisLabels | None], shape: Sequence[int]) -> Labelled:
        """Return a tensor of another shape whose label arrays come from this one's, one by one."""
        axes = (function(entry) for entry in self.axes)
        return Labelled(tuple(shape), tuple(entry for entry in axes if entry is not None), self.name)


def compress(data: NDArray[Item], masks: Sequence[tuple[int, BoolArray]]) -> NDArray[Item]:
    """Drop positions along axes; where a mask varies along other axes, each row keeps its own.

    Args:
        data: Any array; an axis of size 1 stays as it is where a mask is longer (nothing varies along it).
        masks: (axis, mask) with masks as in `AxisLabels`; every row of a mask keeps equally many.
    """
    remaining = list(masks)
    while remaining:
        axis, mask = remaining.pop(0)
        data = _compress_axis(data, axis, mask)
        remaining = [(other, _compress_axis(array, axis, mask)) for other, array in remaining]
    return data


def _compress_axis(data: NDArray[Item], axis: int, mask: BoolArray) -> NDArray[Item]:
    if data.shape[axis] != mask.shape[axis] or mask.all():
        return data
    if mask.size == mask.shape[axis]:
        return np.compress(mask.reshape(-1), data, axis)
    full = np.broadcast_to(data, np.broadcast_shapes(data.shape, mask.shape))
    last = np.moveaxis(full, axis, -1)
    kept = np.moveaxis(np.broadcast_to(mask, full.shape), axis, -1)
    counts = kept.sum(-1)
    if counts.size and counts.min() != counts.max():
        raise ValueError(f"rows keep between {counts.min()} and {counts.max()} positions; they must keep equally many")
    return np.moveaxis(last[kept].reshape(*last.shape[:-1], -1), -1, axis)
