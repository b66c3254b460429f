"""Several runs side by side, one line per target and run: what a command prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.report import wording
from compress.report.points import Row, sweep_rows, target_rows
from compress.report.results import Results, TargetResult

HEADINGS = ("target", "run", "baseline, ms", "pruned, ms", "speedup", "quality", "parameters, %", "goals")

BUDGET_HEADINGS = ("target", "budget", "ms", "speedup", "quality", "model")


def comparison(runs: Mapping[str, Results]) -> str:
    """Return a table of the runs, sorted by target and then by the pruned network's latency.

    Args:
        runs: What to call each run -> its results.
    """
    found = [(target, name, results) for name, results in runs.items() for target in results.targets]
    found.sort(key=lambda line: (line[0].name, line[0].pruned_ms))
    return aligned([HEADINGS, *(_line(*line) for line in found)])


def budgets(results: Results) -> str:
    """Return a table of the networks for further budgets, one line per network and target; empty without any."""
    if not results.points:
        return ""
    rows: list[tuple[str, ...]] = [BUDGET_HEADINGS]
    for kind, found in (("sweep", sweep_rows), ("target", target_rows)):
        if any(point.kind == kind for point in results.points):
            rows += [_budget_line(results, target, row) for target in results.targets for row in found(results)]
    return aligned(list(dict.fromkeys(rows)))


def _budget_line(results: Results, target: TargetResult, row: Row) -> tuple[str, ...]:
    if row.network is None:
        return (target.name, row.name, "-", "-", "-", row.remark)
    ran = target.networks[row.network.key].latency
    return (
        target.name,
        row.name,
        wording.ms(ran.ms) + ("" if ran.stable else "~"),
        f"{wording.significant(target.baseline_ms / ran.ms, 3)}x",
        f"{wording.significant(row.network.quality, 4)} {results.metric.unit}".rstrip(),
        row.remark or row.folder,
    )


def _line(target: TargetResult, name: str, results: Results) -> tuple[str, ...]:
    before, after, metric = results.baseline, results.pruned, results.metric
    unsettled = "" if target.stable else "~"
    qualities = f"{wording.significant(before.quality, 3)} -> {wording.significant(after.quality, 3)} {metric.unit}"
    reached = sum(goal.passed for goal in results.goals)
    return (
        target.name,
        name,
        wording.ms(target.baseline_ms),
        wording.ms(target.pruned_ms) + unsettled,
        f"{wording.significant(target.speedup, 3)}x",
        f"{metric.name} {qualities.rstrip()} ({wording.change(metric, before.quality, after.quality)})",
        f"{100 * after.parameters / before.parameters:.1f}",
        f"{reached} of {len(results.goals)}",
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Pad the cells of a table, its first row the headings: numbers to the right, words to the left.

    Example:
        >>> print(aligned([("layer", "ms"), ("down.0", "12.5"), ("up", "3")]))
        layer     ms
        down.0  12.5
        up         3
    """
    columns = []
    for cells in zip(*rows, strict=True):
        width = max(len(cell) for cell in cells)
        number = all(cell[:1].isdigit() or cell[:1] in f"+-{wording.MINUS}" for cell in cells[1:])
        columns.append([cell.rjust(width) if number else cell.ljust(width) for cell in cells])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
