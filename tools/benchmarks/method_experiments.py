"""What separates each method from a broken one, where it takes longer than a test may: accuracy before fine-tuning.

Small networks, several seeds, one thread. Prints what was found and writes it, with the machine, beside this file; the
rows of experiments that are not run again stay.

Example:
    python tools/benchmarks/method_experiments.py --experiments network_slimming decig
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_profiles.store import write_whole
from tools.benchmarks import method_experiments_parts as parts
from tools.benchmarks import method_experiments_weights as weights
from tools.command_line import run

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
EXPERIMENTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "network_slimming": weights.network_slimming,
    "decig": weights.decig,
    "dcp": parts.dcp,
    "squeeze_excitation": parts.squeeze_excitation,
    "learned_groups": weights.learned_groups,
    "dhp": parts.dhp,
    "auto_pruner": parts.auto_pruner,
}


def main() -> None:
    """Run the experiments and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="default: all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    arguments = parser.parse_args()

    import torch

    from runtimes.environment import read_environment

    sys.path.insert(0, str(ROOT))  # the experiments share their network with the tests
    torch.set_num_threads(1)
    for name in arguments.experiments:
        found = {
            "command": shlex.join(["python", "tools/benchmarks/method_experiments.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": read_environment().cpu_model,
            "rows": EXPERIMENTS[name](),
        }
        known = json.loads(arguments.output.read_text("utf-8")) if arguments.output.exists() else {}  # by now
        write_whole(arguments.output, json.dumps(known | {name: found}, indent=1) + "\n")
        for row in found["rows"]:
            print(name, *(f"{key}={value}" for key, value in row.items()))


if __name__ == "__main__":
    run(main)
