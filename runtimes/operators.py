"""What the operators that a runtime executes take inside a network, attributed to the network's layers.

Runtimes fuse operators, rename them, split them and add conversions of their own between them. An executed operator
belongs to the layer whose names it carries, else to the layer of its kind in the same place of the order, else to the
layer that ran before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx

from runtimes.layers import WeightedLayer, weighted_layers

Kind = Literal["Conv", "ConvTranspose", "MatMul"]
KINDS: Mapping[str, Kind] = {"Conv": "Conv", "ConvTranspose": "ConvTranspose", "Gemm": "MatMul", "MatMul": "MatMul"}

# The wall clock is all that runtimes read here, and interference adds to it. With two more busy processes than cores,
# the shares of a UNet's operators repeated to 2.2 % with 16 runs and the 10 % quantile, to 12.5 % with the 25 %
# quantile, and to 17 % with 8 runs; on a quieter machine, to 2.4 % in any case.
WARM_UP_RUNS, TIMED_RUNS, QUANTILE = 2, 16, 0.1


@dataclass(frozen=True)
class OperatorTime:
    """How long one executed operator took.

    Attributes:
        name: The runtime's name for it.
        kind: Which product it computes; None for everything else.
        origins: Names of the operators, tensors and weights of the ONNX file that it was made from, as far as known.
        ms: A low quantile of several runs.
    """

    name: str
    kind: Kind | None
    origins: tuple[str, ...]
    ms: float


@dataclass(frozen=True)
class LayerTimes:
    """Executed operators added up by layer.

    Attributes:
        ms: Layer -> time; layers in the network's order.
        merged: Layers whose product no executed operator could be recognised as; their time is in another layer's.
        within: Of those, each that an executed operator computes together with others -> the layer it counts for.
    """

    ms: Mapping[str, float]
    merged: tuple[str, ...]
    within: Mapping[str, str] = field(default_factory=dict)


def low_quantile_ms(runs_ms: Sequence[float]) -> float:
    """Summarise an operator's runs; see `QUANTILE`."""
    return float(np.quantile(runs_ms, QUANTILE))


def attribute(operators: Sequence[OperatorTime], model: onnx.ModelProto) -> LayerTimes:
    """Add up executed operators by layer; every operator counts for exactly one.

    Args:
        operators: In the order in which they ran.
        model: The network that was run, with at least one layer.
    """
    layers = weighted_layers(model)
    names = _names(layers, model)
    owners = _by_name(operators, names)
    found = {owner for owner, operator in zip(owners, operators, strict=True) if operator.kind and owner}
    for kind in sorted(set(KINDS.values())):
        left = [layer.name for layer in layers if KINDS[layer.op] == kind and layer.name not in found]
        places = [i for i, operator in enumerate(operators) if operator.kind == kind and owners[i] is None]
        if len(left) == len(places):  # else the order says nothing
            found.update(left)
            for place, name in zip(places, left, strict=True):
                owners[place] = name
    total_ms = dict.fromkeys((layer.name for layer in layers), 0.0)
    current = next((owner for owner in owners if owner), layers[0].name)
    for owner, operator in zip(owners, operators, strict=True):
        current = owner or current
        total_ms[current] += operator.ms
    merged = tuple(layer.name for layer in layers if layer.name not in found)
    return LayerTimes(total_ms, merged, _within(operators, owners, names, merged))


def merge(times: LayerTimes, merged: Mapping[str, str]) -> dict[str, float]:
    """Add the times of layers that cannot be told apart.

    Args:
        times: By layer.
        merged: Layer -> the layer it counts with.

    Returns:
        Times without the merged layers.
    """
    total_ms = {name: ms for name, ms in times.ms.items() if name not in merged}
    for name, host in merged.items():
        total_ms[host] += times.ms[name]
    return total_ms


def hosts(times: Sequence[LayerTimes]) -> dict[str, str]:
    """Find a layer for each layer that was not recognised in some run.

    It is the one that an executed operator computed it together with, else the one before it, if always recognised.

    Args:
        times: Of the same layers in several networks.

    Returns:
        Layer -> the layer it counts with; the layers before the first that was recognised count with that one.
    """
    lost = {name for each in times for name in each.merged}
    names = list(times[0].ms)
    if len(lost) == len(names):
        return dict.fromkeys(names[1:], names[0])
    host = next(name for name in names if name not in lost)
    together = {name: owner for each in times for name, owner in each.within.items() if owner not in lost}
    found = {}
    for name in names:
        host = host if name in lost else name
        if name in lost:
            found[name] = together.get(name, host)
    return found


def _names(layers: Sequence[WeightedLayer], model: onnx.ModelProto) -> dict[str, str]:
    """Name -> layer, for each layer's weight, its operator, and the operators that follow it on its result alone."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            users.setdefault(tensor, []).append(node)
    computed = {tensor for node in model.graph.node if node.op_type != "Constant" for tensor in node.output}
    names: dict[str, str] = {}
    for layer in layers:
        tensor, own = layer.output, {layer.weight, layer.node, layer.output}
        while len(following := users.get(tensor, [])) == 1:
            (node,) = following
            if node.op_type in KINDS or any(name != tensor and name in computed for name in node.input):
                break
            tensor = node.output[0]
            own |= {node.name, tensor}
        for name in own - {""}:
            names.setdefault(name, layer.name)
    return names


def _within(
    operators: Sequence[OperatorTime],
    owners: Sequence[str | None],
    names: Mapping[str, str],
    merged: Sequence[str],
) -> dict[str, str]:
    """Find merged layers by the name of an operator that counts for another layer."""
    pairs = {
        names[origin]: owner
        for owner, operator in zip(owners, operators, strict=True)
        for origin in operator.origins
        if owner and operator.kind and origin in names
    }
    return {name: pairs[name] for name in merged if name in pairs}


def _by_name(operators: Sequence[OperatorTime], names: Mapping[str, str]) -> list[str | None]:
    return [next((names[name] for name in operator.origins if name in names), None) for operator in operators]
