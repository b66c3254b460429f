"""How long it takes to profile a network in context, and how well two such profiles agree.

Each network is profiled twice on each runtime, by the command as users call it, in processes of their own, one thread.
Then the two are compared layer by layer, as tools/compare_profiles.py does.

Prints what came of it and writes it beside this file after every pair; a pair that stands there is not measured again.
Exit code 3: profiling took longer than the goal, or a layer above 1 % of the network differs by more than 3 %.

Example:
    python tools/benchmarks/profiling_repeated.py
    python tools/benchmarks/profiling_repeated.py --models unet-16 --runtimes openvino --output runs/repeated.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_profiles.errors import ToolkitError
from device_profiles.store import write_whole
from tools.command_line import run

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
GOALS_S = {"unet-64": 60.0, "mobilenetv2": 60.0, "resnet-50": 120.0}
ALLOWED_PERCENT = 3.0
FAILED = 3


def main(arguments: list[str] | None = None) -> int:
    """Profile, compare and write; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=list(GOALS_S), help="default: %(default)s")
    add("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="default: %(default)s")
    add("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    options, more = parser.parse_known_args(arguments)  # the rest is for profile_target.py

    rows = json.loads(options.output.read_text("utf-8")) if options.output.exists() else []
    for model in options.models:
        for runtime in options.runtimes:
            if not any((row["model"], row["runtime"]) == (model, runtime) for row in rows):
                rows.append(_row(model, runtime, more))
                write_whole(options.output, json.dumps(rows, indent=1) + "\n")
    print(_table(rows))
    missed = [text for row in rows for text in _missed(row)]
    print("\n".join(missed) or "all goals reached")
    return FAILED if missed else 0


def _row(model: str, runtime: str, more: list[str]) -> dict[str, Any]:
    from device_profiles.agreement import compare_profiles
    from device_profiles.store import load_profile
    from runtimes.environment import read_environment

    command = ["tools/profile_target.py", "--runtime", runtime, "--model", model, "--how", "in-context", *more]
    seconds, profiles = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            path = Path(folder) / f"{number}.json"
            started = time.monotonic()
            _call([*command, "--output", str(path)])
            seconds.append(round(time.monotonic() - started, 1))
            profiles.append(load_profile(path))
    environment = read_environment()
    return {
        "model": model,
        "runtime": runtime,
        "command": shlex.join(["python", *command]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": environment.cpu_model,
        "load": environment.load,
        "seconds": seconds,
        "disturbed": [profile.note for profile in profiles],
        "agreement": {
            how: {
                "level": round(found.level, 4),
                "differences_percent": {name: round(one, 2) for name, one in found.differences_percent.items()},
            }
            for how, found in compare_profiles(*profiles).items()
        },
    }


def _call(command: list[str]) -> None:
    """Run a command of this checkout.

    Raises:
        ToolkitError: It failed; what it said is on the screen.
    """
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)  # noqa: S603
    if done.returncode:
        raise ToolkitError(f"{shlex.join(['python', *command])} ended with {done.returncode}; see above")


def _worst(row: dict[str, Any], how: str) -> float:
    return max(map(abs, row["agreement"][how]["differences_percent"].values()))


def _table(rows: list[dict[str, Any]]) -> str:
    from compress.report.comparison import aligned

    lines = [("network", "runtime", "seconds", "in context, worst %", "above 3 %", "isolated, worst %", "level")]
    for row in rows:
        found = row["agreement"]["in context"]
        above = [name for name, one in found["differences_percent"].items() if abs(one) > ALLOWED_PERCENT]
        lines.append(
            (
                row["model"],
                row["runtime"],
                ", ".join(f"{one:.0f}" for one in row["seconds"]),
                f"{_worst(row, 'in context'):.1f}",
                f"{len(above)} of {len(found['differences_percent'])} layers",
                f"{_worst(row, 'isolated'):.1f}",
                f"{found['level']:.3f}",
            )
        )
    return aligned(lines)


def _missed(row: dict[str, Any]) -> list[str]:
    place, goal_s = f"{row['model']} on {row['runtime']}", GOALS_S.get(row["model"], float("inf"))
    found = []
    if max(row["seconds"]) > goal_s:
        found.append(f"missed: {place} took {max(row['seconds']):.0f} s, {goal_s:.0f} s were asked")
    if (worst := _worst(row, "in context")) > ALLOWED_PERCENT:
        found.append(f"missed: a layer of {place} differs by {worst:.1f} %, {ALLOWED_PERCENT:.0f} % were asked")
    return found


if __name__ == "__main__":
    run(main)
