"""A batch that a file leaves open: found by preparing the network at two sizes, and opened again in what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compress.graph.fold import read_by, remove_unused
from device_profiles.errors import ParityFailed, UnsupportedModel
from runtimes.parity import compare

Array = NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
OPERANDS = {"Reshape": 1, "Expand": 1, "Tile": 1, "Resize": 3}  # the input that states sizes or repeats
UNNAMED = "batch"
# Networks are read at one batch and at the next one; the second of these is neither, unless calibration asks for it.
CHECKED_AT = (1, 3)
# Of the output's spread. The finer proof at one batch comes first; a sample in a wrong place is as wrong as the spread.
TOLERANCE = 1e-2


@dataclass(frozen=True)
class OpenBatch:
    """Which sizes of a network are multiples of its batch, which its file leaves open.

    Attributes:
        symbol: What the file calls the batch.
        size: The batch at which the network is analysed.
        inputs: The inputs whose first axis it is.
        growth: Tensor name -> per axis, how many positions each sample adds; tensors that do not grow are left out.
    """

    symbol: str
    size: int
    inputs: tuple[str, ...]
    growth: Mapping[str, tuple[int, ...]]


def open_inputs(model: onnx.ModelProto, given: Mapping[str, object]) -> dict[str, str]:
    """Name the inputs of which nothing but the first axis is open, and what they call it.

    Args:
        model: Any ONNX model.
        given: Inputs whose shape is given; one with an open first axis closes the batch.

    Returns:
        Input -> name of its first axis, empty where it has none; nothing if the batch is not all that is open.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        opened = [not (dim.HasField("dim_value") and dim.dim_value > 0) for dim in dims]
        if value.name in constants or not any(opened):
            continue
        if value.name in given or any(opened[1:]):
            return {}
        found[value.name] = dims[0].dim_param
    return found if len(set(found.values()) - {""}) < 2 else {}


