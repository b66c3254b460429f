from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from compress import cut
from compress.cut import Cut, Rig, cut_at_random, cut_scores, cut_uniform, widths_of
from compress.graph.channels import Layer
from compress.predictor import layer_ms
from device_profiles.errors import BadInput, BudgetInfeasible
from device_profiles.profile import DeviceProfile, LayerProfile
from device_profiles.target import Target
from tests.compress.graph.patterns import graph_of
from tests.device_profiles.example import flat, probe, profile

FAST, SLOW = Target("onnxruntime", "cpu"), Target("openvino", "cpu")
WHOLE_MS = {FAST: 12.0, SLOW: 30.0}
SCORES = {"a": np.arange(8.0) + 1, "b": np.arange(6.0) + 1, "c": np.arange(4.0) + 1}


def made_up(target: Target, fixed: float = 0.0) -> DeviceProfile:
    """A profile of the pattern "Dense": each layer takes as long as its channels in and out say, on a fixed cost."""
    layers = []
    for layer in graph_of("Dense").layers:
        grid = [(i, o) for i in sorted({1, layer.in_channels}) for o in sorted({1, layer.out_channels})]
        cost = {pair: flat(fixed + pair[0] * pair[1] / 100) for pair in grid}
        layers.append(LayerProfile(layer.name, layer.op, layer.in_channels, layer.out_channels, cost))
    return profile(target=target, layers=tuple(layers), end_to_end=flat(WHOLE_MS[target]), probes=())


def rig(needed: Mapping[Target, float], fixed: float = 0.0) -> Rig:
    return Rig(graph_of("Dense"), {target: made_up(target, fixed) for target in needed}, needed, seconds=0.1)


