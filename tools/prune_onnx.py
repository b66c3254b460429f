"""Prune a plain ONNX file: no source code, no training, and the proof that removing equals zeroing.

Channels are scored by the magnitude of their weights with the normalisation folded in. Every set of coupled channels
keeps the given share of them. The result is checked by ONNX's own checker and proven; nothing is written otherwise.
A batch that the file leaves open stays open, which is proven for several sizes of it.

Blocks (branches beside a skip connection, which tools/show_channels.py lists) can be removed whole before that.

Example:
    python tools/prune_onnx.py model.onnx pruned.onnx --keep-ratio 0.5
    python tools/prune_onnx.py model.onnx pruned.onnx --keep-ratio 1 --remove-block layer3.4 --remove-block layer3.5
    python tools/prune_onnx.py model.onnx pruned.onnx --keep-ratio 0.5 --calibrate samples.npz
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles.errors import BadInput
from tools.command_line import run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.graph.network import Network


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=Path, help="the .onnx file; its weights may lie in other files beside it")
    add("result", type=Path, help="the pruned .onnx file")
    add(
        "--keep-ratio",
        type=float,
        default=0.5,
        help="share of the channels that stay, in (0, 1] (default: %(default)s)",
    )
    add(
        "--input",
        action="append",
        default=[],
        metavar="1x3x224x224",
        help="shape of an input, where the file leaves more open than the batch, or to close that too",
    )
    add("--keep-layer", action="append", default=[], metavar="LAYER", help="a layer that keeps all its output channels")
    add(
        "--remove-block",
        action="append",
        default=[],
        metavar="BLOCK",
        help="a branch to remove whole, see tools/show_channels.py",
    )
    add("--calibrate", type=Path, metavar="SAMPLES.npz", help="recalibrate statistics and biases; one array per input")
    add("--external-data", action="store_true", help="write the weights to a file of their own beside the result")
    add("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)

    # Loaded only now, so that --help needs nothing and takes no time.
    from compress.graph.absorb import absorb_dead
    from compress.graph.analyse import analyse
    from compress.graph.batch import CHECKED_AT
    from compress.graph.block_surgery import remove_blocks
    from compress.graph.calibrate import calibrate
    from compress.graph.choose import choose
    from compress.graph.count import macs, parameters
    from compress.graph.magnitude import magnitudes
    from compress.graph.network import Network
    from compress.graph.surgery import prune
    from runtimes.model_file import read_model
    from tools.model_argument import named_shapes, parse_shape

    if options.source.suffix != ".onnx":
        raise BadInput(f"source (={str(options.source)!r}) must be an .onnx file; export the network first")
    shapes = named_shapes(read_model(options.source, weights=False), [parse_shape(text) for text in options.input])
    samples = _read_samples(options.calibrate) if options.calibrate else {}
    network = Network.read(options.source, shapes, batch=min((len(s) for s in samples.values() if s.ndim), default=1))
    _check_samples(options.calibrate, samples, network)
    graph = analyse(network)
    shallower = remove_blocks(graph, options.remove_block) if options.remove_block else network
    graph = analyse(shallower) if options.remove_block else graph
    whole = {name for layer in options.keep_layer for name in graph.layer(layer).out_sets}
    scores = {name: score for name, score in magnitudes(graph).items() if name not in whole}
    keep = choose(graph, scores, options.keep_ratio)
    if not keep and not options.remove_block:
        raise BadInput(
            f"keep_ratio (={options.keep_ratio}) removes nothing from the {len(graph.prunable)} sets that can shrink; "
            "lower it, and see tools/show_channels.py for what is frozen"
        )
    absorbed, dead = absorb_dead(graph, keep)
    pruned = prune(absorbed, keep) if keep else shallower
    steps = ((shallower, options.remove_block), (pruned, keep))
    proofs = [one.proof for one, done in steps if done and one.proof is not None]
    if samples and keep:
        pruned = calibrate(graph, keep, pruned, samples)
    pruned.write(options.result, external_data=options.external_data)
    found = {
        "parameters": {"before": parameters(network), "after": parameters(pruned)},
        "macs": {"before": macs(network), "after": macs(pruned)},
        "removed_blocks": options.remove_block,
        "removed_channels": sum(one.removed_channels for one in proofs),
        "absorbed_channels": dead,
        "proof": {
            "max_error_of_spread": max(one.max_error_of_spread for one in proofs),
            "tolerance": proofs[0].tolerance,
            "note": "; ".join(filter(None, (one.note for one in proofs))),
        },
        "open_batch_compared_at": list(CHECKED_AT) if pruned.batch else None,
    }
    print(json.dumps(found) if options.json else _table(found))
    return 0


def _read_samples(path: Path) -> dict[str, NDArray[np.generic]]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as err:
        raise BadInput(f"calibrate (={path}) cannot be read ({err}); give an .npz file that numpy.savez wrote") from err


def _check_samples(path: Path, samples: dict[str, NDArray[np.generic]], network: Network) -> None:
    shapes = {name: array.shape for name, array in samples.items()}
    if samples and shapes != network.inputs:
        raise BadInput(f"calibrate (={path}) holds {shapes}; it must hold one array per input: {network.inputs}")


def _table(found: dict[str, Any]) -> str:
    lines = []
    for name in ("parameters", "macs"):
        before, after = found[name]["before"], found[name]["after"]
        lines.append(f"{name:11}{before:>16,} -> {after:>16,}  ({after / before:.1%} left)")
    lines.append(
        f"removed    {len(found['removed_blocks'])} blocks, {found['removed_channels']} coupled channels, "
        f"{found['absorbed_channels']} dead ones absorbed"
    )
    proof = found["proof"]
    lines.append(
        f"proof      differs by {proof['max_error_of_spread']:.1e} of the spread (allowed: {proof['tolerance']:.0e})"
    )
    if found["open_batch_compared_at"]:
        lines.append(f"batch      open; compared for {' and '.join(map(str, found['open_batch_compared_at']))} samples")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
