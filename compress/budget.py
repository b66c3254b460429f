"""How fast one network is to become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from device_profiles.target import Target


@dataclass(frozen=True)
class Budget:
    """What one network is to reach on each of its targets: a speedup, or a latency by runtime.

    Attributes:
        runtimes: The targets that it is for; what it takes on others does not matter.
        speedup: Least speedup on each; this or `budget_ms`.
        budget_ms: Runtime -> latency; targets that are missing only have to become no slower.
        place: Where its files go inside the run's folder: "sweep/2x"; empty for the run's own.
    """

    runtimes: tuple[str, ...]
    speedup: float | None = None
    budget_ms: Mapping[str, float] = field(default_factory=dict)
    place: str = ""

    @property
    def key(self) -> str:
        """What its network is called in the results: "sweep-2x", and "pruned" for the run's own."""
        return self.place.replace("/", "-") or "pruned"

    @property
    def swept(self) -> bool:
        """Whether it is one of a sweep's."""
        return self.place.startswith("sweep/")

    def step(self, name: str) -> str:
        """Name a step of the run that is taken for this budget alone."""
        return f"{name} {self.key}" if self.place else name

    def needed_speedup(self, target: Target, whole_ms: float) -> float:
        """Return how much faster the network must become on a target where it takes `whole_ms` as it is."""
        if self.speedup is not None:
            return self.speedup
        return max(1.0, whole_ms / self.budget_ms[target.runtime]) if target.runtime in self.budget_ms else 1.0

    def __str__(self) -> str:
        """Say it in words."""
        if self.speedup is not None:
            return f"{self.speedup:g} times as fast"
        return ", ".join(f"{ms:g} ms on {name}" for name, ms in self.budget_ms.items()) or "no slower"
