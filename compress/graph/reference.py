"""The reference of the numeric proof: the original, with removed channels made neutral where they are consumed."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compress.graph.channels import ChannelGraph, Keep
from compress.graph.labels import BoolArray
from compress.graph.run import Runnable
from compress.graph.trace import Consumption
from device_profiles.errors import UnsupportedModel

Array = NDArray[np.generic]
LOWEST = np.float32(-1e30)  # far below any activation, finite so that masked positions never make a NaN


def zeroed(graph: ChannelGraph, keep: Keep) -> Runnable:
    """Return the network at full width with removed channels zeroed where they are consumed.

    A sum over channels sees zeros in place of removed ones. A mean, a maximum, a softmax or a normalisation over
    channels is taken over those that stay, as it is in the pruned network.

    Args:
        graph: The channel graph of the original.
        keep: Channel set -> indices that stay.

    Raises:
        BadInput: `keep` does not fit the graph.
        UnsupportedModel: Channels that an operator without a masked form normalises over are removed.
    """
    alive = graph.alive(keep)
    masking = _Masking(graph)
    consumed: dict[int, list[Consumption]] = {}
    for note in graph.execution.trace.consumptions:
        consumed.setdefault(note.node, []).append(note)
    for index, node in enumerate(graph.network.model.graph.node):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for note in consumed.get(index, ()):
            mask = _mask(note, alive)
            if not mask.all():
                masking.apply(copy, note, mask)
        if copy.op_type:
            masking.nodes.append(copy)
    whole = Runnable.of(graph.network, masking.nodes)
    return Runnable(whole.model, {**whole.weights, **masking.constants})


def _mask(note: Consumption, alive: BoolArray) -> BoolArray:
    masks = [alive[entry.labels] for entry in note.axes]
    both: BoolArray = np.logical_and.reduce(np.broadcast_arrays(*masks))
    return both


class _Masking:
    """Builds the nodes of the reference."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._graph = graph
        whole = graph.network.model.graph
        types = {t.name: t.data_type for t in whole.initializer}
        values = (*whole.input, *whole.output, *whole.value_info)
        self._types = types | {v.name: v.type.tensor_type.elem_type for v in values}

    def apply(self, node: onnx.NodeProto, note: Consumption, mask: BoolArray) -> None:
        """Put nodes before an operator, or in its place, so that masked positions do not count."""
        source = node.input[note.operand]
        dtype = helper.tensor_dtype_to_np_dtype(self._types.get(source, onnx.TensorProto.FLOAT))
        shape = self._graph.execution.tensors[source].shape
        numbers = mask.astype(dtype)
        if note.combine == "norm":
            self._normalise(node, numbers, shape)
            return
        if note.combine in ("sum", "mean"):
            whole = float(mask.size) / float(mask.sum()) if note.combine == "mean" else 1.0
            masked = self.call("Mul", source, self.constant(numbers * np.array(whole, dtype)))
        else:
            neutral = {"max": LOWEST, "softmax": LOWEST, "min": -LOWEST, "product": 1.0}[note.combine]
            masked = self.call("Where", self.constant(mask), source, self.constant(np.array(neutral, dtype)))
        node.input[note.operand] = masked

    def _normalise(self, node: onnx.NodeProto, mask: Array, shape: tuple[int, ...]) -> None:
        """Replace LayerNormalization or InstanceNormalization by the same over the positions that stay."""
        rank = len(shape)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type not in ("LayerNormalization", "RMSNormalization", "InstanceNormalization"):
            raise UnsupportedModel(f"{node.op_type} {node.name!r} over removed channels cannot be proven; keep them")
        layer = node.op_type != "InstanceNormalization"
        axes = list(range(attributes.get("axis", -1) % rank if layer else 2, rank))
        full = np.broadcast_to(mask, [shape[a] if a in axes else size for a, size in enumerate(mask.shape)])
        count = full.sum(axis=tuple(axes), keepdims=True).astype(mask.dtype)
        over = self.constant(np.array(axes, np.int64))
        number, stays = self.constant(count), self.constant(np.ascontiguousarray(full))
        centred = self.call("Mul", node.input[0], stays)
        if node.op_type != "RMSNormalization":
            mean = self.call("Div", self.call("ReduceSum", centred, over), number)
            centred = self.call("Mul", self.call("Sub", node.input[0], mean), stays)
        variance = self.call("Div", self.call("ReduceSum", self.call("Mul", centred, centred), over), number)
        epsilon = self.constant(np.array(attributes.get("epsilon", 1e-5), mask.dtype))
        result = self.call("Div", centred, self.call("Sqrt", self.call("Add", variance, epsilon)))
        for op, name in zip(("Mul", "Add"), [name for name in node.input[1:] if name], strict=False):
            operand = name
            if not layer:
                wide = self.constant(np.array([-1] + [1] * (rank - 2), np.int64))
                operand = self.call("Reshape", name, wide)
            result = self.call(op, result, operand)
        self.nodes.append(helper.make_node("Identity", [result], [node.output[0]], name=node.name))
        node.op_type = ""

    def constant(self, data: Array) -> str:
        """Add an initializer."""
        name = f"mask.{len(self.constants)}"
        self.constants[name] = data
        return name

    def call(self, op: str, *inputs: str) -> str:
        """Add an operator; return its result's name."""
        name = f"masked.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name))
        return name
