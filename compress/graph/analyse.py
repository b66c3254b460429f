"""Read the channel graph off a network by executing it on labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.graph.channels import BalanceRule, ChannelGraph, ChannelSet, Layer, Norm
from compress.graph.classes import coupled
from compress.graph.execute import Execution, execute
from compress.graph.labels import FROZEN, BoolArray, IntArray
from compress.graph.network import Network
from compress.graph.rules.recurrent import GATES
from device_profiles.errors import BadInput
from runtimes.layers import WeightedLayer, weighted_layers

NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization")
SIGNATURE_SEED = 0  # channels with the same occurrences get the same random sum; any seed does


def analyse(network: Network, frozen: Mapping[str, str] | None = None) -> ChannelGraph:
    """Find the layers of a network, their coupled channels and what must be balanced.

    Args:
        network: The network.
        frozen: Channel set -> why it must keep all its channels, beyond what the network itself demands.

    Raises:
        BadInput: `frozen` names a set that does not exist.
    """
    execution, class_of = _settle(network)
    wiring = _Wiring.of(network)
    found, nodes = find_layers(network), wiring.made_by
    layers = [_Seen(one, *_ends(execution, class_of, one, nodes[one.output])) for one in found]
    class_of = _freeze_unbalanced(execution, class_of, layers)
    layers = [_Seen(one, *_ends(execution, class_of, one, nodes[one.output])) for one in found]
    sets = _find_sets(execution, class_of, layers)
    for name in frozen or {}:
        if name not in sets:
            raise BadInput(f"channel set {name!r} does not exist; the sets are {', '.join(sets) or '(none)'}")
    removable = np.zeros(len(class_of), np.bool_)
    for one in sets.values():
        removable[one.classes] = True
    balances = _balance_rules(execution, class_of, removable)
    sets = _with_families(sets, balances, len(class_of))
    sets = {name: replace(one, frozen=(frozen or {}).get(name)) for name, one in sets.items()}
    sets = _frozen_families(sets)
    number_of = _set_numbers(sets, len(class_of))
    described = tuple(_describe(wiring, one, sets, number_of) for one in layers)
    return ChannelGraph(network, described, sets, balances, execution, class_of)


def find_layers(network: Network) -> tuple[WeightedLayer, ...]:
    """List the operators with weights, those included that use a matrix transposed (torch's Linear on sequences)."""
    graph = network.model.graph
    outline = onnx.ModelProto()
    outline.graph.initializer.extend(onnx.TensorProto(name=n, dims=data.shape) for n, data in network.weights.items())
    turned = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in network.weights and len(network.shapes[node.input[0]]) == 2
    }
    for node in graph.node:
        copy = outline.graph.node.add()
        copy.CopyFrom(node)
        if node.op_type == "MatMul" and node.input[1] in turned:
            copy.op_type, copy.input[1] = "Gemm", turned[node.input[1]]
            copy.attribute.append(onnx.helper.make_attribute("transB", 1))
    found = {layer.output: layer for layer in weighted_layers(outline)}
    found |= _recurrent_layers(network)
    nodes = [node for node in graph.node if node.output[0] in found]
    return tuple(replace(found[node.output[0]], op=node.op_type) for node in nodes)


def _recurrent_layers(network: Network) -> dict[str, WeightedLayer]:
    """Name every LSTM, GRU and RNN after the weight its gates were cut from; widths are of one direction."""
    made_by = {name: node for node in network.model.graph.node for name in node.output}
    found = {}
    for node in network.model.graph.node:
        if node.op_type in GATES:
            weight = node.input[1]
            while weight in made_by:
                weight = made_by[weight].input[0]
            inner, outer = network.shapes[node.input[1]][2], network.shapes[node.input[2]][2]
            output = node.output[0]
            found[output] = WeightedLayer(weight, node.name, node.op_type, weight, output, inner, outer, 1)
    return found


@dataclass(frozen=True)
class _Wiring:
    """Which operator makes each tensor and which use it."""

    network: Network
    made_by: Mapping[str, onnx.NodeProto]
    used_by: Mapping[str, list[onnx.NodeProto]]

    @classmethod
    def of(cls, network: Network) -> _Wiring:
        used_by: dict[str, list[onnx.NodeProto]] = {}
        for node in network.model.graph.node:
            for name in dict.fromkeys(node.input):
                used_by.setdefault(name, []).append(node)
        return cls(network, {name: node for node in network.model.graph.node for name in node.output}, used_by)


@dataclass(frozen=True)
class _Seen:
    """A layer with the classes of its input and output channels."""

    layer: WeightedLayer
    inner: IntArray
    outer: IntArray


