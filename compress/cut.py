"""Where to cut: as the method itself chose, and where that is not fast enough, at a threshold that meets the goal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from compress.export import deployable
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Network
from compress.graph.surgery import remove_channels
from compress.select import LEAST_MULTIPLE, MEASUREMENTS, Steered, keep_above, keep_uniform, steer_to_goal, threshold_at
from compress.validate import measure_latencies
from device_profiles.predict import predict
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target
from runtimes.progress import progress_bar

Scores = Mapping[str, Float[np.ndarray, " channels"]]

CHOICES = 4  # widths that a set must be able to choose from


class Rig:
    """Predicts and measures how much faster a choice of channels makes a network, on the slowest of its targets.

    Args:
        graph: The channel graph of the whole network.
        profiles: The device profile of the whole network by target.
        seconds: How long to measure on each target, each time.
    """

    def __init__(self, graph: ChannelGraph, profiles: Mapping[Target, DeviceProfile], seconds: float) -> None:
        self.graph = graph
        self.profiles = profiles
        self.seconds = seconds
        self._whole = deployable(graph.network)
        self._whole_ms = {target: self.predict_ms(target, {}) for target in profiles}

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
            found[one.name] = max(LEAST_MULTIPLE, min(step, one.width // CHOICES))
        return found

    def predict_ms(self, target: Target, widths: Mapping[str, int]) -> float:
        """Return the predicted latency on a target, ms, of the network with the given widths by set."""
        return predict(self.profiles[target], self.graph.layer_widths(widths)).ms

    def predicted_speedup(self, widths: Mapping[str, int]) -> float:
        """Return the predicted speedup on the slowest target of the network with the given widths by set."""
        return min(self._whole_ms[target] / self.predict_ms(target, widths) for target in self.profiles)

    def measured_speedup(self, keep: Keep) -> float:
        """Prune, deploy, run and return the speedup on the slowest target."""
        pruned = deployable(remove_channels(self.graph, keep))
        return min(self._speedup_on(target, pruned) for target in self.profiles)

    def steer(self, keep_at: Callable[[float], Keep], goal: float, description: str) -> Steered:
        """Turn a knob until the measured speedup is `goal`, see `compress.select.steer_to_goal`."""
        with progress_bar(MEASUREMENTS, description, "cuts measured") as bar:

            def measured(keep: Keep) -> float:
                speedup = self.measured_speedup(keep) / goal
                bar.update()
                return speedup

            return steer_to_goal(keep_at, lambda keep: self.predicted_speedup(widths_of(keep)) / goal, measured)

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
        threshold: On the scores; None where the method's own choice made the cut.
        speedup: Measured on the slowest target when the cut was chosen.
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


def cut_scores(scores: Scores, chosen: Keep | None, rig: Rig, goal: float) -> Cut:
    """Cut as the method chose; where that is not fast enough, at the lowest common threshold that is.

    Args:
        scores: One score per channel of every prunable set, comparable between sets.
        chosen: The method's own choice; None, or sets that are missing, where it makes none.
        rig: Predicts and measures.
        goal: The speedup to reach on the slowest target.

    Raises:
        BudgetInfeasible: No threshold reaches the goal.
    """
    own = widths_of(chosen or {})
    steered = rig.steer(
        lambda setting: keep_above(scores, own, threshold_at(setting, scores), rig.multiples), goal, "cut"
    )
    threshold = threshold_at(steered.setting, scores)
    return Cut(
        steered.keep,
        own,
        threshold if math.isfinite(threshold) else None,
        steered.speedup * goal,
        steered.measurements,
    )


def cut_uniform(scores: Scores, rig: Rig, goal: float) -> Cut:
    """Keep the same share of every layer, the strongest channels: the yardstick at the same measured latency.

    Raises:
        BudgetInfeasible: No share reaches the goal.
    """
    steered = rig.steer(lambda setting: keep_uniform(scores, 1 - setting, rig.multiples), goal, "uniform cut")
    return Cut(steered.keep, {}, None, steered.speedup * goal, steered.measurements)


def cut_at_random(like: Keep, scores: Scores, seed: int) -> Keep:
    """Keep as many channels of every set as `like` does, drawn at random: what a cut must beat."""
    generator = np.random.default_rng(seed)
    return {name: np.sort(generator.choice(len(scores[name]), len(kept), replace=False)) for name, kept in like.items()}