def at_batch(model: onnx.ModelProto, inputs: Sequence[str], size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the named inputs at a batch."""
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    return {name: (size, *(dim.dim_value for dim in list(dims[name])[1:])) for name in inputs}


def find_growth(
    one: onnx.ModelProto, two: onnx.ModelProto, shapes: Sequence[Mapping[str, tuple[int, ...]]], size: int
) -> dict[str, tuple[int, ...]]:
    """Compare a network prepared at one batch and at the next one.

    Args:
        one: Prepared at the batch `size`.
        two: Prepared at the batch `size` + 1.
        shapes: The static shapes of both.
        size: The batch of the first.

    Returns:
        Tensor name -> per axis, how many positions each sample adds.

    Raises:
        UnsupportedModel: More than sizes depends on the batch.
    """
    _check_same_operators(one, two)
    growth = {}
    for name in shapes[0].keys() & shapes[1].keys():
        before, after = shapes[0][name], shapes[1][name]
        if before == after:
            continue
        added = tuple(b - a for a, b in zip(before, after, strict=False))
        if len(before) != len(after) or any(
            grown and grown * size != a for grown, a in zip(added, before, strict=True)
        ):
            raise UnsupportedModel(
                f"{name!r} has the shape {before} for {size} samples and {after} for {size + 1}, which is no multiple"
            )
        growth[name] = added
    _check_constants(one.graph, two.graph, growth, size)
    return growth


def reopen_(model: onnx.ModelProto, weights: Mapping[str, Array], batch: OpenBatch) -> None:
    """Open the batch of a network that has a fixed one.

    Args:
        model: With its initializers or without them; what is new is added to it.
        weights: Initializer name -> data.
        batch: Where the batch is.

    Raises:
        UnsupportedModel: A size that should be a multiple of the batch is none.
    """
    graph = model.graph
    reopening = _Reopening(weights, batch)
    repeated = {name: f"{name}.batch" for name in weights if name in batch.growth}
    for name, wide in repeated.items():
        reopening.repeat(name, wide)
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = repeated.get(name, name)
        reopening.free_operand_(node)
        reopening.nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*reopening.count, *reopening.nodes])
    graph.initializer.extend(numpy_helper.from_array(data, name) for name, data in reopening.added.items())
    for value in (*graph.input, *graph.output):
        for dim, grown in zip(value.type.tensor_type.shape.dim, batch.growth.get(value.name, ()), strict=False):
            if grown:
                dim.Clear()
                dim.dim_param = batch.symbol if grown == 1 else ""
    remove_unused(graph)


def grown_operands(batch: OpenBatch, graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> OpenBatch:
    """Let constants grow with the tensors that they are combined with.

    Args:
        batch: Where the batch is.
        graph: The operators.
        shapes: Constant -> shape, of as many axes as those tensors have.
    """
    growth = dict(batch.growth)
    for node in graph.node:
        grown = next((batch.growth[name] for name in node.input if name in batch.growth), ())
        for name in shapes.keys() & set(node.input):
            own = tuple(g if size > 1 else 0 for g, size in zip(grown, shapes[name], strict=False))
            if any(own):
                growth[name] = own
    return replace(batch, growth=growth)


def compare_batches(reference: Run, actual: Run, model: onnx.ModelProto, batch: OpenBatch) -> None:
    """Make sure that two networks with an open batch compute the same for several batches.

    Args:
        reference: Runs the first.
        actual: Runs the second.
        model: Either, at a fixed batch, for its inputs.
        batch: Where the batch is.

    Raises:
        ParityFailed: Their outputs differ.
        UnsupportedModel: One of them does not run.
    """
    generator = np.random.default_rng(0)
    for size in CHECKED_AT:
        feeds: dict[str, Array] = {}
        for value in model.graph.input:
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if value.name in batch.inputs:
                shape[0] = size
            floats = np.issubdtype(dtype, np.floating)
            numbers = generator.standard_normal(shape) if floats else generator.integers(0, 2, shape)
            feeds[value.name] = numbers.astype(dtype)
        try:
            parity = compare(reference(feeds), actual(feeds), TOLERANCE)
        except (ParityFailed, UnsupportedModel) as err:
            raise type(err)(f"with {size} samples: {err}") from err
        parity.check(f"with {size} samples")


@dataclass
class _Reopening:
    """Collects the nodes and initializers of a network whose batch is opened."""

    weights: Mapping[str, Array]
    batch: OpenBatch
    count: list[onnx.NodeProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, Array] = field(default_factory=dict)

    def repeat(self, name: str, wide: str) -> None:
        """Repeat a constant that holds the same for every sample."""
        grown, data = np.array(self.batch.growth[name]) > 0, self.weights[name]
        sizes = np.array(data.shape)
        if len(sizes) != len(grown) or (sizes[grown] % self.batch.size).any():
            raise UnsupportedModel(f"the constant {name!r} has the shape {data.shape}, which does not fit the batch")
        source = name
        if self.batch.size > 1:
            source = f"{name}.sample"
            sample = np.where(grown, sizes // self.batch.size, sizes)
            self.added[source] = np.ascontiguousarray(data[tuple(map(slice, sample))])
        repeats = self._computed(wide, np.where(grown, 0, 1), np.where(grown, 1, 0))
        self.nodes.append(helper.make_node("Tile", [source, repeats], [wide], name=wide))

    def free_operand_(self, node: onnx.NodeProto) -> None:
        """Give a node that states sizes ones that hold for every batch."""
        position, growth = OPERANDS.get(node.op_type, 0), self.batch.growth.get(node.output[0])
        stated = self.weights.get(node.input[position]) if 0 < position < len(node.input) else None
        if growth is None or stated is None:
            return
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        sizes = stated.astype(np.int64)
        axes = attributes.get("axes", range(len(growth) - len(sizes), len(growth)))
        grown = np.array([growth[axis] for axis in axes])
        source = self.batch.growth.get(node.input[0], ())
        if node.op_type == "Reshape":
            free, follows = _free_reshape(sizes, grown, source, bool(attributes.get("allowzero", 0)))
        else:
            before = [0] * (len(growth) - len(source)) + list(source)
            same = np.array([before[axis] > 0 for axis in axes])
            free = np.where(same & (grown > 0) & (node.op_type == "Expand"), 1, sizes)
            follows = (grown > 0) & ~(same & (node.op_type in ("Expand", "Tile")))
        name = f"{node.output[0]}.sizes"
        if not follows.any():
            if (free != sizes).any():
                self.added[name] = free
                node.input[position] = name
            return
        if (free[follows] % self.batch.size).any():
            raise UnsupportedModel(f"{node.op_type} {node.name!r} makes {sizes.tolist()}, which do not fit the batch")
        node.input[position] = self._computed(
            name, np.where(follows, 0, free), np.where(follows, free // self.batch.size, 0)
        )

    def _computed(self, name: str, fixed: Array, grown: Array) -> str:
        """Add nodes that compute `fixed` + batch * `grown`; return their result's name."""
        shape, axis, count = (f"{self.batch.inputs[0]}.{role}" for role in ("shape", "axis", "count"))
        if not self.count:
            self.count.append(helper.make_node("Shape", [self.batch.inputs[0]], [shape], name=shape))
            self.count.append(helper.make_node("Gather", [shape, axis], [count], name=count))
            self.added[axis] = np.array([0], np.int64)
        self.added |= {f"{name}.fixed": fixed.astype(np.int64), f"{name}.grown": grown.astype(np.int64)}
        scaled, result = f"{name}.scaled", f"{name}.of_batch"
        self.nodes.append(helper.make_node("Mul", [count, f"{name}.grown"], [scaled], name=scaled))
        self.nodes.append(helper.make_node("Add", [scaled, f"{name}.fixed"], [result], name=result))
        return result


def _free_reshape(
    sizes: NDArray[np.int64], grown: NDArray[np.int64], source: Sequence[int], allow_zero: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Say the batch by 0 (as the input's) or -1 (what is left) where that is the same; return what stays concrete."""
    free = sizes.copy()
    if not allow_zero:
        for axis, (here, there) in enumerate(zip(grown, source, strict=False)):
            if here == there == 1:
                free[axis] = 0
    follows = (grown > 0) & (free > 0)
    if follows.sum() == 1 and -1 not in free and (not allow_zero or 0 not in free):
        free[follows] = -1
        follows[:] = False
    return free, follows


def _check_same_operators(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
    if len(one.graph.node) != len(two.graph.node):
        raise UnsupportedModel("another batch needs other operators")
    for here, there in zip(one.graph.node, two.graph.node, strict=True):
        if here != there:
            raise UnsupportedModel(f"{here.op_type} {here.name!r} is another one for another batch")


def _check_constants(
    one: onnx.GraphProto, two: onnx.GraphProto, growth: Mapping[str, tuple[int, ...]], size: int
) -> None:
    others = {tensor.name: tensor for tensor in two.initializer}
    for tensor in one.initializer:
        other = others.get(tensor.name)
        if other == tensor:
            continue
        if other is None:
            raise UnsupportedModel(f"{tensor.name!r} is constant for some batches only")
        if tensor.name in growth:
            here, there = (numpy_helper.to_array(each) for each in (tensor, other))
            grown = growth[tensor.name]
            sample = here[tuple(slice(g or None) for g in grown)]
            if all(
                np.array_equal(np.tile(sample, [count if g else 1 for g in grown]), data)
                for count, data in ((size, here), (size + 1, there))
            ):
                continue
            raise UnsupportedModel(f"the constant {tensor.name!r} differs from sample to sample")
        for node in one.node:
            places = [place for place, name in enumerate(node.input) if name == tensor.name]
            if tensor.name in read_by(node) and places != [OPERANDS.get(node.op_type)]:
                raise UnsupportedModel(f"{node.op_type} {node.name!r} computes with the number of samples")
