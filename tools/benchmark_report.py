"""Rebuild the report of finished runs, and compare them.

Writes report.html and summary.json into each run's folder from what the run left there (results.json, profiles/*.json,
samples.npz), and prints one line per target and run, and the networks that a run made for further budgets. Nothing is
measured or trained again.

Example:
    python tools/benchmark_report.py runs/demo
    python tools/benchmark_report.py runs/* --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from compress.report.comparison import budgets, comparison
from compress.report.page import load_run, save_report
from compress.report.summary import summary
from tools.command_line import run


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a finished run, such as runs/demo"
    )
    parser.add_argument("--json", action="store_true", help="print the summaries as JSON, by folder")
    options = parser.parse_args(arguments)
    folders = list(dict.fromkeys(options.run))
    runs = {folder: load_run(folder).results for folder in folders}  # all of them are read before any is written
    for folder in folders:
        print(save_report(folder), file=sys.stderr)
    if options.json:
        print(json.dumps({str(folder): summary(results) for folder, results in runs.items()}, indent=1))
    else:
        print(comparison({str(folder): results for folder, results in runs.items()}))
        for folder, results in runs.items():
            if table := budgets(results):
                print(f"\n{folder}\n{table}")
    return 0


if __name__ == "__main__":
    run(main)
