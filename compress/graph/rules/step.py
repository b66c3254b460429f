"""One operator while a network is executed on labels: what a rule gets to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compress.graph.labels import AxisLabels, Labelled
from compress.graph.trace import Trace

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Step:
    """An operator with labelled inputs.

    Attributes:
        node: The operator.
        inputs: Its inputs; None where an optional one is left out.
        outputs: Its outputs, with shapes and names but no labels yet.
        constants: Initializer name -> data.
        trace: Where unions, freezes and the rest are noted.
    """

    node: onnx.NodeProto
    inputs: tuple[Labelled | None, ...]
    outputs: tuple[Labelled, ...]
    constants: Mapping[str, Array]
    trace: Trace

    def input(self, index: int) -> Labelled:
        """Return an input that the operator cannot do without."""
        tensor = self.inputs[index]
        assert tensor is not None, f"{self.node.op_type} {self.node.name} lacks input {index}"
        return tensor

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def constant(self, index: int) -> Array | None:
        """Return an input's data if it is an initializer."""
        return self.constants.get(self.node.input[index]) if index < len(self.node.input) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    @property
    def rank(self) -> int:
        """Rank of the first input."""
        return len(self.input(0).shape)

    def axis(self, name: str = "axis", default: int = 0) -> int:
        """Return an axis attribute, counted from the front."""
        return int(self.attribute(name, default)) % max(self.rank, 1)

    def describe(self) -> str:
        """Name the operator for a message."""
        return f"{self.node.op_type} {self.node.name!r}"

    def hold(self, tensor: Labelled, axes: Sequence[int], why: str) -> Labelled:
        """Freeze a tensor along axes, tie what varies along them, and return it without labels there."""
        kept = []
        for entry in tensor.axes:
            if entry.axis in axes:
                self.trace.freeze(entry.labels, f"{self.describe()} {why}")
                continue
            labels = entry.labels
            for axis in axes:
                labels = self.trace.tie(labels, axis)
            kept.append(AxisLabels(entry.axis, labels))
        return replace(tensor, axes=tuple(kept))


Rule = Callable[[Step], Sequence[Labelled]]


def freeze_all(step: Step) -> Sequence[Labelled]:
    """The rule for operators without one: every labelled axis that comes near keeps its size."""
    for tensor in step.inputs:
        if tensor is not None:
            step.trace.freeze_tensor(tensor, f"{step.describe()} has no rule")
    return step.outputs
