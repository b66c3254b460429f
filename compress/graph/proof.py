"""The two proofs that run on every pruning: removing channels equals zeroing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.graph.channels import ChannelGraph, Keep
from compress.graph.execute import execute
from compress.graph.labels import BoolArray, compress
from compress.graph.network import Network, Proof
from compress.graph.reference import zeroed
from compress.graph.trace import Given
from device_profiles.errors import BadInput, ParityFailed, UnsupportedModel
from device_profiles.target import Target
from runtimes.base import open_session

Array = NDArray[np.generic]
# Of the output's spread. Right prunings of 200 architectures had a median of 8e-7; 1e-3 lets a broken rule for
# depthwise convolutions pass.
TOLERANCE = 1e-4
SEED = 0


@dataclass(frozen=True)
class Difference:
    """Where two networks differ most, or where they first differ too much.

    Attributes:
        error_of_spread: Largest difference divided by the spread of the tensor it is in.
        tensor: That tensor.
        constant: Whether every output of the original is constant, so that equality means nothing.
    """

    error_of_spread: float
    tensor: str
    constant: bool


def prove(graph: ChannelGraph, keep: Keep, pruned: Network, remove: Callable[[ChannelGraph, Keep], Network]) -> Proof:
    """Check a pruned network against its original, by its labels and by its numbers.

    Args:
        graph: The channel graph of the original.
        keep: What was kept.
        pruned: The pruned network.
        remove: How it was pruned; used again where the original's numbers would prove nothing.

    Returns:
        The proof.

    Raises:
        ParityFailed: One of the checks failed.
    """
    started = time.perf_counter()
    removed = sum(graph.sets[name].width - len(indices) for name, indices in keep.items())
    check_labels(graph, keep, pruned)
    note = "" if removed else "nothing was removed, so nothing is proven"
    found = compare_numbers(graph, keep, pruned)
    if found.constant:
        lively = _randomised(graph)
        found = compare_numbers(lively, keep, remove(lively, keep))
        note = "the output is constant, so the numbers were compared with zero weights made random"
    if found.constant:
        raise ParityFailed("the network's output is constant even with random weights; its pruning cannot be proven")
    if not found.error_of_spread <= TOLERANCE:
        layer = next((one.name for one in graph.layers if one.output == found.tensor), found.tensor)
        raise ParityFailed(
            f"removing {removed} channels changes {layer!r} by {found.error_of_spread:.1e} of its spread (allowed: "
            f"{TOLERANCE:.0e}) compared with zeroing them, in {_names(keep)}; report this network, and freeze the set"
        )
    return Proof(removed, found.error_of_spread, TOLERANCE, time.perf_counter() - started, note)


def check_labels(graph: ChannelGraph, keep: Keep, pruned: Network) -> None:
    """Analyse the pruned network with the surviving channels' names: whatever meets must be the same channel.

    Raises:
        ParityFailed: Two different channels meet.
    """
    alive = graph.alive(keep)
    try:
        execution = execute(pruned, given=_surviving(graph, alive))
    except BadInput as err:
        raise ParityFailed(f"the network is inconsistent once {_names(keep)} is pruned ({err}); report it") from err
    nodes = pruned.model.graph.node
    for note in execution.trace.unions:
        wrong = (note.first != note.second) & (note.first != 0) & (note.second != 0)
        if wrong.any():
            name = nodes[note.node].name if note.node < len(nodes) else "the output"
            raise ParityFailed(
                f"after pruning {_names(keep)}, {name!r} joins channels that do not belong together; "
                "report this network, and freeze these sets meanwhile"
            )


def compare_numbers(graph: ChannelGraph, keep: Keep, pruned: Network) -> Difference:
    """Run the zeroed original and the pruned network on the same random input.

    Every layer's result is compared, not only the outputs: an error deep inside a network may reach its output
    faded below any tolerance.

    Raises:
        ParityFailed: Shapes differ, or a result is not finite.
    """
    alive = graph.alive(keep)
    tensors = graph.execution.tensors
    probes = [layer.output for layer in graph.layers if layer.output not in graph.network.outputs]
    feeds = random_feeds(graph.network)
    reference = run_probed(zeroed(graph, keep), feeds, probes)
    try:
        actual = run_probed(pruned.model, feeds, probes)
    except UnsupportedModel as err:
        raise ParityFailed(f"the network does not run once {_names(keep)} is pruned ({err}); report it") from err
    worst = Difference(0.0, next(iter(graph.network.outputs)), constant=True)
    for name in (*probes, *graph.network.outputs):
        whole = reference[name]
        wanted, got = tensors[name].take(whole, alive), actual[name]
        if wanted.shape != got.shape:
            raise ParityFailed(f"{name!r} has the shape {got.shape} after pruning {_names(keep)}, not {wanted.shape}")
        error, constant = _difference(wanted, got)
        if not np.isfinite(error):
            raise ParityFailed(f"{name!r} is not finite on random input; the pruning of {_names(keep)} is not proven")
        constant = worst.constant and (constant or name in probes)
        if worst.error_of_spread < error and worst.error_of_spread <= TOLERANCE:
            worst = Difference(error, name, constant)
        worst = replace(worst, constant=constant)
    return worst


def _difference(wanted: Array, got: Array) -> tuple[float, bool]:
    if not wanted.size:
        return 0.0, True
    one, two = wanted.astype(np.float64), got.astype(np.float64)
    if not np.isfinite(one).all() or not np.isfinite(two).all():
        return np.inf, False
    spread = float(one.max() - one.min())
    if spread == 0.0:
        return float((one != two).any()), True
    return float(np.abs(one - two).max()) / spread, False


def run_probed(model: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Run a model once in ONNX Runtime and return its outputs and the named intermediate results."""
    outputs = {output.name for output in model.graph.output}
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    return run(probed, feeds)


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model once in ONNX Runtime."""
    with open_session(model, Target("onnxruntime")) as session:
        return session.run(feeds)


def random_feeds(network: Network, seed: int = SEED) -> dict[str, Array]:
    """Draw inputs: normal numbers, and small integers that are valid as indices."""
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in network.model.graph.input:
        shape = network.inputs[value.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
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


def _surviving(graph: ChannelGraph, alive: BoolArray) -> Given:
    trace, tensors = graph.execution.trace, graph.execution.tensors
    labels = {}
    for key, (name, entry) in trace.issued.items():
        masks = [(one.axis, alive[one.labels]) for one in tensors[name].axes]
        labels[key] = compress(graph.class_of[entry.labels], masks)
    return Given(labels, trace.decisions)


def _randomised(graph: ChannelGraph) -> ChannelGraph:
    """Replace weights that are all zero by small random numbers."""
    generator = np.random.default_rng(SEED)
    model = onnx.ModelProto()
    model.CopyFrom(graph.network.model)
    for tensor in model.graph.initializer:
        data = numpy_helper.to_array(tensor)
        if np.issubdtype(data.dtype, np.floating) and data.size and not data.any():
            tensor.CopyFrom(
                numpy_helper.from_array(generator.normal(0, 0.5, data.shape).astype(data.dtype), tensor.name)
            )
    return replace(graph, network=Network(model))


def _names(keep: Keep) -> str:
    names = [repr(name) for name in keep]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
