"""Networks in half precision (f16): the file itself is converted, which is the only way from TensorRT 11 on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnxconverter_common import float16

from device_profiles.errors import UnsupportedModel
from runtimes.node_names import with_node_names

LARGEST, SMALLEST = 65504.0, 2.0**-24  # of the numbers of f16 above 0
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Half:
    """A network in f16; its inputs and outputs stay as they are.

    Attributes:
        model: The network.
        kept: Operators that stay in f32, because a weight of theirs is larger than any number of f16.
        vanished: Weights that are 0 in f16, but not in f32.
        weights: How many there are.
    """

    model: onnx.ModelProto
    kept: tuple[str, ...]
    vanished: int
    weights: int

    @property
    def report(self) -> str:
        """What was lost, in one line; empty if nothing was."""
        parts = []
        if self.kept:
            parts.append(f"operators that stay in f32, with weights beyond {LARGEST:.0f}: {', '.join(self.kept)}")
        if self.vanished:
            parts.append(f"weights that vanish, below {SMALLEST / 2:.1e}: {self.vanished} of {self.weights}")
        return "; ".join(parts)


def to_half(model: onnx.ModelProto) -> Half:
    """Convert a network to f16.

    What onnxconverter-common would clamp is treated first: numbers that are too small become 0, as in any rounding to
    f16, and operators with a constant that is too large stay in f32. Both are logged. Resize and a few others stay in
    f32 in any case, because runtimes lack them in f16. Whether activations fit into f16 depends on the data: compare
    the outputs.

    Args:
        model: Left as it is; with its weights.

    Raises:
        UnsupportedModel: It is in f16 already, or holds something that cannot be converted.
    """
    named = with_node_names(model)
    too_large, vanished, weights = set(), 0, 0
    for tensor in _constants(named.graph):
        values = np.abs(numpy_helper.to_array(tensor))
        weights += values.size
        vanished += int(np.count_nonzero((values > 0) & (values <= SMALLEST / 2)))
        if (values[np.isfinite(values)] > LARGEST).any():
            too_large.add(tensor.name)
    kept = tuple(node.name for node in named.graph.node if too_large.intersection(node.input))
    _round_small_(named.graph)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about what it clamps, which is reported here
            converted = float16.convert_float_to_float16(
                named, SMALLEST, LARGEST, keep_io_types=True, node_block_list=_with_constants(named.graph, kept),
                op_block_list=float16.DEFAULT_OP_BLOCK_LIST,
            )  # fmt: skip
        onnx.checker.check_model(converted)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise UnsupportedModel(
            f"the network cannot be converted to f16: {' '.join(str(err).split())[:300]}; give it in f32, or use "
            "precision 'f32', which computes in the file's own types"
        ) from err
    half = Half(converted, kept, vanished, weights)
    if half.report:
        LOG.warning("in f16: %s", half.report)
    return half


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Weights and constants in f32, under the name that operators use."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.name = node.output[0]
                yield attribute.t


def _round_small_(graph: onnx.GraphProto) -> None:
    """Make 0 of what would be clamped to the smallest number of f16."""
    for tensor in _constants(graph):
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        small = (values != 0) & (np.abs(values) <= SMALLEST / 2)
        if small.any():
            tensor.CopyFrom(numpy_helper.from_array(np.where(small, np.float32(0), values), tensor.name))


def _with_constants(graph: onnx.GraphProto, nodes: Iterable[str]) -> list[str]:
    """Add the constants that some operators use to them."""
    kept = set(nodes)
    used = {tensor for node in graph.node if node.name in kept for tensor in node.input}
    makers = {node.name for node in graph.node if node.op_type == "Constant" and node.output[0] in used}
    return sorted(kept | makers)
