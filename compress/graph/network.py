"""A network: an ONNX model with static shapes, ready to be analysed, pruned and run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.graph.batch import UNNAMED, OpenBatch, at_batch, compare_batches, find_growth, open_inputs, reopen_
from compress.graph.prepare import prepare, static_shapes
from device_profiles.errors import BadInput, ToolkitError
from device_profiles.target import Target
from runtimes.base import open_session
from runtimes.model_file import read_model, write_model

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
        batch: Where the batch is that the file leaves open, `model` has a fixed one; None where the file fixes it too.
    """

    model: onnx.ModelProto
    proof: Proof | None = None
    batch: OpenBatch | None = None

    @classmethod
    def from_model(
        cls,
        model: onnx.ModelProto,
        input_shapes: InputShapes | None = None,
        *,
        batch: int = 1,
        sound_weights: bool = False,
    ) -> Network:
        """Take over an ONNX model.

        Args:
            model: The model, with its weights; it is copied.
            input_shapes: Input name -> shape where the model leaves a size open. A batch that is all that is open may
                be left so, see `opened`.
            batch: The batch at which such a network is analysed.
            sound_weights: The data of its weights comes from a network, from numpy or from torch, and needs no check.

        Raises:
            BadInput: The model is inconsistent or a shape stays open, or it computes with the size of an open batch.
            UnsupportedModel: It uses operators that do not exist.
        """
        given = dict(input_shapes or {})
        opened = open_inputs(model, given)
        if not opened:
            return cls(prepare(model, given, sound_weights=sound_weights))
        fixed, larger = (at_batch(model, tuple(opened), size) for size in (batch, batch + 1))
        network = cls(prepare(model, given | fixed, sound_weights=sound_weights))
        try:
            wider = prepare(model, given | larger, sound_weights=sound_weights)
            return _with_open_batch(network, model, wider, opened)
        except ToolkitError as err:
            shapes = " ".join("--input " + "x".join(map(str, fixed.get(n, s))) for n, s in network.inputs.items())
            raise BadInput(
                f"the batch of {', '.join(map(repr, opened))} is open, but the network does not work for every batch "
                f"({err}); give its size, such as {shapes}"
            ) from err

    @classmethod
    def read(cls, path: Path, input_shapes: InputShapes | None = None, *, batch: int = 1) -> Network:
        """Read an ONNX file, and the files that hold its weights if it names any.

        Args:
            path: The `.onnx` file.
            input_shapes: Input name -> shape where the file leaves a size open; see `from_model`.
            batch: The batch at which a network is analysed whose file leaves it open.

        Raises:
            BadInput: The file is missing, truncated, no ONNX or inconsistent; its weights are missing; a shape is open.
            UnsupportedModel: It uses operators that do not exist, or ONNX Runtime does not take it.
        """
        network = cls.from_model(read_model(path), input_shapes, batch=batch)
        with open_session(network.model, Target("onnxruntime")):  # finds what no checker finds, before it is relied on
            return network

    def opened(self) -> onnx.ModelProto:
        """Return the network as it is written: its batch is open where its file left it open."""
        if self.batch is None:
            return self.model
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        reopen_(model, self.weights, self.batch)
        return model

    def write(self, path: Path, *, external_data: bool = False) -> None:
        """Write the network as an ONNX file, whole or not at all.

        Args:
            path: The file.
            external_data: Write the weights to a second file beside it, named after it with ".data", as is done anyway
                with more than the 2 GiB that ONNX allows in one file.

        Raises:
            BadInput: The place cannot be written.
        """
        write_model(path, self.opened(), external_data=external_data)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, for every tensor whose shape is known."""
        return static_shapes(self.model)

    @cached_property
    def weights(self) -> Mapping[str, Array]:
        """Initializer name -> data, read when it is asked for (do not write to it)."""
        return _Weights(self.model.graph.initializer)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Input name -> shape."""
        return {value.name: self.shapes[value.name] for value in self.model.graph.input}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Output name -> shape."""
        return {value.name: self.shapes.get(value.name, ()) for value in self.model.graph.output}


class _Weights(Mapping[str, Array]):
    """Initializers by name, each converted once: analysing a network takes few of them."""

    def __init__(self, tensors: Iterable[onnx.TensorProto]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._read:
            self._read[name] = numpy_helper.to_array(self._tensors[name])
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def check_open_batch(original: onnx.ModelProto, network: Network) -> None:
    """Make sure that a network with an open batch computes for several batches what an original does.

    Raises:
        ParityFailed: Their outputs differ.
        UnsupportedModel: One of them does not run.
    """
    if network.batch is None:
        return
    target = Target("onnxruntime")
    with open_session(original, target) as reference, open_session(network.opened(), target) as ours:
        compare_batches(reference.run, ours.run, network.model, network.batch)


def _with_open_batch(
    network: Network, model: onnx.ModelProto, larger: onnx.ModelProto, opened: Mapping[str, str]
) -> Network:
    size = network.inputs[next(iter(opened))][0]
    growth = find_growth(network.model, larger, (network.shapes, static_shapes(larger)), size)
    batch = OpenBatch(next(filter(None, opened.values()), UNNAMED), size, tuple(opened), growth)
    network = replace(network, batch=batch)
    check_open_batch(model, network)
    return network
