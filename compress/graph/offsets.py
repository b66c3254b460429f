"""Fold constants that are added to a result into the layer that makes it.

What is left of a removed block is a constant that is added to its skip connection. Where the skip connection comes
from a layer with a bias, from a normalisation, or from a sum of which one operand does, that holds the constant too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compress.graph.fold import RANDOM, read_by, remove_unused
from compress.graph.network import Network
from compress.graph.run import Runnable

Array = NDArray[np.generic]
UNIFORM = 1e-6  # of the largest magnitude: positions that differ by less differ by rounding

# Operator -> (the operand that is added to each channel, the channels' axis).
BIASED = {
    "Conv": (2, 1),
    "ConvTranspose": (2, 1),
    "Gemm": (2, -1),
    "BatchNormalization": (2, 1),
    "InstanceNormalization": (2, 1),
    "LayerNormalization": (2, -1),
}


def fold_added_constants(network: Network) -> Network:
    """Return the network without additions of constants, as far as what is before them can hold the constants.

    A constant of zeros is dropped; one that is alike along an axis is stored once.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    folding = _Folding(network, model.graph)
    if not folding.additions():
        return network
    folding.fold()
    remove_unused(model.graph)
    return replace(network, model=model, proof=None)


def shrunk(data: Array) -> Array:
    """Store once what is alike along an axis, up to rounding.

    Example:
        >>> shrunk(np.array([[1.0, 2.0], [1.0, 2.0]]))
        array([[1., 2.]])
    """
    for axis, size in enumerate(data.shape):
        first = data.take([0], axis) if size else data
        exact = data.astype(np.float64)
        if size > 1 and np.abs(exact - first.astype(np.float64)).max() <= UNIFORM * np.abs(exact).max():
            data = first
    return data


def compute(
    network: Network, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], wanted: Sequence[str]
) -> dict[str, Array]:
    """Compute results that depend on no input.

    Args:
        network: Whose operators they are.
        nodes: The operators, in topological order.
        constants: What they read, and perhaps more.
        wanted: Names of the results.
    """
    whole = Runnable.of(network, nodes)
    del whole.model.graph.input[:], whole.model.graph.output[:]
    read = {name for node in nodes for name in read_by(node)}
    return Runnable(whole.model, {name: data for name, data in constants.items() if name in read}).run({}, wanted)


