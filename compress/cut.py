"""Where to cut: as the method itself chose, and where that is not fast enough, deeper until the goal is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from compress.balanced import keep_counts
from compress.export import deployable
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Network
from compress.graph.surgery import remove_channels
from compress.predictor import Predictor
from compress.scores import Scores
from compress.select import (
    LEAST_MULTIPLE,
    MEASUREMENTS,
    Selection,
    Steered,
    rounded_width,
    steer_to_goal,
    threshold_at,
    uniform_widths,
    widths_above,
)
from compress.solve import fastest, solve
from compress.validate import measure_latencies
from compress.width_problem import width_problem
from device_profiles.errors import BadInput, BudgetInfeasible
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target
from runtimes.progress import progress_bar

CHOICES = 4  # widths that a set must be able to choose from
BUDGETS = 256  # that the solver is asked for at most, from the network as it is to the fastest: 1 % apart at 10 times

MARGINS = (1.03, 0.95)  # what is given back first is predicted to fit safely; what follows only might
WORTH = 0.1  # times the threshold: channels that score less are not given back, dead ones least of all
PLENTY = 1.5  # times the goal: what is predicted to be that fast is measured to be fast enough
DOUBT = 0.9  # times the goal: what is measured to be that fast may still be cut to be fast enough


class Rig:
    """Predicts and measures how much faster a choice of channels makes a network, where it is furthest from its goal.

    Args:
        graph: The channel graph of the network that channels are cut from.
        profiles: The device profile of the whole network by target.
        needed: The speedup that each target asks for, 1 or more.
        seconds: How long to measure on each target, each time.
        whole: The channel graph of the whole network, which speedups are against; None where `graph` is that.
        against: What predicts and measures the network that speedups are against, where `profiles` are of another one.

    Raises:
        BadInput: No target asks for more than the network is.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        profiles: Mapping[Target, DeviceProfile],
        needed: Mapping[Target, float],
        seconds: float,
        whole: ChannelGraph | None = None,
        against: Rig | None = None,
    ) -> None:
        self.graph = graph
        self.whole = whole or graph
        self.profiles = profiles
        self.needed = needed
        self.seconds = seconds
        self.goal = max(needed.values())
        if self.goal <= 1:
            measured = {target.name: round(profile.end_to_end.ms, 3) for target, profile in profiles.items()}
            raise BadInput(f"the network as it is takes {measured} ms, within every budget; ask for less, or use it so")
        if against is not None:
            self._whole, self._whole_ms, self._measured_ms = against._whole, against._whole_ms, against._measured_ms
            return
        self._whole = deployable(self.whole.network)
        self._whole_ms = {target: self._predictors[target].rest_ms(self.whole, {}) for target in profiles}
        self._measured_ms = {target: profile.end_to_end.ms for target, profile in profiles.items()}

    def without_blocks(self, rest: ChannelGraph) -> Rig:
        """Return what predicts and measures the network without some blocks, still against the whole one.

        Args:
            rest: The channel graph of the network without them.
        """
        return Rig(rest, self.profiles, self.needed, self.seconds, self.whole)

    def with_other_layers(self, graph: ChannelGraph, profiles: Mapping[Target, DeviceProfile]) -> Rig:
        """Return what predicts and measures a network in which a method replaced layers, still against the whole one.

        Args:
            graph: The channel graph of that network.
            profiles: Its own device profile by target.
        """
        own = {target: profiles[target] for target in self.profiles}
        return Rig(graph, own, self.needed, self.seconds, against=self)

    @cached_property
    def multiples(self) -> dict[str, int]:
        """What good widths of each set are multiples of: the largest step of the layers that make or take its channels.

        Within a step channels cost nothing, so a width that uses it up is as fast as a smaller one. A narrow set has
        finer multiples, so that there is a choice.
        """
        layers = {layer.name: layer for layer in self.graph.layers}
        found = {}
        for one in self.graph.prunable:
            ends = [(name, "out") for name in one.producers] + [(name, "in") for name in one.consumers]
            step = max(p.step(layers[name].op, axis) for p in self.profiles.values() for name, axis in ends)
            found[one.name] = max(LEAST_MULTIPLE, min(step, one.width // CHOICES // LEAST_MULTIPLE * LEAST_MULTIPLE))
        return found

    def predict_ms(self, target: Target, widths: Mapping[str, int]) -> float:
        """Return the predicted latency on a target, ms, of the network with the given widths by set."""
        return self._predictors[target].rest_ms(self.graph, widths)

    def predicted_speedup(self, widths: Mapping[str, int]) -> float:
        """Return the predicted speedup of the network with the given widths by set.

        Of several targets the one furthest from what it needs counts, in such units that `goal` is enough for all.
        """
        return self._least({target: self._whole_ms[target] / self.predict_ms(target, widths) for target in self.needed})

    def budget_ms(self, speedup: float) -> dict[Target, float]:
        """Return the predicted latency of each target, ms, with which `predicted_speedup` is as given."""
        return {target: ms * self.goal / self.needed[target] / speedup for target, ms in self._whole_ms.items()}

    def measured_speedup(self, keep: Keep) -> float:
        """Prune, deploy, run and return the speedup, counted as in `predicted_speedup`."""
        return self._least(self._measure(keep))

    @cached_property
    def _predictors(self) -> dict[Target, Predictor]:
        return {target: Predictor(profile, self.whole) for target, profile in self.profiles.items()}

    def _least(self, speedups: Mapping[Target, float]) -> float:
        return min(speedup * self.goal / self.needed[target] for target, speedup in speedups.items())

    def _measure(self, keep: Keep) -> dict[Target, float]:
        pruned = deployable(remove_channels(self.graph, keep))
        return {target: self._speedup_on(target, pruned) for target in self.profiles}

    def _measure_unless_plenty(self, keep: Keep) -> dict[Target, float]:
        if self.predicted_speedup(widths_of(keep)) >= PLENTY * self.goal:
            return dict.fromkeys(self.profiles, math.inf)
        return self._measure(keep)

    def fastest(self, scores: Scores) -> Keep:
        """Return each set's strongest channels at the widths that are predicted to be fastest."""
        problem = width_problem(self.graph, scores, self.profiles, self.multiples, {})
        return keep_counts(self.graph, scores, fastest(problem, self.budget_ms(self.goal)).widths)

    def reach(self, scores: Scores) -> float:
        """Measure the speedup of the fastest widths; infinity where predictions leave no doubt that it is enough."""
        return self._least(self._measure_unless_plenty(self.fastest(scores)))

    def check_reach(self, scores: Scores) -> None:
        """Measure the fastest and the narrowest widths, unless predictions leave no doubt that they are fast enough.

        Args:
            scores: One score per channel of every prunable set.

        Raises:
            BudgetInfeasible: Both are clearly too slow, with the latency of the faster ones on each target.
        """
        floors = {name: rounded_width(0, len(values), self.multiples[name]) for name, values in scores.items()}
        measured = []
        for keep in (self.fastest(scores), keep_counts(self.graph, scores, floors)):
            measured.append(self._measure_unless_plenty(keep))
            if self._least(measured[-1]) >= DOUBT * self.goal:
                return
        raise self._infeasible(max(measured, key=self._least), self.goal)

    def steer(
        self,
        keep_at: Callable[[float], Keep],
        description: str,
        goal: float | None = None,
        known: Steered | None = None,
    ) -> Steered:
        """Turn a knob until the measured speedup is the goal, see `compress.select.steer_to_goal`.

        Args:
            keep_at: The channels that a setting in [0, 1] keeps; a higher setting keeps no more.
            description: For the progress bar.
            goal: Another goal than the targets' own.
            known: A choice that was measured before, and is not again where the knob comes to it.

        Raises:
            BudgetInfeasible: Even setting 1 is too slow, with the fastest latency of each target.
        """
        goal = goal or self.goal
        with progress_bar(MEASUREMENTS, description, "cuts measured") as bar:

            def predicted(keep: Keep) -> float:
                return self.predicted_speedup(widths_of(keep)) / goal

            def measured(keep: Keep) -> float:
                speedup = self.measured_speedup(keep) / goal
                bar.update()
                return speedup

            try:
                return steer_to_goal(keep_at, predicted, measured, known)
            except BudgetInfeasible as error:
                raise self._infeasible(self._measure(keep_at(1.0)), goal) from error

    def _infeasible(self, speedups: Mapping[Target, float], goal: float) -> BudgetInfeasible:
        whole_ms = self._measured_ms
        reached = ", ".join(
            f"{target.name} {whole_ms[target] / speedup:.3g} ms of "
            f"{whole_ms[target] / (self.needed[target] * goal / self.goal):.3g} ms asked for"
            for target, speedup in speedups.items()
        )
        gone = len(self.whole.layers) - len(self.graph.layers)
        floor = f"its floor and {gone} of {len(self.whole.layers)} layers gone" if gone else "its floor"
        return BudgetInfeasible(
            f"the budget is out of reach: with every width at {floor} the network takes: {reached}; allow more time, "
            "or start from a narrower network"
        )

    def _speedup_on(self, target: Target, pruned: Network) -> float:
        measured = measure_latencies({"whole": self._whole, "pruned": pruned}, target, self.seconds, 1.0)
        return measured["whole"].ms / measured["pruned"].ms


def widths_of(keep: Keep) -> dict[str, int]:
    """Return the number of kept channels by set."""
    return {name: len(kept) for name, kept in keep.items()}


@dataclass(frozen=True)
class Cut:
    """What is kept and why.

    Attributes:
        keep: Kept indices by set.
        own: How many channels the method itself chose, by set; empty where it makes no choice.
        threshold: On the scores, before channels were given back; None where the method's own choice or the solver made
            the cut.
        speedup: Measured when the cut was chosen, counted as in `Rig.predicted_speedup`.
        measurements: How many cuts were measured on the way.
    """

    keep: Keep
    own: Mapping[str, int]
    threshold: float | None
    speedup: float
    measurements: int

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "keep": {name: kept.tolist() for name, kept in self.keep.items()},
            "own": dict(self.own),
            "threshold": self.threshold,
            "speedup": self.speedup,
            "measurements": self.measurements,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cut:
        """Read what `to_json` returned."""
        return cls(
            keep={name: np.asarray(kept, np.int64) for name, kept in data["keep"].items()},
            own=data["own"],
            threshold=data["threshold"],
            speedup=data["speedup"],
            measurements=data["measurements"],
        )


def cut_scores(scores: Scores, chosen: Keep | None, rig: Rig, selection: Selection = "threshold") -> Cut:
    """Cut as the method chose; where that is not fast enough, deeper.

    Args:
        scores: One score per channel of every prunable set, comparable between sets.
        chosen: The method's own choice, of which the counts are taken, and which channels from the scores; None, or
            sets that are missing, where it makes none.
        rig: Predicts and measures, and knows the goal.
        selection: How to cut deeper. "threshold": below a common score. "solver": so that what is kept adds up to the
            most that fits the predicted latency on every target, which scores that are only ranks, or over their mean
            in each layer, are no measure for: it takes most from the layers whose channels take longest, and those are
            the few that matter most. What either takes too much, because runtimes gain in steps, is given back.

    Raises:
        BudgetInfeasible: Nothing reaches the goal.
    """
    own, threshold = widths_of(chosen or {}), None
    if not scores:  # whatever could be narrowed went with the blocks
        steered = rig.steer(lambda _: {}, "cut")
    else:
        knob = _solved(scores, own, rig) if selection == "solver" else _shared_threshold(scores, own, rig)
        steered = rig.steer(knob, "cut")
        if selection == "threshold" and steered.setting > 0:
            threshold = threshold_at(steered.setting, scores)
        if not steered.on_goal:
            steered = _given_back(steered, scores, threshold, widths_of(knob(0.0)), rig)
    return Cut(steered.keep, own, threshold, steered.speedup * rig.goal, steered.measurements)


def _given_back(
    found: Steered, scores: Scores, threshold: float | None, widest: Mapping[str, int], rig: Rig
) -> Steered:
    """Give back what a cut took beyond the goal, because in a runtime a set narrows in large steps.

    Again and again the set that has lost most in its last step gets it back, of those that fit the latency that is left
    by what is predicted: first safely, then perhaps. How many of these steps there can be is steered by measuring.

    Args:
        found: What the cut kept.
        scores: One score per channel of every prunable set.
        threshold: That took them: a step is worth its highest score. None where scores add up: it is worth their sum.
        widest: What each set may have at most.
        rig: Predicts and measures, and knows the goal.
    """
    on_goal = rig.predicted_speedup(widths_of(found.keep)) / found.speedup  # as if predictions erred by a factor
    stages = [found.keep]
    for margin in MARGINS:
        stages += _widened(stages[-1], scores, threshold, widest, rig, margin * on_goal)
    if len(stages) == 1:
        return found
    stages.reverse()
    last = len(stages) - 1
    steered = rig.steer(lambda setting: stages[round(setting * last)], "give back", known=found)
    return replace(steered, setting=found.setting)


def _widened(
    keep: Keep,
    scores: Scores,
    threshold: float | None,
    widest: Mapping[str, int],
    rig: Rig,
    fast_enough: float,
) -> list[Keep]:
    """Widen set after set by a step, as long as the predicted speedup allows it; return every choice on the way."""
    worthless, worth = (0.0, np.sum) if threshold is None else (WORTH * threshold, np.max)
    ranked = {name: np.sort(values)[::-1] for name, values in scores.items()}
    stages, left = [keep], list(keep)
    while True:
        widths = widths_of(stages[-1])
        wider = {name: rounded_width(widths[name] + 1, widest[name], rig.multiples[name]) for name in left}
        lost = {name: ranked[name][widths[name] : wider[name]] for name in left if widths[name] < widest[name]}
        left = [name for name, step in lost.items() if step[0] > worthless]
        if not left:
            return stages[1:]
        name = max(left, key=lambda one, lost=lost: float(worth(lost[one])))
        kept = keep_counts(rig.graph, scores, widths | {name: wider[name]})
        if rig.predicted_speedup(widths_of(kept)) >= fast_enough:
            stages.append(kept)
        else:
            left.remove(name)


def _shared_threshold(scores: Scores, own: Mapping[str, int], rig: Rig) -> Callable[[float], Keep]:
    """Make a knob of the threshold: at 0 the method's own choice, at 1 every width at its floor."""

    def keep_at(setting: float) -> Keep:
        widths = widths_above(scores, own, threshold_at(setting, scores), rig.multiples)
        return keep_counts(rig.graph, scores, widths)

    return keep_at


def _solved(scores: Scores, own: Mapping[str, int], rig: Rig) -> Callable[[float], Keep]:
    """Make a knob of the budgets: at 0 those that the method's own choice just fits, at 1 those of the fastest one."""
    problem = width_problem(rig.graph, scores, rig.profiles, rig.multiples, own)
    slow = rig.predicted_speedup(problem.widths(problem.widest))
    fast = max(slow, rig.predicted_speedup(fastest(problem, rig.budget_ms(1.0)).widths))

    @cache
    def keep_at(budget: int) -> Keep:
        speedup = slow * (fast / slow) ** (budget / BUDGETS)
        return keep_counts(rig.graph, scores, solve(problem, rig.budget_ms(speedup)).widths)

    return lambda setting: keep_at(math.ceil(setting * BUDGETS))


def cut_uniform(scores: Scores, rig: Rig, goal: float) -> Cut:
    """Keep the same share of every layer, the strongest channels: the yardstick at the same measured latency.

    Where the network that it is compared with is as narrow as can be, so is the yardstick, whatever a second
    measurement says.
    """

    def keep_at(setting: float) -> Keep:
        return keep_counts(rig.graph, scores, uniform_widths(scores, 1 - setting, rig.multiples))

    try:
        steered = rig.steer(keep_at, "uniform cut", goal)
    except BudgetInfeasible:
        narrowest = keep_at(1.0)
        return Cut(narrowest, {}, None, rig.measured_speedup(narrowest), MEASUREMENTS)
    return Cut(steered.keep, {}, None, steered.speedup * goal, steered.measurements)


def cut_at_random(graph: ChannelGraph, like: Keep, seed: int) -> Keep:
    """Keep as many channels of every set as `like` does, drawn at random: what a cut must beat."""
    generator = np.random.default_rng(seed)
    scores = {name: generator.random(graph.sets[name].width) for name in like}
    return keep_counts(graph, scores, widths_of(like))
