"""What one run found: the numbers behind `report.html`, `summary.json` and every figure, as one frozen record.

A run fills a `Results` when it has measured everything; `compress.report.store` writes it to `results.json`. The report
and the summary are functions of it, the profiles and the sample images alone, so they can be rebuilt at any time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, JsonValue, PlainSerializer
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from compress.report.layers import LayerResult
from device_profiles.json_form import from_json, to_json
from device_profiles.measurement import Measurement

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _measured(value: object) -> Measurement:
    return value if isinstance(value, Measurement) else from_json(Measurement, value, "latency")


_Measured = Annotated[Measurement, BeforeValidator(_measured), PlainSerializer(to_json)]
# Nested settings in the form they have in JSON, whatever they are made of: dataclasses, tuples, paths.
_Settings = Annotated[dict[str, JsonValue], BeforeValidator(to_jsonable_python)]


@dataclass(frozen=True, config=_STRICT)
class Metric:
    """The task's quality number: its name ("L1"), its unit ("of 255", "dB", "" for none) and which way is better."""

    name: str
    unit: str
    higher_is_better: bool
    repeats: str = ""  # what `NetworkResult.quality_repeats` repeat: "4 held-out sets of 64 images", "3 seeds"


@dataclass(frozen=True, config=_STRICT)
class Method:
    """The pruning method, in the paper's name, and its settings as they were run."""

    name: str
    settings: _Settings
    teacher: Literal["original", "condensed", "none"]
    source: str = ""  # the paper: authors, year, arXiv id
    score: str = "folded norm"  # what its scores are


@dataclass(frozen=True, config=_STRICT)
class Trivial:
    """What an answer is worth that nothing was learned for: its name ("bicubic upscaling") and its quality."""

    name: str
    quality: float


