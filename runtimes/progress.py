"""Progress bars on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(steps: Iterable[Any] | float, description: str, unit: str = "it") -> tqdm:
    """Show how far something is; where stderr is a file, a line every ten seconds.

    Args:
        steps: What to go over, or how much there is to do (then call `update` on the bar, and close it).
        description: What is being done, such as "measure openvino-cpu".
        unit: What is counted.
    """
    interactive = sys.stderr.isatty()
    return _Bar(
        None if isinstance(steps, int | float) else steps,
        total=steps if isinstance(steps, int | float) else None,
        desc=description,
        unit=unit,
        file=sys.stderr,
        leave=True,
        dynamic_ncols=interactive,
        mininterval=0.1 if interactive else 10,
        maxinterval=10 if interactive else 60,
        ascii=not interactive,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]",
    )


class _Bar(tqdm):  # type: ignore[misc]  # it has no types
    """A bar whose end moves along where there is more to do than was said; tqdm would forget the end there."""

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar is written from."""
        found: dict[str, Any] = super().format_dict
        if found["total"] is not None:
            found["total"] = max(found["total"], found["n"])
        return found