@pytest.fixture
def measured_as_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a runtime: a cut takes as long as the profile predicts."""

    def measure(self: Rig, keep: cut.Keep) -> dict[Target, float]:
        return {target: self._whole_ms[target] / self.predict_ms(target, widths_of(keep)) for target in self.profiles}

    monkeypatch.setattr(Rig, "_measure", measure)


def test_the_speedup_counts_on_the_target_that_is_furthest_from_what_it_needs() -> None:
    profiles = {FAST: made_up(FAST, fixed=0.3), SLOW: made_up(SLOW)}  # a cut gains less where layers have a fixed cost
    widths = {"a": 4, "b": 3, "c": 2}
    fast, slow = (Rig(graph_of("Dense"), {t: p}, {t: 3.0}, 0.1).predicted_speedup(widths) for t, p in profiles.items())
    assert 1 < fast < slow < 2 * fast
    both = Rig(graph_of("Dense"), profiles, {FAST: 1.5, SLOW: 3.0}, 0.1)
    assert both.goal == 3.0
    assert both.predicted_speedup(widths) == pytest.approx(slow)  # FAST needs half, so it counts double
    assert both.predicted_speedup({}) == pytest.approx(1.0)


def test_a_target_that_only_must_not_become_slower_is_on_its_goal_as_it_is() -> None:
    both = rig({FAST: 1.0, SLOW: 2.0})
    assert both.predicted_speedup({}) == pytest.approx(1.0)  # SLOW is what keeps it from the goal of 2
    assert rig({FAST: 2.0}).predicted_speedup({"a": 4}) == pytest.approx(both.predicted_speedup({"a": 4}))


def test_a_goal_that_is_met_already_is_refused_with_what_was_measured() -> None:
    with pytest.raises(BadInput, match=r"\{'onnxruntime-cpu': 12\.0, 'openvino-cpu': 30\.0\} ms, within every budget"):
        rig({FAST: 1.0, SLOW: 1.0})


@pytest.mark.usefixtures("measured_as_predicted")
def test_scores_are_cut_at_the_threshold_that_every_target_needs() -> None:
    both = rig({FAST: 1.2, SLOW: 1.8})
    found = cut_scores(SCORES, None, both)
    speedup = rig({SLOW: 1.8}).predicted_speedup(widths_of(found.keep))
    assert found.speedup == pytest.approx(speedup)
    assert speedup >= 1.8
    assert found.threshold is not None
    assert all((np.diff(SCORES[name][kept]) > 0).all() for name, kept in found.keep.items())


@pytest.mark.usefixtures("measured_as_predicted")
def test_what_a_threshold_takes_too_much_is_given_back_where_the_method_says_it_is_worth_something() -> None:
    wide, narrow, reached = ({"a": a, "b": b, "c": 4} for a, b in ((8, 4), (4, 4), (4, 6)))
    too_slow, too_fast, enough = (rig({FAST: 1.2}).predicted_speedup(widths) for widths in (wide, narrow, reached))
    assert too_slow < 0.99 * enough < 1.1 * enough < too_fast
    goal = rig({FAST: 0.97 * enough})
    found = cut_scores(SCORES, None, goal)  # the threshold takes from b, which is not enough, and then from a
    assert widths_of(found.keep) == reached
    assert found.speedup == pytest.approx(enough)
    assert found.threshold == pytest.approx(4.0, abs=0.1)
    limited = cut_scores(SCORES, {"b": np.arange(4)}, goal)  # the method itself says that b's are worth nothing
    assert widths_of(limited.keep) == narrow


@pytest.mark.usefixtures("measured_as_predicted")
def test_what_the_solver_takes_too_much_is_given_back_where_it_scores_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = ({"a": 8, "b": 6, "c": 4}, {"a": 4, "b": 4, "c": 4})  # as where what is measured leaves nothing between
    whole, narrow = (cut.keep_counts(graph_of("Dense"), SCORES, each) for each in widths)
    monkeypatch.setattr(cut, "_solved", lambda *_: lambda setting: narrow if setting else whole)
    goal = rig({FAST: 1.4})
    found = cut_scores(SCORES, None, goal, "solver")
    assert widths_of(found.keep) == {"a": 4, "b": 6, "c": 4}
    assert found.speedup == pytest.approx(goal.predicted_speedup(widths_of(found.keep)))
    assert found.threshold is None
    dead = SCORES | {"b": np.array([0.0, 0.0, 3.0, 4.0, 5.0, 6.0])}
    assert widths_of(cut_scores(dead, None, goal, "solver").keep) == widths[1]


@pytest.mark.usefixtures("measured_as_predicted")
@pytest.mark.parametrize(("selection", "wider"), [("threshold", "a"), ("solver", "b")])
def test_a_step_is_worth_its_best_channel_to_a_threshold_and_all_of_them_to_the_solver(
    monkeypatch: pytest.MonkeyPatch, selection: cut.Selection, wider: str
) -> None:
    scores = {
        "a": np.array([5, 0.1, 0.1, 0.1, 9, 9, 9, 9]),
        "b": np.array([4.9, 4.9, 9, 9, 9, 9]),
        "c": np.full(4, 9.0),
    }
    widths = ({"a": 8, "b": 6, "c": 4}, {"a": 4, "b": 4, "c": 4})
    whole, narrow = (cut.keep_counts(graph_of("Dense"), scores, each) for each in widths)
    for knob in ("_solved", "_shared_threshold"):
        monkeypatch.setattr(cut, knob, lambda *_: lambda setting: narrow if setting else whole)
    goal = rig({FAST: 1.1})
    either = [goal.predicted_speedup(widths[1] | {name: widths[0][name]}) for name in "ab"]
    assert 1.1 * cut.MARGINS[0] < min(either)
    monkeypatch.setattr(cut, "MARGINS", (0.999 * min(either) / 1.1,))  # so that one of them fits, and not both
    found = cut_scores(scores, None, goal, selection)
    assert widths_of(found.keep) == widths[1] | {wider: widths[0][wider]}


@pytest.mark.parametrize(("b_again", "expected"), [(1.5, 6), (1.3, 4)])
def test_what_is_given_back_is_measured(monkeypatch: pytest.MonkeyPatch, b_again: float, expected: int) -> None:
    def measure(self: Rig, keep: cut.Keep) -> dict[Target, float]:
        speedups = {(8, 6): 1.0, (4, 4): 1.9, (4, 6): b_again}
        measured.append((len(keep["a"]), len(keep["b"])))
        return dict.fromkeys(self.profiles, speedups[measured[-1]])

    measured: list[tuple[int, int]] = []
    monkeypatch.setattr(Rig, "_measure", measure)
    found = cut_scores(SCORES, None, rig({FAST: 1.4}))
    assert widths_of(found.keep) == {"a": 4, "b": expected, "c": 4}
    assert measured == [(8, 6), (4, 4), (4, 6)]
    assert found.speedup == pytest.approx(b_again if expected == 6 else 1.9)
    assert found.measurements == len(measured)


@pytest.mark.usefixtures("measured_as_predicted")
def test_channels_that_score_next_to_nothing_are_not_given_back() -> None:
    dead = SCORES | {"b": np.array([0.0, 0.01, 3.0, 4.0, 5.0, 6.0])}
    assert widths_of(cut_scores(SCORES, None, rig({FAST: 1.4})).keep) == {"a": 4, "b": 6, "c": 4}
    assert widths_of(cut_scores(dead, None, rig({FAST: 1.4})).keep) == {"a": 4, "b": 4, "c": 4}


@pytest.mark.usefixtures("measured_as_predicted")
def test_a_methods_own_choice_stands_where_it_is_fast_enough() -> None:
    found = cut_scores(SCORES, {"a": np.arange(4)}, rig({FAST: 1.2}))
    assert (found.threshold, found.own, found.measurements) == (None, {"a": 4}, 1)
    assert widths_of(found.keep) == {"a": 4, "b": 6, "c": 4}


@pytest.mark.usefixtures("measured_as_predicted")
def test_the_yardstick_is_steered_to_a_goal_of_its_own() -> None:
    found = cut_uniform(SCORES, rig({FAST: 1.2}), goal=1.5)
    assert found.speedup >= 1.5


@pytest.mark.usefixtures("measured_as_predicted")
def test_a_yardstick_that_cannot_be_as_fast_is_as_narrow_as_can_be() -> None:
    found = cut_uniform(SCORES, rig({FAST: 1.2}), goal=50.0)
    assert widths_of(found.keep) == {"a": 4, "b": 4, "c": 4}
    assert 1 < found.speedup < 50


@pytest.mark.usefixtures("measured_as_predicted")
def test_a_goal_of_its_own_is_what_an_unreachable_cut_was_asked_for() -> None:
    with pytest.raises(BudgetInfeasible, match=r"onnxruntime-cpu \S+ ms of 0\.12 ms asked for"):
        rig({FAST: 1.2}).steer(lambda setting: {"a": np.arange(8 - round(4 * setting))}, "cut", goal=100.0)


@pytest.mark.usefixtures("measured_as_predicted")
def test_a_budget_out_of_reach_names_the_fastest_latency_of_every_target() -> None:
    both = rig({FAST: 20.0, SLOW: 1.5}, fixed=1.0)
    at_floor = {"a": 4, "b": 4, "c": 4}
    fastest = [
        f"{target.name} {both.predict_ms(target, at_floor):.3g} ms of {WHOLE_MS[target] / needed:.3g} ms asked for"
        for target, needed in both.needed.items()
    ]
    with pytest.raises(BudgetInfeasible, match=re.escape(", ".join(fastest))):
        cut_scores(SCORES, None, both)


def test_what_is_out_of_reach_is_said_without_a_cut_once_it_was_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    speedups = iter([1.7, 1.9, 1.7, 1.6])
    monkeypatch.setattr(Rig, "_measure", lambda self, _: dict.fromkeys(self.profiles, next(speedups)))
    near = rig({FAST: 2.0}, fixed=0.2)
    assert 1 < near.predicted_speedup({"a": 4, "b": 4, "c": 4}) < cut.PLENTY * 2.0
    near.check_reach(SCORES)
    with pytest.raises(BudgetInfeasible, match=r"its floor the network takes: onnxruntime-cpu 7\.06 ms of 6 ms asked"):
        near.check_reach(SCORES)
    rig({FAST: 1.2}).check_reach(SCORES)  # as predicted, beyond doubt
    assert next(speedups, None) is None


@pytest.mark.usefixtures("measured_as_predicted")
def test_without_blocks_speedups_are_still_against_the_whole_network() -> None:
    whole = rig({FAST: 2.0})
    ms = {layer.name: layer_ms(whole.profiles[FAST], layer.name, pair(layer)) for layer in whole.graph.layers}
    rest = replace(whole.graph, layers=tuple(layer for layer in whole.graph.layers if layer.name != "b"))
    shallower = whole.without_blocks(rest)
    assert shallower.predict_ms(FAST, {}) == pytest.approx(sum(ms.values()) - ms["b"])
    assert shallower.predicted_speedup({}) == pytest.approx(sum(ms.values()) / (sum(ms.values()) - ms["b"]))
    assert shallower.budget_ms(2.0) == whole.budget_ms(2.0)
    assert shallower.without_blocks(rest).whole is whole.graph
    impossible = Rig(rest, whole.profiles, {FAST: 90.0}, 0.1, whole.graph)
    impossible.__dict__["multiples"] = dict.fromkeys("abc", 4)
    with pytest.raises(
        BudgetInfeasible, match="with every width at its floor and 1 of 4 layers gone the network takes"
    ):
        cut_scores(SCORES, None, impossible)


@pytest.mark.usefixtures("measured_as_predicted")
def test_with_other_layers_speedups_are_still_against_the_whole_network() -> None:
    whole = rig({FAST: 90.0})
    profiles = {FAST: replace(made_up(FAST, fixed=1.0), end_to_end=flat(8.0)), SLOW: made_up(SLOW)}
    other = whole.with_other_layers(whole.graph, profiles)
    assert set(other.profiles) == {FAST}
    assert other.predicted_speedup({}) == other.measured_speedup({}) == pytest.approx(WHOLE_MS[FAST] / 8)
    assert other.budget_ms(2.0) == whole.budget_ms(2.0)
    with pytest.raises(BudgetInfeasible, match=rf"ms of {WHOLE_MS[FAST] / 90:.3g} ms asked for"):
        cut_scores(SCORES, None, other)


@pytest.mark.parametrize("selection", ["threshold", "solver"])
@pytest.mark.usefixtures("measured_as_predicted")
def test_without_anything_left_to_narrow_the_cut_is_what_it_is(selection: cut.Selection) -> None:
    whole = rig({FAST: 1.1})
    rest = replace(whole.graph, layers=whole.graph.layers[:1])
    found = cut_scores({}, None, whole.without_blocks(rest), selection)
    assert (found.keep, found.threshold, found.measurements) == ({}, None, 1)
    with pytest.raises(BudgetInfeasible, match="out of reach"):
        cut_scores({}, None, whole, selection)


def pair(layer: Layer) -> tuple[int, int]:
    return layer.in_channels, layer.out_channels


def test_a_cut_comes_back_from_json_as_it_was() -> None:
    found = Cut({"a": np.array([0, 2])}, {"a": 3}, 0.5, 1.4, 2)
    again = Cut.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again.keep["a"].dtype == np.int64


def test_a_random_cut_keeps_as_many_channels_of_every_set() -> None:
    like = {"a": np.arange(4), "b": np.arange(3)}
    drawn = [cut_at_random(graph_of("Dense"), like, seed) for seed in range(8)]
    assert all(widths_of(each) == {"a": 4, "b": 3} for each in drawn)
    assert len({tuple(each["a"]) for each in drawn}) > 1


@pytest.mark.usefixtures("measured_as_predicted")
def test_a_solved_cut_meets_the_goal_on_every_target_and_keeps_more_than_a_threshold(monkeypatch) -> None:
    monkeypatch.setattr(cut, "_given_back", lambda found, *_: found)
    both = rig({FAST: 1.2, SLOW: 2.5})
    both.__dict__["multiples"] = dict.fromkeys("abc", 1)
    generator = np.random.default_rng(0)
    scores = {name: generator.lognormal(0, 1, len(values)) for name, values in SCORES.items()}
    threshold, solved = (cut_scores(scores, None, both, selection) for selection in ("threshold", "solver"))
    assert both.predicted_speedup(widths_of(solved.keep)) == pytest.approx(solved.speedup)
    assert solved.speedup >= 2.5
    assert solved.threshold is None
    assert _kept(scores, solved) > _kept(scores, threshold)


@pytest.mark.usefixtures("measured_as_predicted")
def test_a_threshold_that_gives_back_keeps_no_more_than_a_solved_cut() -> None:
    both = rig({FAST: 1.2, SLOW: 2.5})
    both.__dict__["multiples"] = dict.fromkeys("abc", 1)
    ahead = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        scores = {name: generator.lognormal(0, 1, len(values)) for name, values in SCORES.items()}
        threshold, solved = (cut_scores(scores, None, both, selection) for selection in ("threshold", "solver"))
        assert both.predicted_speedup(widths_of(solved.keep)) == pytest.approx(solved.speedup)
        assert solved.speedup >= 2.5
        assert solved.threshold is None
        ahead.append(_kept(scores, solved) - _kept(scores, threshold))
    assert min(ahead) >= -1e-9
    assert max(ahead) > 0.1


def _kept(scores: Mapping[str, np.ndarray], found: Cut) -> float:
    return sum(scores[name][channels].sum() for name, channels in found.keep.items())


@pytest.mark.usefixtures("measured_as_predicted")
def test_the_solver_leaves_a_methods_own_choice_alone_where_it_is_fast_enough_and_cuts_within_it() -> None:
    own = {"a": np.arange(4)}
    assert widths_of(cut_scores(SCORES, own, rig({FAST: 1.2}), "solver").keep) == {"a": 4, "b": 6, "c": 4}
    deeper = cut_scores(SCORES, own, rig({FAST: 1.6}), "solver")
    assert deeper.speedup >= 1.6
    assert len(deeper.keep["a"]) == 4


@pytest.mark.usefixtures("measured_as_predicted")
def test_the_solver_too_names_the_fastest_latency_of_every_target() -> None:
    with pytest.raises(BudgetInfeasible, match=r"onnxruntime-cpu \S+ ms of \S+ ms asked for, openvino-cpu"):
        cut_scores(SCORES, None, rig({FAST: 20.0, SLOW: 1.5}, fixed=1.0), "solver")


@pytest.mark.parametrize(("width", "multiple"), [(96, 16), (48, 12), (40, 8), (24, 4), (8, 4)])
def test_a_narrow_sets_multiples_are_finer_and_never_off_the_fast_path(width: int, multiple: int) -> None:
    conv = LayerProfile("conv", "Conv", 4, width, {(4, width): flat(1.0)})
    stepped = probe("conv", "Conv", lambda width: -(-width // 16))
    graph = SimpleNamespace(
        layers=[SimpleNamespace(name="conv", op="Conv")],
        prunable=[SimpleNamespace(name="conv", producers=("conv",), consumers=(), width=width)],
    )
    found = Rig.__new__(Rig)
    found.graph, found.profiles = graph, {FAST: profile(target=FAST, layers=(conv,), probes=(stepped,))}
    assert found.multiples == {"conv": multiple}
