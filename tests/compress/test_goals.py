from __future__ import annotations

import dataclasses

import pytest

from compress.goals import _learning_goals, _quality_goal
from compress.recipe import Goals
from compress.report.results import Metric, Results
from tests.compress.report.example import example_results

ACCURACY = Metric("accuracy", "%", higher_is_better=True)


def judged(baseline: float, pruned: float, quarter: float = 0.0, metric: Metric = ACCURACY) -> Results:
    """The example's results with other qualities."""
    found = {"baseline": baseline, "pruned": pruned, "quarter": quarter}
    example = example_results()
    networks = tuple(dataclasses.replace(n, quality=found.get(n.key, n.quality)) for n in example.networks)
    return dataclasses.replace(example, metric=metric, networks=networks)


@pytest.mark.parametrize(
    ("goals", "pruned", "goal", "reached", "passed"),
    [
        (Goals(), 78.0, "at most 3 % worse than the baseline", "2.5 % worse", True),
        (Goals(), 77.0, "at most 3 % worse than the baseline", "3.8 % worse", False),
        (Goals(quality_loss=3.0), 77.0, "at most 3 points worse than the baseline", "3.00 points worse", True),
        (Goals(), 81.0, "at most 3 % worse than the baseline", "1.2 % better", True),
    ],
)
def test_the_quality_may_fall_by_percent_of_itself_or_by_points(goals, pruned, goal, reached, passed) -> None:
    found = _quality_goal(judged(80.0, pruned), goals)
    assert (found.goal, found.reached, found.passed) == (goal, reached, passed)


def test_where_less_is_better_a_rise_is_a_loss() -> None:
    metric = Metric("L1", "of 255", higher_is_better=False)
    assert _quality_goal(judged(5.0, 5.3, metric=metric), Goals()).reached == "6.0 % worse"


def test_a_baseline_of_zero_is_no_division_by_it() -> None:
    assert _quality_goal(judged(0.0, 0.0), Goals()).passed
    error = Metric("error", "", higher_is_better=False)
    missed = _quality_goal(judged(0.0, 0.1, metric=error), Goals())
    assert (missed.reached, missed.passed) == ("inf % worse", False)
    narrow = _learning_goals(judged(0.0, 0.1, 0.2, error), Goals(narrow_penalty_percent=10.0))[-1]
    assert (narrow.reached, narrow.passed) == ("inf % worse", True)
