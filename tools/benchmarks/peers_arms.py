"""What `peers.py --trained` compares: the tasks, and the arms, each of which turns a trained network into faster ones.

Roles: "ours" must win against each "other", and against its "sibling"s, whose widths our engine found too. One of these
is "retrained": what --retrain makes, so that it also counts as ours, in a line of its own. A "variant" of ours only
tells which part of it does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from compress.select import Selection
from tools.benchmarks.small_tasks import SMALL
from tools.benchmarks.study import Small

Role = Literal["ours", "retrained", "variant", "sibling", "other"]
Currency = Literal["ms", "MACs"]


@dataclass(frozen=True)
class Ours:
    """One of our methods, cut where the measured latency meets the goal.

    Attributes:
        role: See the module.
        method: Its name.
        settings: That are not its defaults.
        penalised: What l(i) is in the penalty of a method that has one: shares of the latency, or of the MACs.
        fitted: What the solver fits into the budget; multiples of widths stay those that the device likes, and where
            it is cut is corrected by measuring either way.
        selection: How it is cut; None as suits its scores.
    """

    role: Role
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    penalised: Currency = "ms"
    fitted: Currency = "ms"
    selection: Selection | None = None


@dataclass(frozen=True)
class TorchPruning:
    """Torch-Pruning's one-shot pruning, whose ratio is turned until the measured latency meets the goal.

    Attributes:
        importance: See `peers_torch_pruning.IMPORTANCES`.
        everywhere: Whether one threshold holds for all layers, or each loses the same share.
        round_to: What widths are multiples of.
        role: See the module.
    """

    importance: str
    everywhere: bool
    round_to: int | None = None
    role: Role = "other"


@dataclass(frozen=True)
class Uniform:
    """The same share of every layer, its strongest channels kept."""

    role: Role = "other"


@dataclass(frozen=True)
class Scratch:
    """The widths of another arm with new weights.

    Attributes:
        widths: Of which arm.
        whole: Whether it is trained for as long as the baseline and the budget together, or for the budget.
        role: See the module.
    """

    widths: str
    whole: bool
    role: Role = "other"


@dataclass(frozen=True)
class Original:
    """The network as it was.

    Attributes:
        trained_on: Whether it is trained for the budget, too.
        role: See the module.
    """

    trained_on: bool
    role: Role = "other"


Arm = Ours | TorchPruning | Uniform | Scratch | Original

ORIGINAL = "original"
ARMS: dict[str, Arm] = {
    "fisher": Ours("ours", "fisher"),
    "decig": Ours("ours", "decig"),
    "fisher-threshold": Ours("variant", "fisher", selection="threshold"),
    "decig-macs": Ours("variant", "decig", penalised="MACs"),
    "decig-plain": Ours("variant", "decig", {"device_aware": False}),
    "fisher-macs": Ours("sibling", "fisher", fitted="MACs"),
    **{
        f"torch-pruning-{importance}-{scope}{f'-{round_to}' if round_to else ''}": TorchPruning(
            importance, scope == "global", round_to
        )
        for importance in ("magnitude", "bn-scale", "group-norm")
        for scope in ("global", "uniform")
        for round_to in (None, 16)
    },
    "uniform": Uniform(),
    "scratch-uniform": Scratch("uniform", whole=False),
    "scratch-uniform-whole": Scratch("uniform", whole=True),
    "scratch-found-whole": Scratch("fisher", whole=True, role="retrained"),
    ORIGINAL: Original(trained_on=False),
    "original-trained-on": Original(trained_on=True),
}
QUESTIONS = {  # which of two arms is better, at equal latency
    "l(i) in DECIG's penalty, against shares of the MACs": ("decig", "decig-macs"),
    "l(i) in DECIG's penalty, against none": ("decig", "decig-plain"),
    "the budget in ms, against MACs": ("fisher", "fisher-macs"),
    "the solver for channels, against a threshold": ("fisher", "fisher-threshold"),
}


@dataclass(frozen=True)
class Trial:
    """A task.

    Attributes:
        small: Its recipe and steps.
        untouchable: Layers whose outputs Torch-Pruning must be told to leave alone, since it would break the network.
    """

    small: Small
    untouchable: tuple[str, ...] = ()


def _without_blocks(small: Small) -> Small:
    """Let our methods remove whole residual branches, without which these two reach no high speedup."""
    return replace(small, changes={**small.changes, "blocks": True})


TASKS = {
    "paired": Trial(SMALL["paired"]),
    "super-resolution": Trial(SMALL["super-resolution"], untouchable=("upsample.0.conv",)),  # it knows no pixel shuffle
    "denoising": Trial(SMALL["denoising"]),
    "resnet": Trial(_without_blocks(SMALL["classification"])),
    "mobilenet": Trial(_without_blocks(SMALL["mobilenet"])),
}
