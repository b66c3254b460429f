"""Show which channels of a network belong together, how far each set can shrink, and what is frozen and why.

Blocks are branches beside a skip connection that can be removed whole: tools/prune_onnx.py --remove-block.

Example:
    python tools/show_channels.py unet-16
    python tools/show_channels.py mine.onnx --why backbone.conv1
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from tools.command_line import run

if TYPE_CHECKING:
    from compress.graph.channels import ChannelGraph


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="a bundled network, an .onnx file or package.module:callable")
    add(
        "--input", action="append", default=[], metavar="1x3x128x128", help="shape of an input, once for each, in order"
    )
    add("--why", metavar="LAYER", help="print the shortest chain that freezes a layer's output channels")
    add("--json", action="store_true", help="print JSON in place of the tables")
    options = parser.parse_args(arguments)

    # Loaded only now, so that --help needs nothing and takes no time.
    from compress.graph.analyse import analyse
    from compress.graph.network import Network
    from compress.graph.why import why
    from runtimes.model_file import read_model
    from tools.model_argument import closed_batch, load_model, parse_shape

    shapes = [parse_shape(text) for text in options.input]
    loaded = load_model(options.model, shapes, shapes[0][0] if shapes else 1, seed=0)
    model = read_model(loaded.model)
    graph = analyse(Network.from_model(model, loaded.input_shapes or closed_batch(model)))
    if options.why:
        chain = why(graph, options.why) or (f"all output channels of {options.why!r} may be removed",)
        print(json.dumps(chain) if options.json else "\n".join(chain))
    elif options.json:
        print(json.dumps(_document(graph), indent=1))
    else:
        _print_tables(graph)
    return 0


def _blocks(graph: ChannelGraph) -> list[dict[str, Any]]:
    from compress.graph.blocks import blocks

    return [{"name": one.name, "decided_by": one.decisive, "layers": one.layers} for one in blocks(graph)]


def _document(graph: ChannelGraph) -> dict[str, Any]:
    sets = [
        {"name": s.name, "width": s.width, "step": s.step, "family": s.family, "frozen": s.frozen}
        | {"producers": s.producers, "consumers": s.consumers}
        for s in graph.sets.values()
    ]
    layers = [
        {"name": layer.name, "op": layer.op, "in_channels": layer.in_channels, "out_channels": layer.out_channels}
        | {"in_sets": dict(layer.in_sets), "out_sets": dict(layer.out_sets)}
        for layer in graph.layers
    ]
    balances = [{"node": rule.node, "rows": len(rule.rows)} for rule in graph.balances]
    return {"layers": layers, "sets": sets, "balances": balances, "blocks": _blocks(graph)}


def _print_tables(graph: ChannelGraph) -> None:
    rows = [("layer", "operator", "in", "out", "made channels")]
    for layer in graph.layers:
        sets = ", ".join(layer.out_sets) or "frozen (see --why)"
        rows.append((layer.name, layer.op, str(layer.in_channels), str(layer.out_channels), sets))
    _print_table(rows)
    print()
    rows = [("set", "width", "in steps of", "made by", "used by")]
    for one in graph.sets.values():
        step = str(one.step) if one.family == one.name else f"{one.step}, with {one.family}"
        rows.append((one.name, str(one.width), step, ", ".join(one.producers), ", ".join(one.consumers)))
    _print_table(rows)
    for rule in graph.balances:
        print(f"{rule.node}: {len(rule.rows)} rows of {rule.rows.shape[1]} must keep equally many")
    rows = [("block", "removed with", "its layers")]
    rows += [(one["name"], ", ".join(one["decided_by"]), ", ".join(one["layers"])) for one in _blocks(graph)]
    if len(rows) > 1:
        print()
        _print_table(rows)
    frozen = sum(not layer.out_sets for layer in graph.layers)
    print(f"{len(graph.sets)} sets; {frozen} of {len(graph.layers)} layers are frozen", file=sys.stderr)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    run(main)
