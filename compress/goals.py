"""What a run promised, and whether it was kept."""

from __future__ import annotations

import math

from compress.budget import Budget
from compress.recipe import Goals, Recipe
from compress.report.results import Goal, Metric, Results, TargetResult
from compress.report.wording import unit_of_change
from compress.start import NARROW

NEAR_ENOUGH = 1.05  # a cut that was steered to a speedup is measured anew at the end, on another day of the machine


def judge_goals(recipe: Recipe, results: Results) -> tuple[Goal, ...]:
    """Hold a run against what its recipe promises."""
    goals = recipe.goals
    speedups = [
        _latency_goal(target, recipe.budget_ms.get(name), promised_speedup(recipe))
        for name, target in zip(recipe.targets, results.targets, strict=True)
    ]
    parities = [network.parity for target in results.targets for network in target.networks.values() if network.parity]
    largest = max(parity.relative_error for parity in parities)
    return (
        *speedups,
        _quality_goal(results, goals),
        *_learning_goals(results, goals),
        *_point_goals(results),
        Goal(
            "runtimes agree with torch",
            f"within {parities[0].tolerance:g} of the outputs' spread",
            f"{largest:.1g} at most",
            all(parity.passed for parity in parities),
        ),
        Goal(
            "removing equals zeroing",
            f"within {results.proof.tolerance:g} of the outputs' spread",
            f"{results.proof.max_error:.1g}, {results.proof.removed_channels} channels",
            results.proof.passed,
        ),
    )


def promised_speedup(recipe: Recipe) -> float | None:
    """Return the least speedup that a recipe promises on every target; None where it promises latencies."""
    if recipe.goals.speedup is not None:
        return recipe.goals.speedup
    return round(recipe.speedup / NEAR_ENOUGH, 2) if recipe.speedup is not None else None


def keeps_budget(budget: Budget, results: Results, key: str) -> bool:
    """Whether a network was measured to keep a budget on all of its targets."""
    least = budget.speedup / NEAR_ENOUGH if budget.speedup is not None else 1.0
    by_runtime = {target.name.partition("-")[0]: target for target in results.targets}
    return all(
        by_runtime[name].networks[key].latency.ms <= budget.budget_ms.get(name, by_runtime[name].baseline_ms / least)
        for name in budget.runtimes
    )


def _point_goals(results: Results) -> list[Goal]:
    """Say how many of the further budgets were kept."""
    found = []
    for kind, what in (("sweep", "budgets of the sweep"), ("target", "a network for each target")):
        points = [point for point in results.points if point.kind == kind]
        if points:
            kept = sum(point.kept for point in points)
            goal = f"all {len(points)} within their budgets"
            found.append(Goal(what, goal, f"{kept} of {len(points)}", kept == len(points)))
    return found


def _latency_goal(target: TargetResult, budget_ms: float | None, speedup: float | None) -> Goal:
    if budget_ms is not None:
        within = target.pruned_ms <= budget_ms
        return Goal(
            f"within its time in {target.name}", f"{budget_ms:g} ms at most", f"{target.pruned_ms:.3g} ms", within
        )
    least = speedup or 1.0
    return Goal(
        f"faster in {target.name}",
        f"at least {least:g} times",
        f"{target.speedup:.2f} times",
        target.speedup >= least,
    )


def _quality_goal(results: Results, goals: Goals) -> Goal:
    loss = _loss(results.metric, results.baseline.quality, results.pruned.quality)
    unit, allowed = unit_of_change(results.metric), goals.quality_loss
    if allowed is None:
        unit, allowed = "%", goals.quality_loss_percent
        loss = _percent(loss, results.baseline.quality)
    return Goal(
        "held-out quality",
        f"at most {allowed:g} {unit} worse than the baseline",
        f"{abs(loss):.{1 if unit == '%' else 2}f} {unit} {'worse' if loss > 0 else 'better'}",
        loss <= allowed,
    )


def _learning_goals(results: Results, goals: Goals) -> list[Goal]:
    """Say whether something was learned, and whether the task needs a network of this size."""
    found, metric = [], results.metric
    if results.trivial is not None:
        gain = _loss(metric, results.pruned.quality, results.trivial.quality)
        found.append(
            Goal(
                f"better than {results.trivial.name}",
                f"by more than {goals.over_trivial:g} {unit_of_change(metric)}".rstrip(),
                f"{gain:.2f} {unit_of_change(metric)}".rstrip(),
                gain > goals.over_trivial,
            )
        )
    narrow, wanted = results.network("quarter"), goals.narrow_penalty_percent
    if narrow is not None and wanted is not None:
        baseline = results.baseline.quality
        worse = _percent(_loss(metric, baseline, narrow.quality), baseline)
        found.append(
            Goal(
                "the task is not trivial",
                f"1/{NARROW} of the width at least {wanted:g} % worse",
                f"{worse:.1f} % worse",
                worse >= wanted,
            )
        )
    return found


def _loss(metric: Metric, before: float, after: float) -> float:
    """Return by how much `after` is worse than `before`, in the metric's unit."""
    return before - after if metric.higher_is_better else after - before


def _percent(loss: float, whole: float) -> float:
    """Return a loss in percent of `whole`; any loss of nothing is infinitely much."""
    return 100 * loss / abs(whole) if whole else math.copysign(math.inf, loss) if loss else 0.0
