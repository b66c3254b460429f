"""A device profile: the latency of a network and of each of its layers, l(i), on one target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from device_profiles.environment import Environment
from device_profiles.errors import BadInput, ProfileMismatch
from device_profiles.in_context import InContext
from device_profiles.measurement import Measurement
from device_profiles.steps import Axis, StepProbe
from device_profiles.target import Target
from device_profiles.terms import Widths

# As in runtimes/bundled/interference.py: half of what one other process takes of two cores, and a shift of the level.
BUSY_SHARE, STRETCHED = 0.25, 1.15


@dataclass(frozen=True)
class LayerProfile:
    """The isolated latency of one layer by its widths.

    Args:
        name: The layer's name, `runtimes.layers.WeightedLayer.name`.
        op: Its operator, such as "Conv".
        in_channels: Full width of its input.
        out_channels: Full width of its output.
        measurements: (width in, width out) -> latency of the layer's own subgraph; holds the full widths at least.
    """

    name: str
    op: str
    in_channels: int
    out_channels: int
    measurements: Mapping[Widths, Measurement]

    def __post_init__(self) -> None:
        full = (self.in_channels, self.out_channels)
        if full not in self.measurements:
            raise BadInput(f"layer {self.name!r} has no measurement at its full width {full}; measure it there too")

    @property
    def full(self) -> Measurement:
        """The latency at full width, l(i)."""
        return self.measurements[self.in_channels, self.out_channels]


@dataclass(frozen=True)
class DeviceProfile:
    """What was measured, on what, and how.

    Args:
        target: The runtime and its settings, with its version.
        environment: The machine.
        model_name: What the user calls the network.
        model_sha256: Hash of the ONNX file's bytes that were profiled.
        input_shapes: Graph input -> shape, batch included.
        layers: In the order in which the network runs them.
        end_to_end: The whole network at full width, measured interleaved with its layers.
        created: When it was finished, ISO 8601 in UTC.
        command: What was run, to run it again.
        seconds: How long measuring took.
        probes: How latency moves from one channel to the next, for the heaviest layers of each operator.
        in_context: What layers take inside the network at uneven widths, where that was measured.
    """

    target: Target
    environment: Environment
    model_name: str
    model_sha256: str
    input_shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[LayerProfile, ...]
    end_to_end: Measurement
    created: str
    command: str
    seconds: float
    probes: tuple[StepProbe, ...] = ()
    in_context: InContext | None = None

    def __post_init__(self) -> None:
        full = {layer.name: (layer.in_channels, layer.out_channels) for layer in self.layers}
        if self.in_context is not None and self.in_context.full != full:
            other = sorted(name for name, _ in self.in_context.full.items() ^ full.items())
            raise BadInput(
                f"layers {', '.join(other)} of {self.model_name!r} are others in isolation than in context; give the "
                "same network to both, with its constants folded"
            )

    def latencies_ms(self) -> dict[str, float]:
        """Return l(i), the isolated latency of each layer at full width, ms."""
        return {layer.name: layer.full.ms for layer in self.layers}

    def step(self, op: str, axis: Axis) -> int:
        """Return how many channels of an operator cost as much as one; 1 where that is not known.

        Where the probes of several layers disagree, the smallest step holds.
        """
        return min((probe.step for probe in self.probes if (probe.op, probe.axis) == (op, axis)), default=1)

    @property
    def isolated_sum_ms(self) -> float:
        """Sum of l(i) over the layers; the whole network is faster or slower than this (see `predict`)."""
        return sum(self.latencies_ms().values())

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Everything that was measured, whole networks first."""
        variants = self.in_context.variants if self.in_context is not None else ()
        layers = (measurement for layer in self.layers for measurement in layer.measurements.values())
        probes = (measurement for probe in self.probes for measurement in probe.measurements.values())
        return (self.end_to_end, *(variant.end_to_end for variant in variants), *layers, *probes)

    @property
    def discarded_percent(self) -> float:
        """The share of all rounds in which something slowed the machine down, and which do not count."""
        discarded = sum(measurement.discarded for measurement in self.measurements)
        return 100 * discarded / (discarded + sum(measurement.n for measurement in self.measurements))

    @property
    def note(self) -> str:
        """What disturbed the measuring, in words; empty where nothing did that is known."""
        found = []
        others = max((measurement.others or 0.0 for measurement in self.measurements), default=0.0)
        if others > BUSY_SHARE:
            found.append(f"other processes took up to {100 * others:.0f} % of the cores while this was measured")
        if self.discarded_percent > 0:
            found.append(f"{self.discarded_percent:.1f} % of the rounds were slower than the others and do not count")
        if self.in_context is not None and self.in_context.stretch > STRETCHED:
            found.append(
                f"operators took up to {self.in_context.stretch:.1f} times as long as their network when timed"
            )
        return "; ".join(found)

    def check_matches(
        self,
        *,
        target: Target | None = None,
        environment: Environment | None = None,
        model_sha256: str | None = None,
        allow: Collection[str] = (),
    ) -> None:
        """Refuse to be used for something else than what was measured.

        Args:
            target: The target at hand; its version is compared where both are known.
            environment: The machine at hand; the version installed there counts where the target names none.
            model_sha256: Hash of the network at hand.
            allow: Names of differences that the caller accepts: "runtime", "device", "precision", "threads",
                "batch", "version", "machine", "model".

        Raises:
            ProfileMismatch: Something that is not in `allow` differs; the message names all of it.
        """
        pairs: dict[str, tuple[object, object]] = {}
        if target is not None:
            for field in ("runtime", "device", "precision", "threads", "batch"):
                pairs[field] = (getattr(self.target, field), getattr(target, field))
        installed = environment.versions.get(self.target.runtime, "") if environment is not None else ""
        version = (target.version if target is not None else "") or installed
        if self.target.version and version:
            pairs["version"] = (self.target.version, version)
        if environment is not None and environment.fingerprint != self.environment.fingerprint:
            pairs["machine"] = (_machine(self.environment), _machine(environment))
        if model_sha256 is not None:
            pairs["model"] = (self.model_sha256[:12], model_sha256[:12])
        wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in allow}
        if wrong:
            listed = "; ".join(f"{name} is {there}, here it is {here}" for name, (there, here) in wrong.items())
            raise ProfileMismatch(
                f"the profile of {self.model_name!r} on {self.target.name} does not fit: {listed}. "
                f"Profile again here, or allow {', '.join(wrong)} by name"
            )


def _machine(environment: Environment) -> str:
    return f"{environment.cpu_model} ({environment.cores} cores, {environment.fingerprint[:6]})"