def _settle(network: Network) -> tuple[Execution, IntArray]:
    """Execute; where splitting an axis the default way leaves it frozen, try the other ways."""
    execution = execute(network)
    class_of = coupled(execution.trace)
    wishes: dict[str, int] = {}
    for attempt in range(2):
        stuck = _stuck(execution, class_of)
        options = {key: axes for key, axes in stuck.items() if attempt < len(axes) - 1}
        if not options:
            break
        trial = execute(network, wishes | {key: axes[attempt] for key, axes in options.items()})
        trial_classes = coupled(trial.trace)
        helped = {key: options[key][attempt] for key in options.keys() - _stuck(trial, trial_classes).keys()}
        if helped:
            wishes |= helped
            execution = execute(network, wishes)
            class_of = coupled(execution.trace)
    return execution, class_of


def _stuck(execution: Execution, class_of: IntArray) -> dict[str, tuple[int, ...]]:
    trace = execution.trace
    return {key: axes for key, (axes, labels) in trace.alternatives.items() if not class_of[labels].any()}


def _ends(
    execution: Execution, class_of: IntArray, layer: WeightedLayer, node: onnx.NodeProto
) -> tuple[IntArray, IntArray]:
    return (
        _channel_classes(execution, class_of, node.input[0], layer.op, bool(_attribute(node, "transA", 0))),
        _channel_classes(execution, class_of, layer.output, layer.op, False),
    )


def _channel_classes(execution: Execution, class_of: IntArray, name: str, op: str, first: bool) -> IntArray:
    tensor = execution.tensors[name]
    axis = 1 if op in ("Conv", "ConvTranspose") else len(tensor.shape) - 1
    arrays = tensor.along(0 if first else axis)
    return np.concatenate([class_of[labels.reshape(-1)] for labels in arrays]) if arrays else np.zeros(0, np.int64)


def _find_sets(execution: Execution, class_of: IntArray, layers: Sequence[_Seen]) -> dict[str, ChannelSet]:
    """Group classes that occur equally often in the same places: each group can take any width by itself."""
    generator = np.random.default_rng(SIGNATURE_SEED)
    signature = np.zeros(len(class_of), np.uint64)
    done = np.ones(len(class_of), np.bool_)
    for seen in layers:
        for side in (seen.inner, seen.outer):
            np.add.at(signature, side, generator.integers(1, 2**63, dtype=np.uint64))
        done[seen.outer] = False
    for piece in execution.trace.pieces:
        np.add.at(signature, np.unique(class_of[piece]), generator.integers(1, 2**63, dtype=np.uint64))
    done[FROZEN] = True
    sets: dict[str, ChannelSet] = {}
    for seen in layers:
        fresh = seen.outer[~done[seen.outer]]
        _, start = np.unique(fresh, return_index=True)
        fresh = fresh[np.sort(start)]
        done[fresh] = True
        kinds = signature[fresh]
        for kind in kinds[np.sort(np.unique(kinds, return_index=True)[1])]:
            classes = fresh[kinds == kind]
            name = _free_name(seen.layer.name, sets)
            sets[name] = ChannelSet(name, len(classes), 1, name, (), (), None, classes)
    return _with_users(sets, layers, len(class_of))


def _with_users(sets: Mapping[str, ChannelSet], layers: Sequence[_Seen], labels: int) -> dict[str, ChannelSet]:
    """Note which layers make and use each set."""
    number_of = _set_numbers(sets, labels)
    names = list(sets)
    producers: dict[str, list[str]] = {name: [] for name in names}
    consumers: dict[str, list[str]] = {name: [] for name in names}
    for seen in layers:
        for side, users in ((seen.outer, producers), (seen.inner, consumers)):
            for number in np.unique(number_of[side]):
                if number >= 0:
                    users[names[number]].append(seen.layer.name)
    return {
        name: replace(one, producers=tuple(producers[name]), consumers=tuple(consumers[name]))
        for name, one in sets.items()
    }


def _set_numbers(sets: Mapping[str, ChannelSet], labels: int) -> IntArray:
    """Return the number of each class's set, -1 for classes in none."""
    number_of = np.full(labels, -1, np.int64)
    for number, one in enumerate(sets.values()):
        number_of[one.classes] = number
    return number_of


def _free_name(name: str, taken: Mapping[str, object]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}[{number}]" in taken:
        number += 1
    return f"{name}[{number}]"


def _freeze_unbalanced(execution: Execution, class_of: IntArray, layers: Sequence[_Seen]) -> IntArray:
    """Freeze rows that must keep equally many but cannot, since unequally many of them are frozen."""
    trace = execution.trace
    offered = np.zeros(len(class_of), np.bool_)
    while True:
        offered[:] = False
        for seen in layers:
            offered[class_of[seen.outer]] = True
        offered[FROZEN] = False
        before = trace.node
        broken = []
        for note in trace.balances:
            counts = offered[class_of[note.rows]].sum(1)
            if counts.min() != counts.max():
                broken.append(note)
        if not broken:
            return class_of
        for note in broken:
            trace.node = note.node
            trace.freeze(note.rows, "its rows must keep equally many, and one of them cannot shrink")
        trace.node = before
        class_of = coupled(trace)


