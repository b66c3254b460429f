from __future__ import annotations

import numpy as np
import pytest

from compress.select import rounded_width, steer_to_goal, threshold_at, uniform_widths, widths_above
from device_profiles.errors import BudgetInfeasible


def knob(setting):
    """A hundred channels of one set, fewer the higher the setting, never under ten."""
    return {"layer": np.arange(round(100 - 90 * setting))}


def speedup(keep):
    return 100 / len(keep["layer"])


def test_widths_are_the_methods_own_when_no_threshold_cuts():
    scores = {"a": np.array([0.1, 2.0, 1.0, 0.01, 3.0, 0.02, 1.5, 0.01]), "b": np.ones(8)}
    assert widths_above(scores, {"a": 4}, -np.inf, {"a": 4, "b": 4}) == {"a": 4, "b": 8}


def test_a_threshold_cuts_deeper_than_the_method():
    scores = {"a": np.arange(16) / 10}
    assert widths_above(scores, {"a": 12}, 1.15, {"a": 4}) == {"a": 4}
    assert widths_above(scores, {"a": 12}, 1.15, {"a": 8}) == {"a": 8}


def test_uniform_widths_are_the_same_share_of_every_set():
    assert uniform_widths({"a": np.ones(8), "b": np.ones(16)}, 0.5, {"a": 4, "b": 4}) == {"a": 4, "b": 8}


def test_widths_are_rounded_up_to_what_runtimes_run_well():
    assert [rounded_width(width, 64) for width in (0, 1, 4, 5, 63, 64)] == [4, 4, 4, 8, 64, 64]
    assert rounded_width(1, 3) == 3


def test_threshold_is_below_every_score_at_rest_and_grows_with_the_knob_to_the_highest():
    scores = {"a": np.array([-1.0, 2.0]), "b": np.array([0.5, 9.0, 0.1])}
    thresholds = [threshold_at(setting, scores) for setting in (0, 0.01, 0.5, 1)]
    assert thresholds[0] == -np.inf
    assert thresholds[2] == 0.5
    assert thresholds[3] == 9
    assert thresholds == sorted(thresholds)


def test_steering_leaves_the_knob_alone_when_the_goal_is_met_already():
    steered = steer_to_goal(knob, speedup, lambda _: 1.3)
    assert steered.setting == 0
    assert steered.measurements == 1


@pytest.mark.parametrize("bias", [0.6, 1.0, 1.7, 2.0, 3.0])
def test_steering_reaches_the_goal_although_the_prediction_is_off(bias):
    goal = 3.0
    measured = []

    def measure(keep):
        measured.append(speedup(keep))
        return speedup(keep) / goal

    steered = steer_to_goal(knob, lambda keep: speedup(keep) ** bias / goal, measure)
    assert 1 <= steered.speedup <= 1.06
    assert len(measured) <= 6
    assert steered.speedup * goal == pytest.approx(speedup(steered.keep))


def test_steering_between_two_networks_measures_each_once():
    measured = []

    def measure(keep):
        measured.append(speedup(keep))
        return speedup(keep) / 3

    steered = steer_to_goal(
        lambda setting: knob(1.0 if setting > 0.5 else 0.0), lambda keep: speedup(keep) / 3, measure
    )
    assert measured == [1.0, 10.0]
    assert steered.measurements == 2
    assert len(steered.keep["layer"]) == 10


def test_steering_says_how_fast_the_fastest_is_when_the_goal_is_out_of_reach():
    with pytest.raises(BudgetInfeasible, match=r"measured 0\.50 times as fast as it should be; ask for less"):
        steer_to_goal(knob, lambda keep: speedup(keep) / 20, lambda keep: speedup(keep) / 20)


def test_one_disturbed_measurement_of_the_fastest_is_no_reason_to_give_up():
    fastest = iter([0.9, 1.1])

    def measure(keep):
        return next(fastest) if len(keep["layer"]) == 10 else speedup(keep) / 20

    assert steer_to_goal(knob, lambda keep: speedup(keep) / 9, measure).speedup == 1.1
