"""Qualities at equal latency and latencies at equal quality."""

from __future__ import annotations

import pytest

from tools.benchmarks.peers_fronts import Comparison, Point, compare, front, ms_at, quality_at

SLOW_IS_BETTER = front([Point(8.0, 30.0), Point(2.0, 20.0)])


def test_a_front_has_only_networks_that_are_better_than_all_faster_ones() -> None:
    points = [Point(3.0, 20.0), Point(1.0, 10.0), Point(2.0, 20.0), Point(4.0, 15.0), Point(5.0, 21.0)]
    assert front(points) == (Point(1.0, 10.0), Point(2.0, 20.0), Point(5.0, 21.0))


def test_latency_between_two_networks_goes_by_its_logarithm() -> None:
    assert ms_at(SLOW_IS_BETTER, 25.0) == pytest.approx(4.0)
    assert ms_at(SLOW_IS_BETTER, 30.0) == pytest.approx(8.0)


def test_what_the_fastest_reaches_takes_no_less_and_what_none_reaches_takes_nothing() -> None:
    assert ms_at(SLOW_IS_BETTER, 12.0) == 2.0
    assert ms_at(SLOW_IS_BETTER, 30.1) is None
    assert ms_at((), 1.0) is None


def test_quality_at_a_latency_is_the_best_within_it() -> None:
    assert quality_at(SLOW_IS_BETTER, 4.0) == pytest.approx(25.0)
    assert quality_at(SLOW_IS_BETTER, 2.0) == pytest.approx(20.0)
    assert quality_at(SLOW_IS_BETTER, 100.0) == 30.0
    assert quality_at(SLOW_IS_BETTER, 1.9) is None


def test_sides_are_compared_at_the_best_quality_that_both_reach() -> None:
    ours = {"a": SLOW_IS_BETTER, "b": front([Point(3.0, 24.0)])}
    others = {"c": front([Point(7.0, 24.0)]), "d": front([Point(2.0, 5.0)])}
    assert compare(ours, others) == Comparison(24.0, "b", "c", pytest.approx(7.0 / 3.0))
    better = {"c": front([Point(12.0, 31.0)])}
    assert compare(ours, better) == Comparison(30.0, "a", "c", pytest.approx(12.0 / 8.0))


def test_a_side_without_networks_is_not_compared() -> None:
    assert compare({}, {"a": SLOW_IS_BETTER}) is None
    assert compare({"a": SLOW_IS_BETTER}, {"b": ()}) is None
