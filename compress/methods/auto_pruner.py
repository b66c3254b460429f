"""AutoPruner: gates that look at the activations learn with the network which channels to keep.

J.-H. Luo and J. Wu, "AutoPruner: An End-to-End Trainable Filter Pruning Method for Efficient Deep Model Inference",
Pattern Recognition 2020, arXiv 1805.08941. The activations of a layer are averaged over the batch, max-pooled 2 x 2 and
mapped by one fully-connected matrix to a number u per channel; all samples' channels are multiplied by
v = sigmoid(alpha u). The loss grows by lambda (mean(v) - r)^2. alpha rises until every v is 0 or 1, faster where a
layer's gates lag, and lambda is 100 times how far a layer is from its r. Then the code, a majority vote over the last
20 steps, is frozen. Here a set of channels that several layers make (the trunk of a residual network, a depthwise
convolution) has one code, read at the first of them, where the paper leaves trunks alone; r is what the asked-for
speedup needs, smaller for slow layers; and maps larger than 16 x 16 are pooled to that, whatever the input's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compress.balanced import keep_counts
from compress.graph.channels import Keep
from compress.methods.auto_pruner_gates import FROZEN, LEARNING, VOTES, WAITING, Gate, mean_maps, spread, zero_
from compress.methods.auto_pruner_taps import Tap, find_taps
from compress.methods.base import Context
from compress.scores import Scores
from compress.select import Selection
from compress.train.loop import Extras
from device_profiles.errors import BadInput, BudgetInfeasible

DECIDED = (0.2, 0.8)  # a gate outside has made up its mind
ENOUGH_DECIDED = 0.9
SETTLING = 1 / 8  # of a group's steps, one of the paper's 8 epochs, in which undecided gates are no reason to hurry
CAP_FALL = 0.05  # of the channels, each time that too many are off
PULL = 100.0  # lambda over the distance from r
HALVINGS = 20


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AutoPruner:
    """Settings of the gates; the defaults are those for ResNet-50, but alpha starts low as for VGG-16 and MobileNetV2.

    Args:
        mode: Whether sets learn their code one after another, in groups one after another, or all at once.
        groups: How many there are of them where `mode` is "grouped"; the paper's are the stages of a ResNet.
        keep_ratio: r of every set; None for what the asked-for speedup needs.
        alpha_start: alpha of a group at its first step.
        alpha_stop: alpha at its last, which the schedule reaches in a straight line: 100 in the paper; 50 decided at
            least 99 % of the gates on digits (tools/benchmarks/method_experiments.py).
        alpha_bump: What is added for good where a set's gates lag behind; 0 for a schedule that does not adapt.
        strength: lambda at the start.
        adaptive_strength: Whether lambda follows the distance from r; otherwise it stays.
        largest_side: Of the map that a gate reads; the matrix has C x C x side^2 numbers.
        min_channels: No code keeps fewer of a set.
        device_aware: Whether r is smaller for sets whose layers are slow, in proportion to l(i).
    """

    title: ClassVar[str] = "AutoPruner"
    source: ClassVar[str] = "Luo and Wu, Pattern Recognition 2020, arXiv 1805.08941"
    score: ClassVar[str] = "code plus mean gate"
    trains: ClassVar[bool] = True
    selection: ClassVar[Selection] = "threshold"

    mode: Literal["layer", "grouped", "joint"] = "grouped"
    groups: int = Field(4, ge=1)
    keep_ratio: float | None = Field(None, gt=0, le=1)
    alpha_start: float = Field(0.1, gt=0)
    alpha_stop: float = Field(50.0, gt=0)
    alpha_bump: float = Field(1.0, ge=0)
    strength: float = Field(10.0, ge=0)
    adaptive_strength: bool = True
    largest_side: int = Field(16, ge=1)
    min_channels: int = Field(4, ge=1)
    device_aware: bool = True

    def prepare(self, context: Context) -> Gating:
        """Put gates behind the layers."""
        return Gating(self, context)


class Gating:
    """The gates of one network, for one training run.

    Args:
        settings: See `AutoPruner`.
        context: What the method is given.

    Attributes:
        skipped: Sets without a gate -> why.

    Raises:
        BadInput: No set can have a gate, or there are too few steps for a vote of each group.
        BudgetInfeasible: The speedup is out of reach of the sets that have gates.
    """

    def __init__(self, settings: AutoPruner, context: Context) -> None:
        self.settings = settings
        self.context = context
        found = {one.name: find_taps(context.graph, context.module, one) for one in context.graph.prunable}
        self.taps = {name: taps for name, taps in found.items() if not isinstance(taps, str)}
        self.skipped = {name: reason for name, reason in found.items() if isinstance(reason, str)}
        if not self.taps:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise BadInput(f"no channels of this network can be gated ({reasons}); use another method")
        self.windows = self._windows()
        self.keep_ratios = self._keep_ratios()
        device = next(context.module.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.gates = {name: self._gate(name, taps).to(device) for name, taps in self.taps.items()}
        self.hooks = self._hook()
        self._enter_(self.windows[0][1])

    def extras(self) -> Extras:
        """Return the loss on the gates, their schedule and their parameters."""
        parameters = [*self.context.module.parameters(), *(gate.matrix for gate in self.gates.values())]
        return Extras(
            penalty=self.penalty,
            after_step=self.after_step,
            modules={f"gate of {name}": gate for name, gate in self.gates.items()},
            parameter_groups=[{"params": parameters, "lr": 1.0}],
        )

    def penalty(self, *_: object) -> Float[Tensor, ""]:
        """Return the sum of lambda (mean(v) - r)^2 over the sets that learn."""
        learning = [(name, gate) for name, gate in self.gates.items() if int(gate.phase) == LEARNING]
        terms = [gate.strength * (gate.values.mean() - self.keep_ratios[name]) ** 2 for name, gate in learning]
        return torch.stack(terms).sum()

    def after_step(self, step: int, _: float) -> None:
        """Vote, raise alpha, adapt alpha and lambda, and go on to the next group."""
        number = next(i for i, (stop, _) in enumerate(self.windows) if step <= stop)
        stop, names = self.windows[number]
        start = self.windows[number - 1][0] if number else 0
        done = (step - start) / (stop - start)
        for name in names:
            gate = self.gates[name]
            gate.remember_()
            if (step - start) % VOTES == 0:
                self._adapt_(gate, self.keep_ratios[name], done)
            scheduled = self.settings.alpha_start + done * (self.settings.alpha_stop - self.settings.alpha_start)
            gate.alpha.copy_(scheduled + gate.bumps)
        if step == stop:
            self._freeze_(names)
            if number + 1 < len(self.windows):
                self._enter_(self.windows[number + 1][1])

    def finish_(self) -> None:
        """Remove the hooks; channels that are off become zero in the network itself, the others are not scaled."""
        for hook in self.hooks:
            hook.remove()
        self._freeze_([name for name, gate in self.gates.items() if int(gate.phase) == LEARNING])
        for name, taps in self.taps.items():
            mask = self.gates[name].mask
            for tap in taps:
                zero_(self.context.module.get_submodule(tap.module), tap, mask)

    def scores(self) -> Scores:
        """Return 1 for a channel that is kept plus its mean gate; sets without a gate have the highest there are."""
        return {
            one.name: self.gates[one.name].scores() if one.name in self.gates else np.full(one.width, 2.0)
            for one in self.context.graph.prunable
        }

    def keep(self) -> Keep:
        """Return the frozen codes."""
        return {name: np.flatnonzero(gate.mask.cpu().numpy()) for name, gate in self.gates.items()}

    def _gate(self, name: str, taps: Sequence[Tap]) -> Gate:
        height, width = (min(self.settings.largest_side, max(1, size // 2)) for size in taps[0].size)
        return Gate(
            self.context.graph.sets[name].width, (height, width), self.settings.alpha_start, self.settings.strength
        )

    def _windows(self) -> list[tuple[int, list[str]]]:
        """Return the last step of each group and the sets in it; sets of one family are in one group."""
        families: dict[str, list[str]] = {}
        for name in self.taps:
            families.setdefault(self.context.graph.sets[name].family, []).append(name)
        members = list(families.values())
        wanted = {"layer": len(members), "grouped": self.settings.groups, "joint": 1}[self.settings.mode]
        count, steps = min(wanted, len(members)), self.context.training.steps
        if steps < count * VOTES:
            raise BadInput(f"steps (={steps}) must be at least {VOTES} for each of {count} groups; train for longer")
        bounds = [round(i * len(members) / count) for i in range(count + 1)]
        return [
            (round((i + 1) * steps / count), [name for names in members[bounds[i] : bounds[i + 1]] for name in names])
            for i in range(count)
        ]

    def _keep_ratios(self) -> dict[str, float]:
        """Return r of every set: as given, or the largest with which the goal is predicted to be met."""
        if self.settings.keep_ratio is not None:
            return self._ratios_at(self.settings.keep_ratio)
        low, high = 0.0, 1.0
        reached = self._speedup_at(low)
        if reached < self.context.goal:
            raise BudgetInfeasible(
                f"a speedup of {self.context.goal} is out of reach: with every gated set at its floor {reached:.2f} is "
                f"predicted ({len(self.skipped)} sets have no gate); ask for less or use another method"
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._speedup_at(middle) >= self.context.goal else (low, middle)
        return self._ratios_at(low)

    def _ratios_at(self, ratio: float) -> dict[str, float]:
        """Return r of every set where a mean layer has `ratio`: a layer l(i) as slow gives up l(i) times as much."""
        latencies = self.context.latency_shares
        shares = {name: sum(latencies[tap.layer.name] for tap in taps) for name, taps in self.taps.items()}
        mean = sum(shares.values()) / len(shares)
        found = {}
        for name, share in shares.items():
            weight = share / mean if self.settings.device_aware else 1.0
            width = self.context.graph.sets[name].width
            found[name] = max(1 - (1 - ratio) * weight, min(1.0, self.settings.min_channels / width))
        return found

    def _speedup_at(self, ratio: float) -> float:
        sets = self.context.graph.sets
        return self.context.speedup(
            {name: max(1, round(sets[name].width * own)) for name, own in self._ratios_at(ratio).items()}
        )

    def _hook(self) -> list[RemovableHandle]:
        return [
            self.context.module.get_submodule(tap.module).register_forward_hook(self._hooked(name, tap, tap is taps[0]))
            for name, taps in self.taps.items()
            for tap in taps
        ]

    def _hooked(self, name: str, tap: Tap, first: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        gate = self.gates[name]

        def multiply(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
            phase = int(gate.phase)
            if phase == WAITING:
                return output
            if phase == FROZEN or not module.training:
                factors = gate.mask if phase == FROZEN else gate.code()
            else:
                factors = gate.read(mean_maps(output, tap, len(gate.mask))) if first else gate.values
            return output * spread(factors, tap, output)

        return multiply

    def _enter_(self, names: Sequence[str]) -> None:
        for name in names:
            self.gates[name].phase.fill_(LEARNING)

    def _freeze_(self, names: Sequence[str]) -> None:
        """Take the majority's code, or the nearest that keeps enough channels and the graph's balance."""
        codes = {name: self.gates[name].code() for name in names}
        counts = {name: max(self.settings.min_channels, int(code.sum())) for name, code in codes.items()}
        scores = {name: self.gates[name].scores() for name in names}
        for name, kept in keep_counts(self.context.graph, scores, counts).items():
            gate = self.gates[name]
            gate.mask.zero_()
            gate.mask[torch.from_numpy(kept)] = 1.0
            gate.phase.fill_(FROZEN)

    def _adapt_(self, gate: Gate, keep_ratio: float, done: float) -> None:
        off = 1 - float(gate.code().mean())
        if self.settings.adaptive_strength:
            gate.strength.fill_(PULL * abs(1 - off - keep_ratio))
        values = gate.values.detach()
        decided = float(((values < DECIDED[0]) | (values > DECIDED[1])).float().mean())
        if off >= float(gate.cap):
            gate.cap.fill_(max(float(gate.cap) - CAP_FALL, 1 - keep_ratio))
            gate.bumps += self.settings.alpha_bump
        if decided < ENOUGH_DECIDED and done > SETTLING:
            gate.bumps += self.settings.alpha_bump
