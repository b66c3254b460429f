"""A network: an ONNX model with static shapes, ready to be analysed, pruned and run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.graph.prepare import prepare, static_shapes
from device_profiles.store import write_whole
from device_profiles.target import Target
from runtimes.base import open_session
from runtimes.model_file import read_model, to_bytes

Array = NDArray[np.generic]
InputShapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Proof:
    """What was checked when channels were removed.

    Attributes:
        removed_channels: Coupled channels that are gone; with 0 nothing is proven.
        max_error_of_spread: Largest difference to the original with the same channels zeroed, divided by the
            spread of the output it occurred in.
        tolerance: The largest error of spread that passes.
        seconds: Time both checks took.
        note: What a reader should know; empty when there is nothing.
    """

    removed_channels: int
    max_error_of_spread: float
    tolerance: float
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Network:
    """An ONNX network whose shapes are static and whose constants are folded.

    Attributes:
        model: The network; never changed after construction.
        proof: For a pruned network, how it was proven; None for any other.
    """

    model: onnx.ModelProto
    proof: Proof | None = None

    @classmethod
    def from_model(cls, model: onnx.ModelProto, input_shapes: InputShapes | None = None) -> Network:
        """Take over an ONNX model.

        Args:
            model: The model, with its weights; it is copied.
            input_shapes: Input name -> shape where the model leaves a size open.

        Raises:
            BadInput: The model is inconsistent or a shape stays open.
            UnsupportedModel: It uses operators that do not exist.
        """
        return cls(prepare(model, input_shapes))

    @classmethod
    def read(cls, path: Path, input_shapes: InputShapes | None = None) -> Network:
        """Read an ONNX file, and the files that hold its weights if it names any.

        Args:
            path: The `.onnx` file.
            input_shapes: Input name -> shape where the file leaves a size open.

        Raises:
            BadInput: The file is missing, truncated, no ONNX or inconsistent; its weights are missing; a shape is open.
            UnsupportedModel: It uses operators that do not exist, or ONNX Runtime does not take it.
        """
        network = cls.from_model(read_model(path), input_shapes)
        with open_session(network.model, Target("onnxruntime")):  # finds what no checker finds, before it is relied on
            return network

    def write(self, path: Path, *, external_data: bool = False) -> None:
        """Write the network as an ONNX file, whole or not at all.

        Args:
            path: The file.
            external_data: Write the weights to a second file beside it, named after it with ".data"; ONNX allows no
                more than 2 GiB in one file.

        Raises:
            BadInput: The place cannot be written, or the network does not fit into one file.
        """
        if not external_data:
            write_whole(path, to_bytes(self.model))
            return
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        place = path.name + ".data"
        onnx.external_data_helper.convert_model_to_external_data(model, location=place, size_threshold=0)
        content = bytearray()
        for tensor in model.graph.initializer:
            info = {entry.key: entry.value for entry in tensor.external_data}
            if "location" in info:
                onnx.external_data_helper.set_external_data(tensor, place, len(content), len(tensor.raw_data))
                content += tensor.raw_data
                tensor.ClearField("raw_data")
        write_whole(path.with_name(place), bytes(content))
        write_whole(path, to_bytes(model))

    @cached_property
    def sha256(self) -> str:
        """Hash of the serialised model."""
        return hashlib.sha256(self.model.SerializeToString(deterministic=True)).hexdigest()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, for every tensor whose shape is known."""
        return static_shapes(self.model)

    @cached_property
    def weights(self) -> dict[str, Array]:
        """Initializer name -> data (a view of the model where that is possible: do not write to it)."""
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Input name -> shape."""
        return {value.name: self.shapes[value.name] for value in self.model.graph.input}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Output name -> shape."""
        return {value.name: self.shapes.get(value.name, ()) for value in self.model.graph.output}