@dataclass(frozen=True, config=_STRICT)
class NetworkResult:
    """One network of the run; `quality` is the held-out mean computed with torch.

    `quality_by_image` holds the held-out images in one order for all networks (empty for a metric of sets), so that two
    networks are compared image by image. `widths` maps a layer to its number of output channels.
    """

    key: str  # "baseline", "pruned", "uniform", "quarter": how the rest of the record refers to it
    label: str
    parameters: int
    macs: int
    onnx_bytes: int
    steps_trained: int
    quality: float
    widths: dict[str, int]
    quality_repeats: tuple[float, ...] = ()
    quality_by_image: tuple[float, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class ParityResult:
    """How far the runtime's outputs are from torch's; `relative_error` is the largest one over the output's spread."""

    max_abs_error: float
    relative_error: float
    tolerance: float  # allowed relative_error
    passed: bool


@dataclass(frozen=True, config=_STRICT)
class TargetNetwork:
    """One network on one target: all latencies of a target come from one interleaved run."""

    latency: _Measured
    quality: float | None = None  # held-out mean computed through the runtime
    parity: ParityResult | None = None
    predicted_ms: float | None = None  # what the device profile said before it was measured


@dataclass(frozen=True, config=_STRICT)
class TargetResult:
    """Every network that ran on one target, by `NetworkResult.key`; "baseline" and "pruned" are always there."""

    name: str  # "onnxruntime-cpu": as `device_profiles.target.Target.name`
    version: str
    threads: int
    precision: str
    networks: dict[str, TargetNetwork]
    speedup_goal: float | None = None

    @property
    def baseline_ms(self) -> float:
        """Latency of the network the run started from."""
        return self.networks["baseline"].latency.ms

    @property
    def pruned_ms(self) -> float:
        """Latency of the network the run ends with."""
        return self.networks["pruned"].latency.ms

    @property
    def speedup(self) -> float:
        """baseline_ms / pruned_ms."""
        return self.baseline_ms / self.pruned_ms

    @property
    def stable(self) -> bool:
        """Whether every latency of this target settled."""
        return all(network.latency.stable for network in self.networks.values())


@dataclass(frozen=True, config=_STRICT)
class ProofResult:
    """Removing channels equals zeroing them: the label check and the numeric check in ONNX Runtime."""

    labels_ok: bool
    max_error: float  # over the output's spread
    tolerance: float
    removed_channels: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Both checks hold and something was removed: a pruning of nothing proves nothing."""
        return self.labels_ok and self.max_error <= self.tolerance and self.removed_channels > 0


@dataclass(frozen=True, config=_STRICT)
class BlockResult:
    """A residual branch that went whole."""

    name: str
    layers: tuple[str, ...]
    score_percent: float  # of the scores of all channels: what the channels had without which it is constant
    predicted_saving_ms: dict[str, float]  # by target name: what its layers take at full width, says the profile


@dataclass(frozen=True, config=_STRICT)
class GroupingResult:
    """A convolution that became a grouped one, as it was before channels were removed."""

    name: str
    groups: int
    inputs: int  # that each group reads
    inputs_before: int  # that all filters read
    gathers: bool  # whether its inputs are gathered; without, they come in the order in which its groups read them
    gain: dict[str, float]  # by target name: how many times as fast the layer became by itself, measured


@dataclass(frozen=True, config=_STRICT)
class PruningError:
    """Held-out quality around the cut, before any fine-tuning; `random` removed the same counts, once per draw.

    Where blocks went, all but the condensed network are without them.
    """

    condensed: float
    pruned: float
    recalibrated: float | None = None
    random: tuple[float, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class Phase:
    """One training run's curve; `key` names the step of the run: a network's key, or "condense" and "finetune"."""

    key: str
    label: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    quality_steps: tuple[int, ...] = ()
    quality: tuple[float, ...] = ()  # held out
    tried: dict[str, float] = field(default_factory=dict)  # learning rate -> loss of a short training
    rate: str = ""  # the one that won; in older files it was the one with the least loss
    diverged: tuple[str, ...] = ()  # learning rates at which that became infinite

    def __post_init__(self) -> None:
        """Check that every step has its value."""
        for steps, values, name in ((self.steps, self.loss, "loss"), (self.quality_steps, self.quality, "quality")):
            if len(steps) != len(values):
                raise ValueError(f"phase {self.key!r} has {len(steps)} steps for {len(values)} values of {name}")


@dataclass(frozen=True, config=_STRICT)
class Goal:
    """One promise of the run, in words that fit a table: what, how much was asked for, how much was reached."""

    what: str
    goal: str
    reached: str
    passed: bool


@dataclass(frozen=True, config=_STRICT)
class PointResult:
    """Another budget than the run's own, and the network that was made for it."""

    key: str  # of its network; "baseline" where that keeps the budget, and empty where it is out of reach
    kind: Literal["sweep", "target"]
    budget: str  # in words: "2 times as fast"
    targets: tuple[str, ...]  # that it is for, by name
    kept: bool  # whether it was measured to keep the budget on all of them
    folder: str  # of its model, inside the run's; empty where none was written
    note: str = ""  # why it is out of reach
    steered_to: str = ""  # the budget that stage I was steered to, where it is another one
    proof: ProofResult | None = None
    blocks: tuple[str, ...] = ()  # that went whole
    refused_blocks: dict[str, str] = field(default_factory=dict)  # block -> why it stays though less were lost without
    finetune: Phase | None = None  # how it was trained; its curve is in no figure


@dataclass(frozen=True, config=_STRICT)
class Results:
    """Everything a run found."""

    name: str
    title: str
    task: str
    metric: Metric
    created: str  # ISO 8601, UTC
    command: str
    config: _Settings
    environment: _Settings
    seconds: dict[str, float]  # step -> wall seconds, in order
    method: Method
    networks: tuple[NetworkResult, ...]
    targets: tuple[TargetResult, ...]
    layers: tuple[LayerResult, ...]  # in the network's order
    proof: ProofResult
    goals: tuple[Goal, ...]
    pruning_error: PruningError | None = None
    trivial: Trivial | None = None
    history: tuple[Phase, ...] = ()
    budget: str = ""  # the run's own, in words
    points: tuple[PointResult, ...] = ()
    steered_to: str = ""  # the budget that stage I was steered to, where it is another one than the run's own
    rigid: dict[str, str] = field(default_factory=dict)  # layer -> why the module's code does not let its channels go
    blocks: tuple[BlockResult, ...] = ()  # that went whole from the run's own network
    refused_blocks: dict[str, str] = field(default_factory=dict)  # block -> why it stays though less were lost without
    groupings: tuple[GroupingResult, ...] = ()  # layers that the method made grouped ones

    def __post_init__(self) -> None:
        """Check that what refers to a network or a target finds it."""
        keys = {network.key for network in self.networks}
        if len(keys) != len(self.networks) or not {"baseline", "pruned"} <= keys:
            raise ValueError(f"networks (={[n.key for n in self.networks]}) must be distinct, with baseline and pruned")
        if not self.targets:
            raise ValueError("targets (=()) must hold at least one: a result was measured somewhere")
        for target in self.targets:
            if not {"baseline", "pruned"} <= set(target.networks) <= keys:
                raise ValueError(
                    f"target {target.name!r} ran {sorted(target.networks)}; allowed are {sorted(keys)}, and baseline "
                    "and pruned must be there"
                )
        if strange := {point.key for point in self.points} - keys - {""}:
            raise ValueError(f"points name {sorted(strange)}, which are none of the networks {sorted(keys)}")
        names = {target.name for target in self.targets}
        for layer in self.layers:
            if not set(layer.latency_ms) <= names:
                raise ValueError(f"layer {layer.name!r} was timed on {sorted(layer.latency_ms)}, not all in {names}")

    @property
    def passed(self) -> bool:
        """Whether every goal was reached; a run without goals has not passed."""
        return bool(self.goals) and all(goal.passed for goal in self.goals)

    @property
    def never_slower(self) -> bool:
        """Whether the pruned network is at least as fast as the baseline on every target."""
        return self.is_never_slower("pruned")

    def is_never_slower(self, key: str, targets: Collection[str] | None = None) -> bool:
        """Whether a network is at least as fast as the baseline on every target, or on those that are named."""
        return all(
            target.networks[key].latency.ms <= target.baseline_ms
            for target in self.targets
            if targets is None or target.name in targets
        )

    @property
    def own_networks(self) -> tuple[NetworkResult, ...]:
        """The networks that are not for further budgets: the run's own, and what it is compared with."""
        further = {point.key for point in self.points} - {"baseline"}
        return tuple(network for network in self.networks if network.key not in further)

    @property
    def baseline(self) -> NetworkResult:
        """The network the run started from."""
        return next(network for network in self.networks if network.key == "baseline")

    @property
    def pruned(self) -> NetworkResult:
        """The network the run ends with."""
        return next(network for network in self.networks if network.key == "pruned")

    def network(self, key: str) -> NetworkResult | None:
        """Return the network called `key`, or None if the run had no such network."""
        return next((network for network in self.networks if network.key == key), None)
