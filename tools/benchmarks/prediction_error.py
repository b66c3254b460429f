"""How well profiles predict networks of uneven widths that they have not seen.

Each pair of a network and a target is profiled in isolation and in context. Then unseen networks of random widths are
measured together with some that were profiled, which tell how the machine changed in between; the errors without that
stand beside. The same networks are predicted by their multiplications, by isolated layers added up, and by a regression
on single kernels in the manner of nn-Meter, all three levelled by the full network.

Prints the errors and which goals are missed, and writes the numbers beside this file after every pair. A pair that
stands there with the same settings is not measured again, so a killed benchmark goes on where it stopped.

Example:
    python tools/benchmarks/prediction_error.py --unseen-seed 7
    python tools/benchmarks/prediction_error.py --pairs unet-64:onnxruntime:1:f32 srresnet:openvino:2:bf16 --networks 8
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles.errors import BadInput, RuntimeUnavailable
from device_profiles.store import write_whole
from device_profiles.target import Target
from tools.command_line import run

if TYPE_CHECKING:
    from device_profiles.profile import DeviceProfile
    from runtimes.prediction_check import Comparison, PredictionCheck

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
# Input shapes where they are not the bundled ones. SRResNet takes four times as long at 128x128, at the same widths.
NETWORKS: dict[str, tuple[tuple[int, ...], ...]] = {
    "unet-64": (),
    "cyclegan-resnet": (),
    "resnet-18": (),
    "mobilenetv2": (),
    "srresnet": ((1, 3, 64, 64),),
}
RUNTIMES = (("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16"))
THREADS = (1, 2)
PAIRS = tuple(
    f"{network}:{runtime}:{threads}:{precision}"
    for network, (runtime, precision), threads in itertools.product(NETWORKS, RUNTIMES, THREADS)
)
SETTINGS = ("networks", "variants", "seconds", "seed", "unseen_seed")
# Key of a row -> at least (+1) or at most (-1) that.
GOALS = {"within_5_percent": (1, 95.0), "median_error_percent": (-1, 2.0), "spearman": (1, 0.98)}
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure the pairs that are not measured yet; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pairs", nargs="+", default=PAIRS, metavar="NETWORK:RUNTIME:THREADS:PRECISION", help="default: all")
    add("--networks", type=int, default=20, help="unseen networks of each pair (default: %(default)s)")
    add("--variants", type=int, default=40, help="networks to profile in context (default: %(default)s)")
    add("--seconds", type=float, default=10.0, help="about, of each of four measurements (default: %(default)s)")
    add("--patience-s", type=float, default=60.0, help="to wait for other processes, each time (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights, profiled widths and order (default: %(default)s)")
    add("--unseen-seed", type=int, default=0, help="of the widths of the unseen networks (default: %(default)s)")
    add("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    options.command = shlex.join(["python", "tools/benchmarks/prediction_error.py", *(arguments or sys.argv[1:])])

    from runtimes.base import check_target
    from runtimes.environment import read_environment

    here = asdict(read_environment())
    targets = {pair: _target(pair) for pair in options.pairs}
    rows = _read(options.output)
    for place, (pair, target) in enumerate(targets.items(), start=1):
        print(f"[{place}/{len(targets)}] {pair}", file=sys.stderr)
        try:
            check_target(target)
        except RuntimeUnavailable as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if not any(_is_of(row, pair, options, here) for row in rows):
            rows = [row for row in rows if row["pair"] != pair] + [_measure(pair, target, options)]
            write_whole(options.output, json.dumps(rows, indent=1) + "\n")
    shown = [row for row in rows if row["pair"] in targets]
    if shown:
        print(f"{_table(shown)}\n\n{_verdict(shown)}")


def missed(row: Row) -> dict[str, float]:
    """Name the goals that a pair misses, with what it reaches."""
    return {key: row[key] for key, (sign, goal) in GOALS.items() if sign * row[key] < sign * goal}


def _target(pair: str) -> Target:
    parts = pair.split(":")
    if len(parts) != 4 or not parts[2].isdecimal():
        raise BadInput(f"pairs (={pair!r}) must be like {PAIRS[0]}; networks may be any that profile_target.py takes")
    _, runtime, threads, precision = parts
    return Target(runtime, precision=precision, threads=int(threads))  # type: ignore[arg-type]


def _read(path: Path) -> list[Row]:
    """Read the rows that are there; an older file had an object of other rows."""
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    return rows if isinstance(rows, list) else []


def _is_of(row: Row, pair: str, options: argparse.Namespace, here: dict[str, Any]) -> bool:
    """Whether a row is of a pair with these settings, on this machine and with the installed versions."""
    same = all(row["machine"][name] == here[name] for name in ("cpu_model", "cores", "versions"))
    return same and row["pair"] == pair and all(row["settings"][name] == getattr(options, name) for name in SETTINGS)


def _measure(pair: str, target: Target, options: argparse.Namespace) -> Row:
    from compress.profiling import Profiling
    from device_profiles.predict import predict
    from runtimes.prediction_check import Comparison
    from runtimes.profiler import ProfileConfig
    from tools.benchmarks.kernel_regression import train_forests
    from tools.model_argument import load_model

    started = time.monotonic()
    network, _ = pair.split(":", maxsplit=1)
    loaded = load_model(network, NETWORKS.get(network, ()), 1, options.seed)
    config = ProfileConfig(loaded.input_shapes, options.seconds, seed=options.seed, patience_s=options.patience_s)
    profiling = Profiling(loaded.model, loaded.name, target, config, variants=options.variants)
    profile = profiling.profile(in_context=True)
    forests = train_forests(profiling, config)
    check = profiling.check(profile, options.networks, options.unseen_seed)
    level = check.full_ms / forests.sum_ms(profiling.profiled[0].widths)
    unseen = profiling.unseen(options.networks, options.unseen_seed)
    regression = Comparison(tuple(level * forests.sum_ms(variant.widths) for variant in unseen), check.best.measured_ms)
    context = profile.in_context
    assert context is not None, "it was asked for"
    pure = replace(profile, in_context=replace(context, share=1.0))
    alone = Comparison(
        tuple(check.level * predict(pure, variant.widths).ms for variant in unseen), check.best.measured_ms
    )
    return _row(pair, profile, check, {"in context alone": alone, "regression on kernels": regression}) | {
        "share": context.share,
        "in_context_median_error_percent": alone.median_percent,
        "in_context_within_5_percent": alone.close_percent,
        "regression_median_error_percent": regression.median_percent,
        "regression_within_5_percent": regression.close_percent,
        "regression_spearman": regression.spearman,
        "settings": {name: getattr(options, name) for name in SETTINGS},
        "command": options.command,
        "total_s": round(time.monotonic() - started, 1),
    }


def _row(pair: str, profile: DeviceProfile, check: PredictionCheck, others: dict[str, Comparison]) -> Row:
    predicted = check.rows() | others
    return {
        "pair": pair,
        "input_shapes": {name: list(shape) for name, shape in profile.input_shapes.items()},
        "target": asdict(profile.target),
        "machine": asdict(profile.environment),
        "date": datetime.now(UTC).date().isoformat(),
        "full_ms": profile.end_to_end.ms,
        "isolated_sum_ms": profile.isolated_sum_ms,
        "profiling_s": profile.seconds,
        "disturbed": profile.note,
        **check.to_json(),
        "measured_ms": list(check.best.measured_ms),
        "predicted_ms": {name: list(row.predicted_ms) for name, row in predicted.items()},
    }


def _table(rows: list[Row]) -> str:
    from compress.report.comparison import aligned

    headings = ("network", "runtime", "threads", "precision", "median, %", "worst, %", "within 5 %, %", "rank")
    headings += ("in interval, %", "unlevelled, %", "regression, %", "isolated, %", "MACs, %")
    percents = ("within_interval_percent", "unlevelled_median_error_percent", "regression_median_error_percent")
    percents += ("isolated_median_error_percent", "macs_median_error_percent")
    lines = [headings]
    for row in rows:
        errors = [f"{row[f'{key}_error_percent']:.1f}" for key in ("median", "worst")]
        others = [f"{row[key]:.1f}" for key in percents]
        lines.append(
            (*row["pair"].split(":"), *errors, f"{row['within_5_percent']:.0f}", f"{row['spearman']:.3f}", *others)
        )
    return aligned(lines)


def _verdict(rows: list[Row]) -> str:
    from compress.report.comparison import aligned

    lines = [("goal", "pairs that reach it", "of")]
    for key, (sign, goal) in GOALS.items():
        reached = sum(key not in missed(row) for row in rows)
        lines.append((f"{key} at {'least' if sign > 0 else 'most'} {goal:g}", str(reached), str(len(rows))))
    lines.append(("all of them", str(sum(not missed(row) for row in rows)), str(len(rows))))
    misses = [
        f"{row['pair']} misses {', '.join(f'{key} ({value:.3g})' for key, value in missed(row).items())}"
        + (f"; {row['disturbed']}" if row["disturbed"] else "")
        for row in rows
        if missed(row)
    ]
    return "\n".join([aligned(lines), "", *misses]).rstrip()


if __name__ == "__main__":
    run(main)
