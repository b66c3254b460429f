"""Numbers and names as a reader wants them: few digits, a unit, an honest sign."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compress.report.results import Metric

MINUS = "\u2212"  # as wide as a plus, so that columns of changes line up
JOINED = "\u00a0"  # keeps a number and its unit on one line


def ms(value: float) -> str:
    """Write a latency with three significant digits, without its unit.

    Example:
        >>> ms(123.4), ms(12.34), ms(0.012345)
        ('123', '12.3', '0.0123')
    """
    return significant(value, 3)


def significant(value: float, digits: int) -> str:
    """Write a number with so many significant digits, never in exponents.

    Example:
        >>> significant(5.4678, 3), significant(0.0, 3), significant(41828995, 3)
        ('5.47', '0', '41828995')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def count(value: float) -> str:
    r"""Write a large count with its prefix.

    Example:
        >>> count(10_461_507), count(655_800), count(93)
        ('10.5\xa0M', '656\xa0k', '93')
    """
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{significant(value / factor, 3)}{JOINED}{prefix}"
    return f"{value:.0f}"


def mebibytes(value_bytes: float) -> str:
    """Write a file size in MiB, without its unit."""
    return significant(value_bytes / 2**20, 3)


def small(value: float) -> str:
    """Write an error or a tolerance.

    Example:
        >>> small(8.1e-7), small(0.01), small(0)
        ('8.1e-7', '0.01', '0')
    """
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def percent(value: float) -> str:
    """Write a signed change in percent."""
    return f"{signed(value, 1)}{JOINED}%"


def signed(value: float, decimals: int) -> str:
    """Write a change with its sign; what rounds to zero has none."""
    text = f"{abs(value):.{decimals}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else MINUS) + text


def with_unit(metric: Metric) -> str:
    """Name a metric with its unit, for an axis."""
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name


def better(metric: Metric) -> str:
    """Say which way is better."""
    return "higher is better" if metric.higher_is_better else "lower is better"


def change(metric: Metric, before: float, after: float) -> str:
    r"""Write how a metric changed: decibels and percentages as a difference, everything else in percent.

    Example:
        >>> change(Metric("L1", "", False), 5.0, 5.1), change(Metric("PSNR", "dB", True), 24.0, 23.5)
        ('+2.0\xa0%', '−0.50\xa0dB')
        >>> change(Metric("accuracy", "%", True), 90.0, 88.2)
        '−1.80\xa0points'
    """
    if metric.unit in ("dB", "%") or before == 0:
        return f"{signed(after - before, 2)}{JOINED}{unit_of_change(metric)}".rstrip()
    return percent(100 * (after - before) / abs(before))


def unit_of_change(metric: Metric) -> str:
    """Return the unit of a difference: that of two percentages is points."""
    return "points" if metric.unit == "%" else metric.unit


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names as a sentence does, naming at most so many.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=2)
        ('a, b and c', 'a, b and 1 more')
    """
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def short_names(names: Sequence[str], most: int = 22) -> dict[str, str]:
    """Drop the last dotted part of layer names where all share it and stay distinct, and the start of long names.

    Args:
        names: The full names.
        most: Characters that there is room for.

    Example:
        >>> short_names(["down.0.conv", "up.0.conv"])
        {'down.0.conv': 'down.0', 'up.0.conv': 'up.0'}
    """
    parts = [name.rpartition(".") for name in names]
    alike = (
        len(names) > 1
        and len({last for _, _, last in parts}) == 1
        and len({first for first, _, _ in parts if first}) == len(names)
    )
    shown = {name: first if alike else name for name, (first, _, _) in zip(names, parts, strict=True)}
    return {name: text if len(text) <= most else f"…{text[1 - most :]}" for name, text in shown.items()}
