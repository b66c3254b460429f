"""Tell how well two profiles of the same network on the same machine agree, layer by layer.

Both are brought to one level of the machine first, since it is never at the same one twice. Layers in context are
compared on average over the networks that they were measured in, isolated ones at full width. Layers below 1 % of the
network do not count. Exits with 3 where a layer differs by more than is allowed.

Example:
    python tools/profile_target.py --model unet-32 --how both --output runs/first.json
    python tools/profile_target.py --model unet-32 --how both --output runs/second.json
    python tools/compare_profiles.py runs/first.json runs/second.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tools.command_line import run

if TYPE_CHECKING:
    from device_profiles.agreement import Agreement

ALLOWED_PERCENT = 3.0
FAILED = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("first", type=Path, help="a profile that profile_target.py wrote")
    add("second", type=Path, help="another one, of the same network on the same target")
    add("--allowed-percent", type=float, default=ALLOWED_PERCENT, help="largest difference (default: %(default)s)")
    add("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)

    from device_profiles.agreement import compare_profiles
    from device_profiles.store import load_profile

    found = compare_profiles(load_profile(options.first), load_profile(options.second))
    if options.json:
        print(json.dumps({how: _summary(agreement) for how, agreement in found.items()}, indent=1))
    else:
        print("\n\n".join(_table(how, agreement) for how, agreement in found.items()))
    return FAILED if max(each.worst_percent for each in found.values()) > options.allowed_percent else 0


def _summary(agreement: Agreement) -> dict[str, object]:
    return {
        "worst_percent": agreement.worst_percent,
        "level": agreement.level,
        "differences_percent": agreement.differences_percent,
    }


def _table(how: str, agreement: Agreement) -> str:
    from compress.report.comparison import aligned

    rows = [(f"layer, {how}", "first, ms", "second, ms", "levelled difference, %")]
    for name, percent in sorted(agreement.differences_percent.items(), key=lambda item: -abs(item[1])):
        rows.append((name, f"{agreement.first_ms[name]:.3f}", f"{agreement.second_ms[name]:.3f}", f"{percent:+.1f}"))
    return f"""{aligned(rows)}
{how}: at most {agreement.worst_percent:.1f} % apart; the machine was at {agreement.level:.3f} of its first level"""


if __name__ == "__main__":
    run(main)
