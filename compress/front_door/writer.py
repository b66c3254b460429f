"""ONNX operators written one after the other, each with the shape of what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

Array = NDArray[np.generic]
Sizes = int | Sequence[int]
TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.bool: onnx.TensorProto.BOOL,
}


class Untranslated(Exception):
    """Something that only the exporter knows how to write; no error of the user's."""


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Writer:
    """A growing ONNX graph.

    Attributes:
        nodes: The operators, in order.
        initializers: Name -> weight or constant.
        values: Name -> tensor, the inputs and what each operator computes.
        result: What torch computes in place of the operators that are written now; a tuple for several tensors.
    """

    def __init__(self, taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.values: dict[str, Value] = {}
        self.result: Any = None
        self._label = ""
        self._counts = dict.fromkeys(taken, 1)

    def start(self, label: str, result: Any) -> None:
        """Name what is written from here on, and say what it has to compute."""
        self._label, self.result = label, result

    def note(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Value:
        """Note a tensor that an input or an operator gives."""
        if dtype not in TYPES or not all(isinstance(size, int) for size in shape):
            raise Untranslated(f"{dtype} of {tuple(shape)}")
        self.values[name] = Value(name, tuple(shape), dtype)
        return self.values[name]

    def store(self, name: str, tensor: Tensor) -> Value:
        """Store a weight under its own name."""
        if tensor.dtype not in TYPES:
            raise Untranslated(str(tensor.dtype))
        if name not in self.initializers:
            self._counts[name] = 1
            self.initializers[name] = numpy_helper.from_array(tensor.detach().numpy(force=True), name)
        return Value(name, tuple(tensor.shape), tensor.dtype)

    def constant(self, value: Array) -> Value:
        """Store numbers that stand in the code."""
        return self.store(self._name("val"), torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape)))

    def add(
        self,
        op_type: str,
        inputs: Sequence[Value | Array | None],
        shape: Sequence[int] | None = None,
        *,
        dtype: torch.dtype | None = None,
        **attributes: Any,
    ) -> Value:
        """Write an operator with one output.

        Args:
            op_type: ONNX's name of it.
            inputs: What it reads; None for an input that it goes without.
            shape: Shape of what it computes; that of the result unless given.
            dtype: Type of what it computes; that of the result unless given.
            **attributes: Its attributes.
        """
        shape = self.result.shape if shape is None else shape
        (value,) = self.split(op_type, inputs, [shape], dtype=dtype or self.result.dtype, **attributes)
        return value

    def split(
        self,
        op_type: str,
        inputs: Sequence[Value | Array | None],
        shapes: Sequence[Sequence[int]],
        *,
        dtype: torch.dtype,
        **attributes: Any,
    ) -> list[Value]:
        """Write an operator with an output of each shape; the rest is as for `add`."""
        given = [self.constant(each) if isinstance(each, np.ndarray) else each for each in inputs]
        while given and given[-1] is None:
            given.pop()
        name = self._name(self._label)
        names = [name] if len(shapes) == 1 else [f"{name}.{position}" for position in range(len(shapes))]
        node = helper.make_node(op_type, [each.name if each else "" for each in given], names, f"node_{name}")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return [self.note(each, shape, dtype) for each, shape in zip(names, shapes, strict=True)]

    def _name(self, label: str) -> str:
        while True:
            count = self._counts.get(label, 0)
            self._counts[label] = count + 1
            name = f"{label}_{count}" if count else label
            if not count or name not in self._counts:
                self._counts.setdefault(name, 1)
                return name


def integers(*numbers: int) -> Array:
    """Return sizes or axes as ONNX takes them."""
    return np.array(numbers, np.int64)


def each(sizes: Sizes, count: int) -> list[int]:
    """Return a size per axis, where torch takes one for all, too."""
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    return listed * count if len(listed) == 1 else listed


def positive(axis: int, rank: int) -> int:
    """Count an axis from the first."""
    return axis + rank if axis < 0 else axis


def as_result(writer: Writer, operand: Any) -> Value:
    """Return an operand of the result's type: a number becomes a constant, a tensor of another type is not known."""
    if isinstance(operand, Value):
        if operand.dtype != writer.result.dtype:
            raise Untranslated(f"an operand of type {operand.dtype}")
        return operand
    return writer.constant(torch.tensor(operand, dtype=writer.result.dtype).numpy())
