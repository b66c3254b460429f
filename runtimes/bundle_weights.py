"""Networks without their own weights: all of them share one block of random numbers through ONNX external data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from runtimes.bundled.runner import scaled
from runtimes.layers import WEIGHTED_OPS

BLOCK_FLOATS = 2**18  # 1 MiB
LARGE = 1024  # numbers; what is smaller matters by its value (shapes, steps, limits) or is not worth a file
# Each weight of a network begins at another place: OpenVINO keeps equal weights once, in the caches, too. With all of
# them at one place the widest layers of a UNet took 0.6 of their time.
SHIFT_FLOATS = 1024
BIAS_SCALE = 2**-4  # small against activations around 1, and far from the denormals

Array = NDArray[np.float32]


@dataclass(frozen=True)
class WeightFile:
    """One file of weights: the block repeated and scaled, made on the device.

    Attributes:
        scale: What the block is multiplied with.
        floats: How many numbers it holds: up to the end of the last weight that is taken from it.
        sha256: Hash of the file.
    """

    scale: float
    floats: int
    sha256: str


@dataclass(frozen=True)
class Weights:
    """The weights of all networks of a bundle.

    Attributes:
        block: File of standard normal numbers, little-endian float32.
        sha256: Its hash.
        files: Name -> file; beside the networks, since runtimes take external data from there alone.
    """

    block: str
    sha256: str
    files: Mapping[str, WeightFile]


@dataclass
class SharedWeights:
    """Points the weights of networks at files of random numbers, and remembers how large those have to be.

    A weight's numbers are scaled as He et al. (2015, arXiv 1502.01852) draw them, rounded to a power of the square root
    of 2, so that activations neither vanish into denormals nor overflow however deep the network is.

    Attributes:
        floats: Halvings of the variance -> numbers.
    """

    floats: dict[int, int] = field(default_factory=dict)

    def replace_(self, model: onnx.ModelProto) -> None:
        """Take out the weights of a model; everything small stays as it is."""
        _lift_constants(model.graph)
        scales, place = _scales(model.graph), 0
        for tensor in model.graph.initializer:
            numbers = math.prod(tensor.dims)
            shared = tensor.name in scales or (numbers >= LARGE and sum(size > 1 for size in tensor.dims) > 1)
            if shared and tensor.data_type == TensorProto.FLOAT and tensor.data_location != TensorProto.EXTERNAL:
                scale = scales.get(tensor.name) or math.sqrt(2 / math.prod(tensor.dims[1:]))
                halvings = max(round(-2 * math.log2(scale)), 0)
                offset = SHIFT_FLOATS * (place % (BLOCK_FLOATS // SHIFT_FLOATS))
                place += 1
                self.floats[halvings] = max(self.floats.get(halvings, 0), offset + numbers)
                _point(tensor, _file_name(halvings), 4 * offset, 4 * numbers)

    def files(self, block: Array, folder: str) -> dict[str, WeightFile]:
        """Describe the files.

        Args:
            block: Standard normal numbers.
            folder: Of the networks, within the bundle.
        """
        found = {}
        for halvings, numbers in sorted(self.floats.items()):
            scale = float(np.float32(2 ** (-halvings / 2)))
            sha256 = hashlib.sha256(scaled(block, scale, numbers).tobytes()).hexdigest()
            found[f"{folder}/{_file_name(halvings)}"] = WeightFile(scale, numbers, sha256)
        return found


def random_block(seed: int) -> Array:
    """Draw the block."""
    return np.random.default_rng(seed).standard_normal(BLOCK_FLOATS).astype("<f4")


def _file_name(halvings: int) -> str:
    return f"weights-{halvings:02}.bin"


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Make initializers of large constants, which cannot be external."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if value is not None and math.prod(value.dims) >= LARGE:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.node.remove(node)


def _scales(graph: onnx.GraphProto) -> dict[str, float]:
    """Weight or bias of a layer -> the scale of its numbers."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in WEIGHTED_OPS and node.input[1] in shapes:
            found[node.input[1]] = math.sqrt(2 / _inputs_of_an_output(node, shapes[node.input[1]]))
            if len(node.input) > 2 and node.input[2] in shapes:
                found[node.input[2]] = BIAS_SCALE
    return found


def _inputs_of_an_output(node: onnx.NodeProto, shape: tuple[int, ...]) -> float:
    """How many products are added up in one output of a layer."""
    attributes: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    if node.op_type == "ConvTranspose":
        products = shape[0] * math.prod(shape[2:]) / attributes.get("group", 1)
        return float(max(products / math.prod(attributes.get("strides", [1])), 1))
    return shape[-1] if node.op_type == "Gemm" and attributes.get("transB") else shape[-2]


def _point(tensor: TensorProto, file: str, offset: int, length: int) -> None:
    """Replace a tensor's numbers by a place in a file."""
    shape, name, data_type = tuple(tensor.dims), tensor.name, tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.data_location = name, data_type, TensorProto.EXTERNAL
    tensor.dims.extend(shape)
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
