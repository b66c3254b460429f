"""The two proofs that run on every pruning: removing channels equals zeroing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.graph.batch import compare_batches, grown_operands, reopen_
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.execute import execute
from compress.graph.labels import BoolArray, compress
from compress.graph.network import Network, Proof
from compress.graph.reference import zeroed
from compress.graph.run import SEED, Runnable, given, random_feeds
from compress.graph.trace import Given
from device_profiles.errors import BadInput, ParityFailed, UnsupportedModel

Array = NDArray[np.generic]
# Of the output's spread. Right prunings of 200 architectures had a median of 8e-7; 1e-3 lets a broken rule for
# depthwise convolutions pass.
TOLERANCE = 1e-4
RESOLUTION = 2.0**-18  # of a tensor's largest number: 64 roundings of float32; layers of six networks had up to 20
SIMILAR = 1e-2  # of the outputs' spread: what rounding may add up to by the end


@dataclass(frozen=True)
class Difference:
    """Where two networks differ most, or where they first differ too much.

    Attributes:
        error_of_spread: Largest difference divided by the spread of the tensor it is in.
        tensor: That tensor.
        constant: Whether every output of the original is constant, so that equality means nothing.
        rounding_of_spread: What rounding had added up to where every layer was compared by itself because of that.
    """

    error_of_spread: float
    tensor: str
    constant: bool = False
    rounding_of_spread: float | None = None


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
        lively = randomised(graph)
        found = compare_numbers(lively, keep, remove(lively, keep))
        note = "the output is constant, so the numbers were compared with zero weights made random"
    if found.rounding_of_spread is not None:
        note = f"rounding adds up to {found.rounding_of_spread:.1e} of a spread, so every layer was compared by itself"
    if found.constant:
        raise ParityFailed("the network's output is constant even with random weights; its pruning cannot be proven")
    if not found.error_of_spread <= TOLERANCE:
        layer = next((one.name for one in graph.layers if one.output == found.tensor), found.tensor)
        raise ParityFailed(
            f"removing {removed} channels changes {layer!r} by {found.error_of_spread:.1e} of its spread (allowed: "
            f"{TOLERANCE:.0e}) compared with zeroing them, in {_names(keep)}; report this network, and freeze the set"
        )
    prove_batches(graph, keep, pruned)
    return Proof(removed, found.error_of_spread, TOLERANCE, time.perf_counter() - started, note)


def prove_batches(graph: ChannelGraph, keep: Keep, pruned: Network) -> None:
    """Where the batch is open, compare the zeroed original and the pruned network at several batches.

    Raises:
        ParityFailed: They differ, or one does not run.
    """
    batch = graph.network.batch
    if batch is None:
        return
    whole, smaller = zeroed(graph, keep), Runnable.of(pruned)
    masks = {name: data.shape for name, data in whole.weights.items() if name not in graph.network.weights}
    try:
        reopen_(whole.model, whole.weights, grown_operands(batch, whole.model.graph, masks))
        reopen_(smaller.model, smaller.weights, batch)
        compare_batches(whole.run, smaller.run, graph.network.model, batch)
    except (ParityFailed, UnsupportedModel) as err:
        raise ParityFailed(f"the pruned network works for one batch only ({err}); give the inputs' shapes") from err


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
    faded below any tolerance. Where something differs too much, rounding is told from mistakes: every layer is
    compared by itself, on what the layers before it make in the original, and the parts of a network that was cut
    rightly agree as far as float32 resolves what the original computes.

    Raises:
        ParityFailed: Shapes differ, or a result is not finite.
    """
    alive = graph.alive(keep)
    # A layer that reads no input may be small enough to be folded once it is pruned; who reads it is compared.
    made = {name for node in pruned.model.graph.node for name in node.output} - graph.network.outputs.keys()
    probes = [layer.output for layer in graph.layers if layer.output in made]
    feeds = random_feeds(graph.network)
    smaller = Runnable.of(pruned)
    whole = zeroed(graph, keep).run(feeds, probes)
    wanted = {name: graph.execution.tensors[name].take(data, alive) for name, data in whole.items()}
    magnitudes = {name: _largest(data) for name, data in whole.items()}
    try:
        found = _compare(wanted, smaller.run(feeds, probes), magnitudes, strict=True)
        worst = _worst(found)
        if not worst.error_of_spread <= TOLERANCE and max(found[name] for name in graph.network.outputs) <= SIMILAR:
            inner = {name: wanted[name] for name in probes}
            parts = smaller.cut(inner).run(feeds | {given(name): data for name, data in inner.items()}, probes)
            rounded = worst.error_of_spread
            worst = replace(_worst(_compare(wanted, parts, magnitudes, strict=False)), rounding_of_spread=rounded)
    except UnsupportedModel as err:
        raise ParityFailed(f"the network does not run once {_names(keep)} is pruned ({err}); report it") from err
    results = [wanted[name] for name in graph.network.outputs]
    return replace(worst, constant=all(not data.size or (data == data.flat[0]).all() for data in results))


def _compare(
    wanted: Mapping[str, Array], actual: Mapping[str, Array], magnitudes: Mapping[str, float], *, strict: bool
) -> dict[str, float]:
    """Return for every result the largest difference divided by its spread.

    A tensor's values may be alike: a single one is left, or they are small differences of large numbers. Their spread
    then says nothing about the rounding, which goes with the magnitude of the original's tensor.

    Args:
        wanted: What is left of the original's results.
        actual: The pruned network's.
        magnitudes: The largest numbers in the original's results.
        strict: Compare with magnitudes only where there is no spread at all, not where float32 does not resolve it.
    """
    errors = {}
    for name, data in wanted.items():
        if data.shape != actual[name].shape:
            raise ParityFailed(f"{name!r} is {actual[name].shape} after pruning, not {data.shape}; report this network")
        one, two = data.astype(np.float64), actual[name].astype(np.float64)
        if not np.isfinite(one).all() or not np.isfinite(two).all():
            raise ParityFailed(f"{name!r} is not finite on random input, so the pruning is not proven; keep all")
        spread = float(np.ptp(one)) if one.size else 1.0
        unresolved = magnitudes[name] * RESOLUTION / TOLERANCE
        scale = spread if strict and spread else max(spread, unresolved)
        largest = _largest(one - two)
        errors[name] = largest / scale if scale else float(largest > 0)
    return errors


def _worst(errors: Mapping[str, float]) -> Difference:
    """Return the first tensor that differs too much, or else the one that differs most."""
    name = next((name for name, error in errors.items() if not error <= TOLERANCE), max(errors, key=errors.__getitem__))
    return Difference(errors[name], name)


def _largest(data: Array) -> float:
    return float(np.abs(data).max()) if data.size else 0.0


def _surviving(graph: ChannelGraph, alive: BoolArray) -> Given:
    trace, tensors = graph.execution.trace, graph.execution.tensors
    labels = {}
    for key, (name, entry) in trace.issued.items():
        masks = [(one.axis, alive[one.labels]) for one in tensors[name].axes]
        labels[key] = compress(graph.class_of[entry.labels], masks)
    return Given(labels, trace.decisions)


def randomised(graph: ChannelGraph) -> ChannelGraph:
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