class _Folding:
    """The graph that is changed, and what is known about its tensors."""

    def __init__(self, network: Network, graph: onnx.GraphProto) -> None:
        self.network = network
        self.graph = graph
        self.made_by = {name: node for node in graph.node for name in node.output}
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.constant = _constant_results(graph)

    def additions(self) -> list[tuple[onnx.NodeProto, int]]:
        """List the additions of a constant to a floating-point result of the same shape, with the constant's place."""
        shapes = self.network.shapes
        found = []
        for node in self.graph.node:
            if node.op_type != "Add" or node.output[0] in self.constant:
                continue
            places = [place for place, name in enumerate(node.input) if name in self.constant]
            if places and shapes.get(node.input[1 - places[0]]) == shapes.get(node.output[0], ()):
                found.append((node, places[0]))
        return found

    def fold(self) -> None:
        """Move every constant as far back as it goes."""
        values = self._values(node.input[place] for node, place in self.additions())
        for node, place in self.additions():
            value = values[node.input[place]]
            if not np.issubdtype(value.dtype, np.floating):
                continue
            skip = node.input[1 - place]
            if value.any() and not self._hold(skip, value):
                if value.shape != self.network.shapes[node.input[place]] or node.input[place] not in self.stored:
                    node.input[place] = self._store(f"{node.name}.constant", value)
                continue
            self._bypass(node, skip)

    def _values(self, names: Iterable[str]) -> dict[str, Array]:
        """Compute constants, stored as small as they are."""
        weights = self.network.weights
        wanted = list(dict.fromkeys(names))
        computed = [name for name in wanted if name not in weights]
        found = {name: weights[name] for name in wanted if name in weights}
        if computed:
            inner = [node for node in self.graph.node if node.output[0] in self.constant]
            found |= compute(self.network, inner, weights, computed)
        return {name: shrunk(np.asarray(data)) for name, data in found.items()}

    def _hold(self, name: str, value: Array) -> bool:
        """Add a constant to what makes a result, if nothing else uses the result; tell whether it could be."""
        node = self.made_by.get(name)
        if node is None or self._uses(name) != 1:
            return False
        if node.op_type in ("Identity", "Dropout"):
            return self._hold(node.input[0], value)
        if node.op_type == "Add":
            return self._hold_in_sum(node, value)
        if node.op_type not in BIASED or any(a.name == "beta" and a.f != 1.0 for a in node.attribute):
            return False
        place, axis = BIASED[node.op_type]
        shape = self.network.shapes[name]
        old = self._given(node, place)
        vector = _per_channel(value, shape, axis)
        if vector is None or (old is None and len(node.input) > place and node.input[place]):
            return False
        if old is None:
            old = np.zeros(vector.shape, value.dtype)
        self._replace(node, place, _sum(np.broadcast_to(old, np.broadcast_shapes(old.shape, vector.shape)), vector))
        return True

    def _hold_in_sum(self, node: onnx.NodeProto, value: Array) -> bool:
        shape = self.network.shapes[node.output[0]]
        for place, name in enumerate(node.input):
            old = self._given(node, place)
            if old is not None and np.issubdtype(old.dtype, np.floating):
                both = np.broadcast_shapes(old.shape, value.shape)
                if np.prod(both) <= max(old.size, value.size):
                    self._replace(node, place, _sum(old, value))
                    return True
            elif self.network.shapes.get(name) == shape and self._hold(name, value):
                return True
        return False

    def _given(self, node: onnx.NodeProto, place: int) -> Array | None:
        name = node.input[place] if place < len(node.input) else ""
        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None

    def _replace(self, node: onnx.NodeProto, place: int, value: Array) -> None:
        """Give a node another operand, under the same name where no other node uses it."""
        while len(node.input) <= place:
            node.input.append("")
        name = node.input[place]
        if not name or self._uses(name) > 1:
            name = f"{node.name}.bias"
        node.input[place] = self._store(name, value)

    def _store(self, name: str, value: Array) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        if name in self.stored:
            self.stored[name].CopyFrom(tensor)
        else:
            self.graph.initializer.append(tensor)
            self.stored[name] = self.graph.initializer[-1]
        self.constant.add(name)
        return name

    def _uses(self, name: str) -> int:
        uses = sum(read_by(node).count(name) for node in self.graph.node)
        return int(uses + sum(output.name == name for output in self.graph.output))

    def _bypass(self, node: onnx.NodeProto, source: str) -> None:
        """Take an addition out; an output of the network keeps its name."""
        result = node.output[0]
        if any(output.name == result for output in self.graph.output) or any(
            result in read_by(other) and result not in other.input for other in self.graph.node
        ):
            node.CopyFrom(helper.make_node("Identity", [source], [result], name=node.name))
            return
        for other in self.graph.node:
            for place, name in enumerate(other.input):
                other.input[place] = source if name == result else name
        self.graph.node.remove(node)


def _constant_results(graph: onnx.GraphProto) -> set[str]:
    """Name what is computed from initializers alone, and the floating-point initializers."""
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in RANDOM and set(read_by(node)) <= known:
            known |= set(node.output)
    return known


def _per_channel(value: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """Return a constant as one number per channel; None where it differs along another axis too."""
    rank = len(shape)
    full = value.reshape((1,) * (rank - value.ndim) + value.shape)
    if full.size not in (1, full.shape[axis]):
        return None
    return np.broadcast_to(full.reshape(-1), (shape[axis],))


def _sum(one: Array, two: Array) -> Array:
    return np.asarray((one.astype(np.float64) + two.astype(np.float64)).astype(one.dtype))
