"""Remove channels from an ONNX network, exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.labels import BoolArray, IntArray, Labelled
from compress.graph.network import Network
from compress.graph.proof import prove as prove_pruned
from compress.graph.rules.movement import slice_indices
from compress.graph.rules.step import Step
from device_profiles.errors import BadInput, ParityFailed
from runtimes.model_file import without_initializers

Array = NDArray[np.generic]


def prune(network: Network, keep: Keep, *, prove: bool = True) -> Network:
    """Remove all channels that `keep` does not name, and prove that this equals zeroing them.

    Args:
        network: The network; it is not changed.
        keep: Channel set -> sorted indices of the channels that stay; sets that are not named keep all.
        prove: Check the labels of the result, and its numbers in ONNX Runtime.

    Returns:
        The smaller network, with its proof.

    Raises:
        BadInput: `keep` does not fit the network's channel graph.
        ParityFailed: A proof failed; nothing is returned.
    """
    graph = analyse(network)
    pruned = remove_channels(graph, keep)
    if not prove:
        return pruned
    return replace(pruned, proof=prove_pruned(graph, keep, pruned, remove_channels))


def remove_channels(graph: ChannelGraph, keep: Keep) -> Network:
    """Slice the weights and regenerate what depends on shapes, without a proof.

    Raises:
        BadInput: `keep` does not fit the graph.
        ParityFailed: The result is inconsistent, so a rule is wrong.
    """
    alive = graph.alive(keep)
    network = graph.network
    tensors = graph.execution.tensors
    _check_nothing_vanishes(graph, alive)
    model = without_initializers(network.model)
    surgery = _Surgery(graph, alive)
    nodes = [rewritten for node in model.graph.node for rewritten in surgery.rewrite(node)]
    initializers = []
    for tensor in network.model.graph.initializer:
        data = network.weights[tensor.name]
        kept = tensors[tensor.name].take(data, alive)
        same = kept.shape == data.shape
        initializers.append(tensor if same else numpy_helper.from_array(np.asarray(kept, order="C"), tensor.name))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initializers)
    model.graph.initializer.extend(surgery.added)
    try:
        return replace(Network.from_model(model, sound_weights=True), batch=network.batch)
    except BadInput as err:
        raise ParityFailed(f"the pruned network is inconsistent ({err}); report this network") from err


def kept_indices(graph: ChannelGraph, alive: BoolArray) -> dict[str, IntArray]:
    """Return what constant indices become once channels are removed.

    Args:
        graph: The channel graph.
        alive: Per label whether it stays.

    Returns:
        Initializer -> the index; without those that several operators would change in different ways.
    """
    surgery = _Surgery(graph, alive)
    found: dict[str, list[IntArray]] = {}
    for node in graph.network.model.graph.node:
        if node.op_type == "Gather" and node.input[1] in graph.network.weights:
            found.setdefault(node.input[1], []).append(surgery.picked(node))
    return {name: ways[0] for name, ways in found.items() if all(np.array_equal(ways[0], other) for other in ways)}


def _check_nothing_vanishes(graph: ChannelGraph, alive: BoolArray) -> None:
    for name, tensor in graph.execution.tensors.items():
        if tensor.axes and 0 in tensor.shape_after(alive) and 0 not in tensor.shape:
            raise BadInput(
                f"keep removes every channel of {name!r}; keep at least one of each set and of each part of it"
            )


@dataclass
class _Surgery:
    """Rewrites nodes whose operands or attributes depend on shapes; collects the initializers it makes."""

    graph: ChannelGraph
    alive: BoolArray
    added: list[onnx.TensorProto] = field(default_factory=list)

    def rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that take a node's place."""
        touched = any(self._tensor(name).axes for name in (*node.input, *node.output) if name)
        method = REWRITES.get(node.op_type) if touched else None
        if method is None:
            return [node]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        return method(self, copy)

    def shape_operand(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Reshape, Expand: the shape that is left."""
        self._operand(node, 1, self._after(node.output[0]))
        return [node]

    def split(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Split: the sizes that are left."""
        axis = _attribute(node, "axis", 0) % len(self._tensor(node.input[0]).shape)
        sizes = [self._after(name)[axis] for name in node.output]
        _drop_attributes(node, "num_outputs", "split")
        if self._opset() < 13:
            node.attribute.append(helper.make_attribute("split", sizes))
        else:
            self._operand(node, 1, sizes)
        return [node]

    def slices(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Slice: along a shrinking axis, the positions that are left."""
        step = Step(node, (self._tensor(node.input[0]),), (), self.graph.network.weights, self.graph.execution.trace)
        source, nodes = node.input[0], []
        tensor = self._tensor(node.input[0])
        for axis, index in slice_indices(step).items():
            nodes.append(self._gather(f"{node.name}_{axis}", source, axis, self._ranks(tensor, axis, index)))
            source = nodes[-1].output[0]
        if not nodes:
            return [helper.make_node("Identity", [source], list(node.output), name=node.name)]
        nodes[-1].output[0] = node.output[0]
        nodes[-1].name = node.name
        return nodes

    def gather(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Gather with a constant index: where the picked positions are now."""
        if node.input[1] in self.graph.network.weights:
            self._operand(node, 1, self.picked(node))
        return [node]

    def picked(self, node: onnx.NodeProto) -> IntArray:
        """Return where the positions that a Gather's constant index picks are now."""
        index = self.graph.network.weights[node.input[1]]
        axis = _attribute(node, "axis", 0) % len(self._tensor(node.input[0]).shape)
        shape = self._after(node.output[0])[axis : axis + index.ndim]
        return self._picked(node, axis, index).reshape(shape)

    def gather_nd(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """GatherND along one axis: where the picked positions are now."""
        index = self.graph.network.weights.get(node.input[1])
        if index is not None and index.shape[-1] == 1 and not _attribute(node, "batch_dims", 0):
            shape = self._after(node.output[0])[: index.ndim - 1]
            self._operand(node, 1, self._picked(node, 0, index).reshape(*shape, 1))
        return [node]

    def tile(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Tile: as many copies as are left."""
        before, after = self._after(node.input[0]), self._after(node.output[0])
        self._operand(node, 1, [new // old if old else 1 for old, new in zip(before, after, strict=True)])
        return [node]

    def pad(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Pad: as many added channels as are left."""
        source, result = self._tensor(node.input[0]), self._tensor(node.output[0])
        rank = len(source.shape)
        operand = self.graph.network.weights.get(node.input[1]) if len(node.input) > 1 else None
        pads = np.array(operand if operand is not None else _attribute(node, "pads", 0)).reshape(2, -1).copy()
        listed = self.graph.network.weights.get(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        axes = range(rank) if listed is None else [int(axis) % rank for axis in listed]
        for column, axis in enumerate(axes):
            labels = result.along(axis)
            if labels and (pads[:, column] > 0).any():
                stays = np.moveaxis(self.alive[labels[0]], axis, -1).reshape(-1, result.shape[axis])[0]
                first, last = int(pads[0, column]), len(stays) - int(pads[1, column])
                pads[:, column] = stays[:first].sum(), stays[last:].sum()
        if operand is None:
            _drop_attributes(node, "pads")
            node.attribute.append(helper.make_attribute("pads", pads.reshape(-1).tolist()))
        else:
            self._operand(node, 1, pads.reshape(-1).tolist())
        return [node]

    def resize(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Resize to given sizes: the sizes that are left."""
        if len(node.input) > 3 and node.input[3] and not any(a.name == "axes" for a in node.attribute):
            self._operand(node, 3, self._after(node.output[0]))
        return [node]

    def convolution(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Conv, ConvTranspose: as many groups as are left."""
        if _attribute(node, "group", 1) > 1:
            weight = self._after(node.input[1])
            whole = self._after(node.input[0] if node.op_type == "Conv" else node.output[0])[1]
            _drop_attributes(node, "group")
            node.attribute.append(helper.make_attribute("group", whole // weight[1]))
        return [node]

    def recurrent(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """LSTM, GRU, RNN: as many hidden channels as are left."""
        _drop_attributes(node, "hidden_size")
        node.attribute.append(helper.make_attribute("hidden_size", self._after(node.input[2])[2]))
        return [node]

    def _tensor(self, name: str) -> Labelled:
        return self.graph.execution.tensors[name]

    def _after(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape_after(self.alive)

    def _opset(self) -> int:
        opsets = self.graph.network.model.opset_import
        return int(next(entry.version for entry in opsets if entry.domain in ("", "ai.onnx")))

    def _operand(self, node: onnx.NodeProto, position: int, values: ArrayLike) -> None:
        """Give a node an integer operand of its own."""
        name = f"{node.name}.operand{position}"
        self.added.append(numpy_helper.from_array(np.array(values, np.int64), name))
        while len(node.input) <= position:
            node.input.append("")
        node.input[position] = name

    def _gather(self, name: str, source: str, axis: int, index: IntArray) -> onnx.NodeProto:
        if len(index) and (np.diff(index) == 1).all():
            bounds = {"starts": [index[0]], "ends": [index[-1] + 1], "axes": [axis]}
            operands = []
            for role, values in bounds.items():
                operands.append(f"{name}.{role}")
                self.added.append(numpy_helper.from_array(np.array(values, np.int64), operands[-1]))
            return helper.make_node("Slice", [source, *operands], [f"{name}.result"], name=name)
        self.added.append(numpy_helper.from_array(index, f"{name}.index"))
        return helper.make_node("Gather", [source, f"{name}.index"], [f"{name}.result"], name=name, axis=axis)

    def _picked(self, node: onnx.NodeProto, axis: int, index: Array) -> IntArray:
        """Return where the positions that a constant index picks are now."""
        tensor = self._tensor(node.input[0])
        return self._ranks(tensor, axis, index.reshape(-1).astype(np.int64) % tensor.shape[axis])

    def _ranks(self, tensor: Labelled, axis: int, index: IntArray) -> IntArray:
        """Return where the positions of an index are once removed ones are gone; removed ones are left out."""
        stays = np.ones(tensor.shape[axis], np.bool_)
        for labels in tensor.along(axis):
            rows = np.moveaxis(self.alive[labels], axis, -1).reshape(-1, tensor.shape[axis])
            stays &= rows[0]  # rows differ in which positions stay, not in how many do, before and in each piece
        ranks = np.cumsum(stays) - 1
        left: IntArray = ranks[index[stays[index]]]
        return left


Rewrite = Callable[[_Surgery, onnx.NodeProto], list[onnx.NodeProto]]
REWRITES: dict[str, Rewrite] = {
    "Conv": _Surgery.convolution,
    "ConvTranspose": _Surgery.convolution,
    "GRU": _Surgery.recurrent,
    "LSTM": _Surgery.recurrent,
    "RNN": _Surgery.recurrent,
    "Expand": _Surgery.shape_operand,
    "Gather": _Surgery.gather,
    "GatherND": _Surgery.gather_nd,
    "Pad": _Surgery.pad,
    "Reshape": _Surgery.shape_operand,
    "Resize": _Surgery.resize,
    "Slice": _Surgery.slices,
    "Split": _Surgery.split,
    "Tile": _Surgery.tile,
}


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    for attribute in node.attribute:
        if attribute.name == name:
            value: int = helper.get_attribute_value(attribute)
            return value
    return default


def _drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
