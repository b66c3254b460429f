"""What each method costs while it trains or scores, beside plain training and beside what its own structure implies.

Plain steps and a method's steps take turns in one process; their ratio is that of the median processor times, with the
quartiles over the turns. Memory is counted from the tensors that a run holds: parameters, gradients, the optimizer's
state, buffers, and what autograd keeps for the backward pass. Beside them stands what the structure that the paper
describes implies: numbers by its formula, and time as if every multiplication cost the same. Methods that only score
have no steps; their passes are given in plain training steps. Networks have random weights and see noise, in f32 on one
thread. Rows that are not run again stay in the file.

Example:
    python tools/benchmarks/method_costs.py --methods dhp,auto-pruner-joint --networks resnet-20
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles.errors import BadInput
from device_profiles.store import write_whole
from tools.benchmarks.methods import names_from
from tools.command_line import run

if TYPE_CHECKING:
    from tools.benchmarks.method_costs_measured import Subject

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
LEAST_TURNS = 2  # quartiles need two
BATCH = 8

# Factory, arguments and the shape of a sample.
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "resnet-20": ("compress.models.resnet:CifarResNet", {"depth": 20}, (3, 32, 32)),
    "unet-32": ("compress.models.unet:UNet", {"width": 32, "depth": 6}, (3, 64, 64)),
}
HALF = {"keep_ratio": 0.5}
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "decig": ("decig", {}),
    "distillation": ("distillation", {}),
    "network-slimming": ("network-slimming", {}),
    "dhp": ("dhp", {}),
    "auto-pruner-joint": ("auto-pruner", {"mode": "joint", **HALF}),
    "auto-pruner-grouped": ("auto-pruner", {"mode": "grouped", **HALF}),
    "dcp": ("dcp", {}),
    "se": ("se", {}),
    "learned-groups": ("learned-groups", {}),
}
PASSES = ("greedy", "fisher", "taylor")
Row = dict[str, Any]


def main() -> None:
    """Measure, write and print."""
    methods = [*STEPS, *PASSES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--methods", type=names_from(methods), default=methods, help=f"default: {','.join(methods)}")
    add("--networks", type=names_from(NETWORKS), default=list(NETWORKS), help=f"default: {','.join(NETWORKS)}")
    add("--turns", type=int, default=80, help="steps of each kind that are counted (default: %(default)s)")
    add("--passes", type=int, default=5, help="passes that are counted where a method only scores (default: 5)")
    add("--json", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    options = parser.parse_args()
    for name, count in (("turns", options.turns), ("passes", options.passes)):
        if count < LEAST_TURNS:
            raise BadInput(f"--{name} (={count}) must be {LEAST_TURNS} or more, for a spread; leave it out")

    import torch

    from runtimes.environment import read_environment
    from tools.benchmarks.method_costs_measured import Subject

    torch.set_num_threads(1)
    common = {
        "command": shlex.join(["python", "tools/benchmarks/method_costs.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": read_environment().cpu_model,
    }
    for network in options.networks:
        subject = Subject(*NETWORKS[network], BATCH)
        for method in options.methods:
            row = {"network": network, "method": method, "batch": BATCH, **common}
            row |= _measured(subject, method, options)
            print(f"{network} {method}: {row['ratio']:.2f}", file=sys.stderr)
            _add(row, options.json)
    rows = json.loads(options.json.read_text("utf-8"))["rows"]
    print(tables([row for row in rows if row["network"] in options.networks and row["method"] in options.methods]))


def _measured(subject: Subject, method: str, options: argparse.Namespace) -> Row:
    from tools.benchmarks.method_costs_measured import measure_pass, measure_step

    if method in PASSES:
        return measure_pass(subject, method, options.passes)
    return measure_step(subject, *STEPS[method], options.turns)


def _add(row: Row, path: Path) -> None:
    """Put a row in the place of the one that it repeats, in the order of the tables above."""
    known = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    place = {key: index for index, key in enumerate((n, m) for n in NETWORKS for m in (*STEPS, *PASSES))}
    rows = {(each["network"], each["method"]): each for each in (*known, row)}
    ordered = [rows[key] for key in sorted(rows, key=lambda key: place.get(key, len(place)))]
    write_whole(path, json.dumps({"rows": ordered}, indent=1) + "\n")


def tables(rows: list[Row]) -> str:
    """Return the table of training steps and that of passes."""
    from compress.report.comparison import aligned

    stepped = [row for row in rows if row["method"] in STEPS]
    scored = [row for row in rows if row["method"] in PASSES]
    found = []
    if stepped:
        found.append(aligned([_STEP_HEADINGS, *map(_step_cells, stepped)]))
    if scored:
        found.append(aligned([_PASS_HEADINGS, *map(_pass_cells, scored)]))
    return "\n\n".join(found)


_STEP_HEADINGS = (
    "network", "method", "n", "plain step, ms", "step, ms", "ratio", "quartiles", "implied", "extra weights, MiB",
    "implied, MiB", "of the network's", "gradients, MiB", "optimiser, MiB", "buffers, KiB", "kept for backward, MiB",
)  # fmt: skip
_PASS_HEADINGS = ("network", "method", "n", "plain step, ms", "pass, ms", "plain steps", "quartiles", "implied")


def _step_cells(row: Row) -> tuple[str, ...]:
    extra, implied = row["extra_bytes"], row["implied"]
    return (
        *_times(row),
        f"{implied['step_ratio']:.3f}",
        f"{extra['parameters'] / 2**20:.3f}",
        f"{4 * implied['parameters'] / 2**20:.3f}",
        f"{row['bytes']['parameters'] / row['plain_bytes']['parameters']:.2f}",
        f"{extra['gradients'] / 2**20:.3f}",
        f"{extra['optimiser'] / 2**20:.3f}",
        f"{extra['buffers'] / 2**10:.1f}",
        f"{extra['saved'] / 2**20:.3f}",
    )


def _pass_cells(row: Row) -> tuple[str, ...]:
    return (*_times(row), f"{row['implied_steps']:.1f}")


def _times(row: Row) -> tuple[str, ...]:
    import statistics

    low, high = row["ratio_quartiles"]
    plain, other = (statistics.median(row["ms"][key]) for key in ("plain", "method"))
    name = (row["network"], row["method"], str(row["n"]))
    return (*name, f"{plain:.1f}", f"{other:.1f}", f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}")


if __name__ == "__main__":
    run(main)
