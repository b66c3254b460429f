"""Remove blocks from an ONNX network, proven like any pruning."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compress.graph.blocks import Block, Consumers, chosen_blocks
from compress.graph.channels import ChannelGraph
from compress.graph.fold import read_by, remove_unused
from compress.graph.network import Network, Proof
from compress.graph.offsets import fold_added_constants
from compress.graph.proof import TOLERANCE, check_labels, randomised
from compress.graph.run import SEED, Runnable, random_feeds
from device_profiles.errors import BadInput, ParityFailed

Array = NDArray[np.generic]


def remove_blocks(graph: ChannelGraph, names: Sequence[str]) -> Network:
    """Remove blocks and prove that this equals zeroing the channels that decide on them.

    Args:
        graph: The channel graph of the network.
        names: Names of blocks, see `compress.graph.blocks.blocks`.

    Returns:
        The smaller network, with its proof; analyse it again to go on.

    Raises:
        BadInput: A block does not exist, or the output would not depend on the input any more.
        ParityFailed: A proof failed; nothing is returned.
    """
    chosen = chosen_blocks(graph, names)
    removed = fold_added_constants(without_blocks(graph, chosen))
    return replace(removed, proof=_prove(graph, chosen, removed))


def without_blocks(graph: ChannelGraph, chosen: Sequence[Block]) -> Network:
    """Put the constants of blocks in the place of their results, without a proof.

    Raises:
        BadInput: An output of the network would not depend on an input any more.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.network.model)
    additions = {node.name: node for node in model.graph.node}
    for block in chosen:
        addition, name = additions[block.addition], f"{block.addition}.constant"
        addition.input[:] = [name if operand == block.branch else operand for operand in addition.input]
        model.graph.initializer.append(numpy_helper.from_array(block.constant, name))
    remove_unused(model.graph)
    lost = sorted(_dependent(graph.network.model.graph) - _dependent(model.graph))
    if lost:
        names = ", ".join(block.name for block in chosen)
        raise BadInput(f"without {names} the output {lost[0]!r} depends on no input; remove fewer blocks")
    return replace(graph.network, model=Network.from_model(model).model, proof=None)


def silenced(graph: ChannelGraph, chosen: Sequence[Block]) -> Runnable:
    """Return the network with the decisive channels of blocks zeroed where they are consumed."""
    consumers = Consumers(graph)
    alive = consumers.alive([name for block in chosen for name in block.decisive])
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    for index, node in enumerate(graph.network.model.graph.node):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, mask in consumers.masks(index, alive).items():
            source, name = copy.input[place], f"{node.name}.silenced{place}"
            constants[f"{name}.mask"] = mask.astype(consumers.dtype(source))
            nodes.append(helper.make_node("Mul", [source, f"{name}.mask"], [name], name=name))
            copy.input[place] = name
        nodes.append(copy)
    whole = Runnable.of(graph.network, nodes)
    return Runnable(whole.model, {**whole.weights, **constants})


def depends_on_input(runnable: Runnable, network: Network) -> bool:
    """Whether any output of a variant of a network differs between two random inputs."""
    one, two = (runnable.run(random_feeds(network, seed)) for seed in (SEED, SEED + 1))
    return any(not np.array_equal(data, two[name]) for name, data in one.items())


def _prove(graph: ChannelGraph, chosen: Sequence[Block], removed: Network) -> Proof:
    """Check by labels and by numbers that what remains of a network equals the original with channels zeroed."""
    started = time.perf_counter()
    names = ", ".join(repr(block.name) for block in chosen)
    try:
        check_labels(graph, {}, removed)
    except ParityFailed as err:
        raise ParityFailed(f"without the blocks {names}: {err}") from err
    gone = sum(graph.sets[name].width for name in {name for block in chosen for name in block.sets})
    note = "" if chosen else "nothing was removed, so nothing is proven"
    errors = _errors(graph, chosen, removed)
    if not errors:
        lively = randomised(graph)
        again = chosen_blocks(lively, [block.name for block in chosen])
        errors = _errors(lively, again, fold_added_constants(without_blocks(lively, again)))
        note = "the output is constant, so the numbers were compared with zero weights made random"
    if not errors:
        raise BadInput(f"without the blocks {names} no output depends on the input any more; remove fewer blocks")
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE:
        raise ParityFailed(
            f"removing the blocks {names} changes {worst!r} by {errors[worst]:.1e} of its spread (allowed: "
            f"{TOLERANCE:.0e}) compared with zeroing their channels; report this network, and keep these blocks"
        )
    return Proof(gone, errors[worst], TOLERANCE, time.perf_counter() - started, note)


def _errors(graph: ChannelGraph, chosen: Sequence[Block], removed: Network) -> dict[str, float]:
    """Compare the outputs and the results of all layers that neither went nor took up a constant.

    Returns:
        Result -> its largest error of spread, infinite where it is no number; empty if no output depends on the input.
    """
    after = {node.name: node for node in removed.model.graph.node}
    unchanged = [node for node in graph.network.model.graph.node if _is_same(node, after, graph.network, removed)]
    made = {name for node in unchanged for name in node.output}
    probes = [layer.output for layer in graph.layers if layer.output in made - graph.network.outputs.keys()]
    feeds = random_feeds(graph.network)
    reference = silenced(graph, chosen)
    wanted, found = reference.run(feeds, probes), Runnable.of(removed).run(feeds, probes)
    if not depends_on_input(reference, graph.network):
        return {}
    errors = {}
    for name, data in wanted.items():
        one, two = data.astype(np.float64), found[name].astype(np.float64)
        error = float(np.abs(one - two).max()) / (float(np.ptp(one)) or float(np.abs(one).max()) or 1.0)
        errors[name] = error if np.isfinite(error) else np.inf
    return errors


def _is_same(node: onnx.NodeProto, after: dict[str, onnx.NodeProto], before: Network, removed: Network) -> bool:
    """Whether an operator is still there with the weights it had."""
    if node.name not in after or node.output != after[node.name].output:
        return False
    weights = [name for name in node.input if name in before.weights]
    same = weights == [name for name in after[node.name].input if name in removed.weights]
    return same and all(np.array_equal(before.weights[name], removed.weights[name]) for name in weights)


def _dependent(graph: onnx.GraphProto) -> set[str]:
    """Name the outputs that depend on an input."""
    reached = {value.name for value in graph.input}
    for node in graph.node:
        if reached & set(read_by(node)):
            reached |= set(node.output)
    return {output.name for output in graph.output} & reached
