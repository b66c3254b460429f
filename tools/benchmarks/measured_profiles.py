"""Measure the profiles in device_profiles/measured: every bundled network on this machine's CPU runtimes.

Layers are measured in context; each profile holds the command that repeats it alone. One that is there already, of this
machine and the installed version of its runtime, is not measured again, so a killed run goes on where it stopped. About
an hour and a half for all of them.

Example:
    python tools/benchmarks/measured_profiles.py
    python tools/benchmarks/measured_profiles.py --models unet-64 resnet-18 --runtimes openvino --again
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from compress.models import MODELS
from device_profiles.errors import BadInput, ProfileMismatch, ToolkitError
from device_profiles.store import load_profile
from device_profiles.target import Target
from tools import profile_target
from tools.command_line import run

if TYPE_CHECKING:
    from device_profiles.profile import DeviceProfile

FOLDER = Path("device_profiles/measured")
FAILED = 3


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=list(MODELS), help="default: all bundled networks")
    add("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="default: %(default)s")
    add("--threads", type=int, default=1, help="CPU threads of one inference (default: %(default)s)")
    add("--output", type=Path, default=FOLDER, help="the folder (default: %(default)s)")
    add("--again", action="store_true", help="measure again what is there, too")
    options, more = parser.parse_known_args(arguments)  # the rest is for profile_target.py

    failures = 0
    rows = [("network", "target", "ms", "isolated sum, ms", "measured in, s", "disturbed")]
    for model in options.models:
        for runtime in options.runtimes:
            target = Target(runtime, threads=options.threads)
            path = options.output / f"{model}-{profile_target.settings_name(target)}.json"
            try:
                if options.again or not _fits(path, target):
                    _measure(model, target, path, more)
                rows.append(_row(model, load_profile(path)))
            except ToolkitError as error:
                print(f"error: {model} on {target.name}: {error}", file=sys.stderr)
                failures += 1

    from compress.report.comparison import aligned

    print(aligned(rows))
    return FAILED if failures else 0


def _fits(path: Path, target: Target) -> bool:
    """Whether a profile is there and of this machine and runtime."""
    from runtimes.environment import read_environment

    try:
        load_profile(path).check_matches(target=target, environment=read_environment())
    except (BadInput, ProfileMismatch):
        return False
    return True


def _measure(model: str, target: Target, path: Path, more: list[str]) -> None:
    command = ["--runtime", target.runtime, "--model", model, "--threads", str(target.threads), "--how", "in-context"]
    print(f"measure {model} on {target.name}", file=sys.stderr)
    with redirect_stdout(sys.stderr):
        profile_target.main([*command, "--output", str(path), *more])


def _row(model: str, profile: DeviceProfile) -> tuple[str, ...]:
    numbers = (profile.end_to_end.ms, profile.isolated_sum_ms, profile.seconds)
    return (model, profile.target.name, *(f"{number:.1f}" for number in numbers), profile.note or "no")


if __name__ == "__main__":
    run(main)
