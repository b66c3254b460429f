"""Run a network once, on random inputs, and read what lies inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compress.graph.network import Network
from runtimes.base import run_once

Array = NDArray[np.generic]
SEED = 0


@dataclass(frozen=True)
class Runnable:
    """A network in two parts, so that running a variant of it needs no copy of its weights.

    Attributes:
        model: Its operators, inputs and outputs, without initializers.
        weights: Initializer name -> data.
    """

    model: onnx.ModelProto
    weights: Mapping[str, Array]

    @classmethod
    def of(cls, network: Network, nodes: Sequence[onnx.NodeProto] | None = None) -> Runnable:
        """Take a network apart; with other operators in place of its own where they are given."""
        model, graph = onnx.ModelProto(), network.model.graph
        model.ir_version = network.model.ir_version
        model.opset_import.extend(network.model.opset_import)
        model.graph.name = graph.name or "network"
        model.graph.node.extend(graph.node if nodes is None else nodes)
        model.graph.input.extend(graph.input)
        model.graph.output.extend(graph.output)
        return cls(model, network.weights)

    def run(self, feeds: Mapping[str, Array], probes: Sequence[str] = ()) -> dict[str, Array]:
        """Run once and return the outputs and the named intermediate results.

        Raises:
            UnsupportedModel: ONNX Runtime cannot run it.
        """
        outputs = {output.name for output in self.model.graph.output}
        probed = onnx.ModelProto()
        probed.CopyFrom(self.model)
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in probes if name not in outputs)
        return run_once(probed, self.weights, feeds)

    def cut(self, values: Mapping[str, Array]) -> Runnable:
        """Return it cut into parts: whoever reads one of the named results reads an input of that name's in its place.

        Args:
            values: Result -> what it is, for its shape and element type.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for node in model.graph.node:
            for position, name in enumerate(node.input):
                if name in values:
                    node.input[position] = given(name)
        for name, value in values.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            model.graph.input.append(helper.make_tensor_value_info(given(name), kind, value.shape))
        return Runnable(model, self.weights)


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], probes: Sequence[str] = ()) -> dict[str, Array]:
    """Run a model once and return its outputs and the named intermediate results."""
    return Runnable.of(Network(model)).run(feeds, probes)


def given(name: str) -> str:
    """Name the input that stands for a result of a network that is cut."""
    return f"{name}.given"


def random_feeds(network: Network, seed: int = SEED) -> dict[str, Array]:
    """Draw inputs: normal numbers, and small integers that are valid as indices."""
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in network.model.graph.input:
        shape = network.inputs[value.name]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if np.issubdtype(dtype, np.floating):
            feeds[value.name] = generator.standard_normal(shape).astype(dtype)
        else:
            feeds[value.name] = generator.integers(0, _smallest_table(network, value.name), shape).astype(dtype)
    return feeds


def _smallest_table(network: Network, name: str) -> int:
    sizes = [2]
    for node in network.model.graph.node:
        if node.op_type == "Gather" and len(node.input) > 1 and node.input[1] == name:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            sizes.append(network.shapes[node.input[0]][axis])
    return min(sizes[1:] or sizes)
