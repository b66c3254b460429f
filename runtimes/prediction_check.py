"""How well a profile predicts networks that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement
from device_profiles.predict import predict
from device_profiles.profile import DeviceProfile
from runtimes.bundled.interference import SHIFT
from runtimes.carve import carve
from runtimes.in_context import WidthVariant, measure_end_to_end, references_of
from runtimes.partial_profile import PartialProfile
from runtimes.shapes import with_shapes
from runtimes.timing import Effort

CLOSE_PERCENT = 5.0
REFERENCES = 12  # one network tells the level to 1 or 2 %; from three, the level was off by as much as the predictions
# From one load to the next, networks varied by 1.5 % (MobileNetV2, OpenVINO) to 2.4 % (UNet-64, bf16, 2 threads), while
# OpenVINO still read inputs that had been freed.
LOADS = 3
MOST_LOADS = 6  # where some were disturbed: with two threads a load once took 1.6 times as long as the two after it
LOAD_ROUNDS = 5  # of each load, at least
NOT_KEPT = PartialProfile(None, "")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Predicted against measured latencies.

    Attributes:
        predicted_ms: One for each network.
        measured_ms: One for each network.
    """

    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]

    @property
    def errors_percent(self) -> Array:
        """How far each prediction is off, without its sign, in percent of the measurement."""
        return np.asarray(100 * np.abs(np.asarray(self.predicted_ms) / np.asarray(self.measured_ms) - 1))

    @property
    def median_percent(self) -> float:
        """The error that half of the networks stay below."""
        return float(np.median(self.errors_percent))

    @property
    def worst_percent(self) -> float:
        """The largest error."""
        return float(self.errors_percent.max())

    @property
    def close_percent(self) -> float:
        """How many of a hundred networks are predicted within `CLOSE_PERCENT`."""
        return 100 * float(np.mean(self.errors_percent <= CLOSE_PERCENT))

    @property
    def spearman(self) -> float:
        """Rank correlation: 1 where the predictions order the networks as the measurements do."""
        ranks = [np.argsort(np.argsort(values)) for values in (self.predicted_ms, self.measured_ms)]
        return float(np.asarray(np.corrcoef(ranks))[0, 1])


@dataclass(frozen=True)
class PredictionCheck:
    """What a check found.

    Attributes:
        best: What `predict` says, at the level of the machine when the networks were measured.
        unlevelled: What `predict` says as it is.
        isolated: Isolated layers added up, levelled by the full network; None without narrow layers in the profile.
        macs: The full network's latency times the share of its multiplications.
        held_percent: How many of a hundred networks lay within the interval of `best`.
        level: The machine's level then over its level when the profile was measured.
        full_ms: The full network's latency then.
        others: Share of the usable cores that other processes took then, in [0, 1].
    """

    best: Comparison
    unlevelled: Comparison
    isolated: Comparison | None
    macs: Comparison
    held_percent: float
    level: float
    full_ms: float
    others: float

    def rows(self) -> dict[str, Comparison]:
        """Name -> comparison, for tables."""
        isolated = {"isolated layers": self.isolated} if self.isolated else {}
        return {"this profile": self.best, "as it is": self.unlevelled, **isolated, "by MACs": self.macs}

    def to_json(self) -> dict[str, float | int | None]:
        """Return the numbers that a check is judged by."""
        return {
            "networks": len(self.best.measured_ms),
            "median_error_percent": self.best.median_percent,
            "worst_error_percent": self.best.worst_percent,
            "within_5_percent": self.best.close_percent,
            "spearman": self.best.spearman,
            "within_interval_percent": self.held_percent,
            "level": self.level,
            "others_percent": 100 * self.others,
            "unlevelled_median_error_percent": self.unlevelled.median_percent,
            "unlevelled_within_5_percent": self.unlevelled.close_percent,
            "isolated_median_error_percent": self.isolated.median_percent if self.isolated else None,
            "isolated_spearman": self.isolated.spearman if self.isolated else None,
            "macs_median_error_percent": self.macs.median_percent,
            "macs_spearman": self.macs.spearman,
        }


def check_prediction(
    profile: DeviceProfile, profiled: Sequence[WidthVariant], networks: Sequence[WidthVariant], effort: Effort
) -> PredictionCheck:
    """Measure networks that a profile has not seen, in one session with some that it has.

    The machine is never at the same level twice: networks that were profiled are measured again to find out what
    changed since. What was measured in context is levelled by those of usual size; isolated layers and MACs by the
    full network, which is all that they know. All networks are loaded `LOADS` times, each in another order; loads
    that were disturbed do not count, and are repeated.

    Args:
        profile: What predicts.
        profiled: The network at full width, and the others that the profile was measured with, in their order.
        networks: At least two.
        effort: How long to measure.

    Raises:
        BadInput: There are too few networks.
        UnsupportedModel: The runtime cannot run one of them.
    """
    if len(networks) < 2:
        raise BadInput(f"networks (={len(networks)}) must be at least 2; 20 are of use")
    references = references_of(profiled, REFERENCES) if profile.in_context is not None else []
    together = [profiled[0], *(profiled[i] for i in references), *networks]
    seen = len(references) + 1
    shared = references_of(together[:seen]) if references else [0]  # by every sitting
    loads: list[list[Measurement]] = []
    while len(_calm(loads)) < LOADS and len(loads) < MOST_LOADS:
        own = replace(effort, budget_s=effort.budget_s / LOADS, seed=effort.seed + len(loads))
        loads.append(measure_end_to_end(together, shared, profile.target, own, NOT_KEPT, LOAD_ROUNDS))
    loads = _calm(loads)
    found_ms = np.mean([[each.ms for each in load] for load in loads], axis=0).tolist()
    full_ms, measured_ms = found_ms[0], tuple(found_ms[seen:])
    full_level = full_ms / profile.end_to_end.ms
    level = full_level
    if profile.in_context is not None:
        before = [profile.in_context.variants[i].end_to_end.ms for i in references]
        level = float(np.median([now / then for now, then in zip(found_ms[1:seen], before, strict=True)]))
    predictions = [predict(profile, network.widths) for network in networks]
    held = [p.low_ms * level <= ms <= p.high_ms * level for p, ms in zip(predictions, measured_ms, strict=True)]
    macs = [_macs(network) for network in (profiled[0], *networks)]
    isolated = None
    if any(len(layer.measurements) > 1 for layer in profile.layers):
        alone = replace(profile, in_context=None)
        isolated = [predict(alone, network.widths).ms * full_level for network in networks]
    best = [prediction.ms * level for prediction in predictions]
    return PredictionCheck(
        best=Comparison(tuple(best), measured_ms),
        unlevelled=Comparison(tuple(prediction.ms for prediction in predictions), measured_ms),
        isolated=Comparison(tuple(isolated), measured_ms) if isolated else None,
        macs=Comparison(tuple(full_ms * each / macs[0] for each in macs[1:]), measured_ms),
        held_percent=100 * float(np.mean(held)),
        level=level,
        full_ms=full_ms,
        others=max(measurement.others or 0.0 for load in loads for measurement in load),
    )


def _calm(loads: Sequence[list[Measurement]]) -> list[list[Measurement]]:
    """Leave out the loads in which most networks took much longer than in the best one."""
    ms = np.asarray([[each.ms for each in load] for load in loads])
    levels = np.median(ms / ms.min(axis=0), axis=1) if loads else ms
    return [load for load, level in zip(loads, levels, strict=True) if level <= SHIFT * levels.min()]


def _macs(variant: WidthVariant) -> int:
    return sum(subgraph.macs for subgraph in carve(with_shapes(variant.build(), {})))
