"""What became of each layer: its channels, where they were cut, and what that bought."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

LARGEST_GAP = 1e9  # a gap above norms that are exactly zero is infinite, which JSON cannot hold

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Gap = Annotated[float, BeforeValidator(lambda gap: min(gap, LARGEST_GAP))]


@dataclass(frozen=True, config=_STRICT)
class LayerLatency:
    """One layer run by itself on one target, at its width before and after pruning."""

    before_ms: float
    after_ms: float


@dataclass(frozen=True, config=_STRICT)
class LayerPart:
    """One layer's part of the whole network's latency on one target, before and after pruning.

    Measured by the runtime's own profiler, in such shares that the layers add up to the network; a layer that the
    runtime computes together with another one has no part.
    """

    before_ms: float
    after_ms: float
    predicted_saving_ms: float  # what the profile said

    @property
    def saving_ms(self) -> float:
        """What the cut bought here, measured; below zero where the layer became slower."""
        return self.before_ms - self.after_ms


@dataclass(frozen=True, config=_STRICT)
class LayerResult:
    """One weighted layer: its widths, its sorted channel curves and where they were cut.

    The curves are the method's scores, largest first; where these are norms, the baseline's norms stand beside them. A
    layer whose channels cannot be pruned has no curves; one that went with its block has neither curves nor widths.
    """

    name: str
    op: str
    width_before: int
    width_after: int
    width_in_before: int
    width_in_after: int
    curve_before: tuple[float, ...] = ()  # of the baseline
    curve_after: tuple[float, ...] = ()  # of the condensed network: what was cut
    kept: tuple[int, ...] = ()  # ranks along curve_after that were kept; empty: the first width_after
    hinge: int | None = None  # channels that the method itself keeps: above the hinge; None: it makes no choice here
    gap: _Gap | None = None  # largest ratio between neighbours of curve_after, hinge or not; DECIG only
    threshold: float | None = None  # the score below which channels were cut, but for what was given back
    dead: bool = False  # every channel of the condensed network is near zero
    latency_ms: dict[str, LayerLatency] = field(default_factory=dict)  # by target name
    parts: dict[str, LayerPart] = field(default_factory=dict)  # by target name, where the runtime's profiler is read

    @property
    def cut_by(self) -> Literal["hinge", "threshold", "solver", "nothing", "block"]:
        """What decided the width: the method's own choice (rounded up), a threshold or solver steered to the goal.

        Or nothing; or its whole block went.
        """
        if not self.width_after:
            return "block"
        if self.width_after == self.width_before:
            return "nothing"
        if self.hinge is None or self.hinge > self.width_after:
            return "solver" if self.threshold is None else "threshold"
        return "hinge"
