"""Read what a latency depends on beside the target: the machine and the state it is in."""

from __future__ import annotations

from pathlib import Path

from device_profiles.environment import Environment
from device_profiles.json_form import from_json
from runtimes.bundled import machine


def read_environment(root: Path = Path("/")) -> Environment:
    """Take a snapshot of this machine, as devices do that measure a bundle.

    Args:
        root: Where /proc and /sys are found.
    """
    return from_json(Environment, machine.read_environment(root), "this machine")