def _balance_rules(execution: Execution, class_of: IntArray, removable: BoolArray) -> tuple[BalanceRule, ...]:
    nodes = execution.network.model.graph.node
    rules: dict[bytes, BalanceRule] = {}
    for note in execution.trace.balances:
        rows = np.unique(class_of[note.rows], axis=0)
        if len(rows) > 1 and removable[rows].any():
            rules.setdefault(rows.tobytes(), BalanceRule(nodes[note.node].name, rows))
    return tuple(rules.values())


def _with_families(
    sets: Mapping[str, ChannelSet], balances: Sequence[BalanceRule], labels: int
) -> dict[str, ChannelSet]:
    """Find which sets share balance rules and the widths these allow.

    Keeping the same share of every atom (channels of one set in the same rows) satisfies every rule, so the greatest
    common divisor of the atoms' sizes tells how finely a family can be cut.
    """
    family = {name: name for name in sets}
    for rule in balances:
        members = [name for name, one in sets.items() if np.isin(one.classes, rule.rows).any()]
        oldest = min((family[name] for name in members), key=list(sets).index)
        merged = {family[name] for name in members}
        family = {name: oldest if root in merged else root for name, root in family.items()}
    atoms = atom_of(sets, balances, labels)
    divisor: dict[str, int] = {}
    for name, one in sets.items():
        for size in np.unique(atoms[one.classes], return_counts=True)[1].tolist():
            divisor[family[name]] = gcd(divisor.get(family[name], 0), size)
    return {
        name: replace(one, family=family[name], step=one.width // divisor[family[name]]) for name, one in sets.items()
    }


def atom_of(sets: Mapping[str, ChannelSet], balances: Sequence[BalanceRule], labels: int) -> NDArray[np.uint64]:
    """Return a number per class that is equal for channels of one set that lie in the same rows of every rule."""
    generator = np.random.default_rng(SIGNATURE_SEED)
    signature = np.zeros(labels, np.uint64)
    for one in sets.values():
        signature[one.classes] += generator.integers(1, 2**63, dtype=np.uint64)
    for rule in balances:
        for row in rule.rows:
            np.add.at(signature, row, generator.integers(1, 2**63, dtype=np.uint64))
    return signature


def _frozen_families(sets: Mapping[str, ChannelSet]) -> dict[str, ChannelSet]:
    reasons = {one.family: f"its family has {one.name!r}: {one.frozen}" for one in sets.values() if one.frozen}
    return {
        name: one if one.frozen or one.family not in reasons else replace(one, frozen=reasons[one.family])
        for name, one in sets.items()
    }


def _describe(graph: _Wiring, seen: _Seen, sets: Mapping[str, ChannelSet], number_of: IntArray) -> Layer:
    network = graph.network
    node = graph.made_by[seen.layer.output]
    consumers = graph.used_by.get(seen.layer.output, [])
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    output = seen.layer.output
    if bias is None and len(consumers) == 1 and consumers[0].op_type == "Add":
        other = next(name for name in (*consumers[0].input, "") if name != output)
        if network.shapes.get(other) == (seen.layer.out_channels,) and other in network.weights:
            bias, output = other, consumers[0].output[0]
            consumers = graph.used_by.get(output, [])
    norm = _norm(consumers[0], output) if len(consumers) == 1 else None
    one = seen.layer
    return Layer(
        one.name, one.op, node.name, one.output, one.weight, bias, norm, one.in_channels, one.out_channels, one.groups,
        _counts(seen.inner, sets, number_of), _counts(seen.outer, sets, number_of),
    )  # fmt: skip


def _norm(node: onnx.NodeProto, output: str) -> Norm | None:
    if node.op_type not in NORMS or node.input[0] != output:
        return None
    names = [*node.input[1:], None, None, None, None][:4]
    return Norm(node.op_type, str(names[0]), names[1], names[2], names[3], float(_attribute(node, "epsilon", 1e-5)))


def _counts(classes: IntArray, sets: Mapping[str, ChannelSet], number_of: IntArray) -> dict[str, int]:
    numbers = number_of[classes]
    counts = np.bincount(numbers[numbers >= 0], minlength=len(sets))
    return {name: int(counts[i]) // one.width for i, (name, one) in enumerate(sets.items()) if counts[i]}


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(onnx.helper.get_attribute_value(attribute))
    return default
