"""The one interface of all methods: prepare, an extra loss, something after each step, scores.

A method is a frozen settings class whose `prepare` returns what runs. It shapes the channels of a trained network
and scores them; selection by latency, surgery, fine-tuning, export, validation and the report are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, runtime_checkable

from torch import nn

from compress.graph.channels import ChannelGraph, Keep
from compress.report.gates import GatedBlock
from compress.scores import Scores
from compress.select import Selection
from compress.tasks.base import Task
from compress.train.loop import Extras, Training
from device_profiles.errors import BadInput
from device_profiles.target import Target

Gains = Mapping[str, Mapping[str, float]]  # layer -> target's name -> how much faster the layer becomes by itself


@dataclass(frozen=True)
class Context:
    """What a method is given.

    Attributes:
        module: The trained network; the method's training changes it in place.
        graph: Its channel graph, as it was exported before the method began.
        task: Data and loss.
        training: The steps and rates of the method's own training.
        latency_shares: l(i) by layer name, summing to 1: measured on the targets, averaged over them.
        goal: The speedup on the slowest target that the network is to arrive at.
        speedup: Predicts that speedup for widths by set name; sets that are missing keep their full width.
        seed: Of everything the method draws.
        multiples: What widths that run well are multiples of, by set: the steps that the profiles found.
    """

    module: nn.Module
    graph: ChannelGraph
    task: Task
    training: Training
    latency_shares: Mapping[str, float]
    goal: float
    speedup: Callable[[Mapping[str, int]], float]
    seed: int = 0
    multiples: Mapping[str, int] = field(default_factory=dict)


class PaysNowhere(BadInput):
    """What a method would put into a network makes none of its layers faster where that is asked for."""


class Method(Protocol):
    """A method at work on one network."""

    def extras(self) -> Extras:
        """Return what the method adds to plain training; empty for a score that needs none."""

    def finish_(self) -> None:
        """Leave a plain network behind: absorb what was added into its own weights, remove hooks.

        Called once after training, before anything else of the method is asked.
        """

    def scores(self) -> Scores:
        """Return one score per channel of every prunable set, higher means keep, comparable between sets."""

    def keep(self) -> Keep | None:
        """Return the method's own choice, where it makes one: what a hinge, a gate or a selection left.

        Taken where it is as fast as asked for; otherwise the scores are cut, as `Settings.selection` says.
        """


@runtime_checkable
class Gated(Protocol):
    """A method that looked at gates: once it is finished, it has their statistics for the report."""

    gated_blocks: Sequence[GatedBlock]


class Settings(Protocol):
    """The settings of a method: frozen, validated on construction, with the paper's defaults."""

    title: ClassVar[str]  # "Network Slimming"
    source: ClassVar[str]  # authors, venue, arXiv id
    score: ClassVar[str]  # what its scores are: "folded norm", "|gamma|", "Fisher information of a gate"
    trains: ClassVar[bool]  # whether it needs training steps of its own: the recipe's [condense]
    selection: ClassVar[Selection]  # how its scores are cut, unless the recipe says: scores that add up by the solver

    def prepare(self, context: Context) -> Method:
        """Attach the method to a network."""


@runtime_checkable
class Replacing(Protocol):
    """Settings of a method that puts other layers in the place of a network's, where that pays on the targets.

    What it leaves behind is exported, analysed and profiled anew before it is cut.
    """

    def gains(self, module: nn.Module, graph: ChannelGraph, targets: Sequence[Target], seconds: float) -> Gains:
        """Measure what its layers gain on each target, `seconds` for each kind of layer."""

    def where_it_pays(self, gains: Gains, needed: Mapping[str, float]) -> Self:
        """Return the settings for the layers where it pays, `needed` being how much faster each target is to become.

        Raises:
            PaysNowhere: There is no such layer.
        """
