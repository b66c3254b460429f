"""DECIG, stage I: train so that few channels do the work, layers that are slow on the device first.

N. A. Shah and G. Bharaj, "Towards Device Efficient Conditional Image Generation", BMVC 2022, arXiv 2203.10363. To the
task's loss it adds sum_i l(i) sum_j f(j) ||W_ij||_1, with l(i) the measured latency of layer i and j running over its
channels sorted by their norm. What the paper leaves open is settled here: the norms are those of
`compress.scores.folded_norm`, each over its layer's mean at the start, and l has mean 1, so that lambda means the same
for every network; the sort is descending and repeated in every step, so that a rising f pushes weak channels harder;
lambda is steered so that the predicted latency falls on a schedule; and the parameters of the normalisations have a
learning rate of their own, because Adam moves them by no more than one learning rate a step, too slowly to reach zero.
Generators whose InstanceNorm has no scale need one first: `compress.affine.make_norms_affine_`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from compress.graph.channels import Keep
from compress.hinge import find_hinge
from compress.methods.base import Context
from compress.scores import Producer, Scores, Tensors, folded_norm, producers, set_norms
from compress.select import Selection, keep_strongest
from compress.surgery import named_tensors
from compress.train.loop import Extras
from device_profiles.errors import BadInput

STEER_EVERY = 10  # steps
ALIVE = (
    0.05  # of the mean norm at the start: channels above it count as kept while lambda is steered; hinges form near it
)
SLOWER, FASTER = 0.8, 1.15  # lambda's change at most; an uncapped controller ran away to 5e4
LARGEST = 1.0  # beyond, the network dies: norms cannot follow lambda faster than the learning rate
ARRIVAL = 0.9  # share of the steps after which the schedule asks for the whole speedup
# lambda; of "steered" at the start. "low" left 228 of a small U-Net's 352 channels and "high" 136, for 9 % more error
# (tools/benchmarks/method_experiments.py, one run each).
STRENGTHS = {"steered": 0.05, "low": 0.05, "high": 0.2}

RANKINGS: dict[str, Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]] = {  # of rank / (n + 1); their mean becomes 1
    "uniform": torch.ones_like,
    "linear": lambda rank: rank,
    "quadratic": lambda rank: rank**2,
    "weaker half": lambda rank: (rank > 0.5).to(rank.dtype),
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Decig:
    """Settings of stage I.

    Args:
        ranking: f(j), of mean 1: "uniform" pushes all channels alike, "linear" and "quadratic" rise with the rank, so
            that the strongest is hardly pushed; "weaker half" leaves the stronger half of the channels alone.
        regularisation: "steered": lambda follows the predicted latency; "low" and "high": it stays, and the hinges
            decide how small the network gets.
        strength: lambda, where steered at the start; None for the regularisation's own.
        device_aware: Whether l(i) is the measured latency; otherwise it is 1.
        norm_rate: Learning rate of the normalisations' parameters, as a multiple of the others'.
    """

    title: ClassVar[str] = "DECIG"
    source: ClassVar[str] = "Shah and Bharaj, BMVC 2022, arXiv 2203.10363"
    score: ClassVar[str] = "folded norm over its mean at the start"
    trains: ClassVar[bool] = True
    selection: ClassVar[Selection] = "threshold"

    ranking: Literal["uniform", "linear", "quadratic", "weaker half"] = "linear"
    regularisation: Literal["steered", "low", "high"] = "steered"
    strength: float | None = Field(None, gt=0)
    device_aware: bool = True
    norm_rate: float = Field(10.0, gt=0)

    def prepare(self, context: Context) -> Condensation:
        """Weigh the network's channels as they are."""
        return Condensation(self, context)


class Condensation:
    """The penalty of stage I and its control, for one training run.

    Args:
        settings: See `Decig`.
        context: The network, its graph, latencies and schedule.

    Raises:
        BadInput: A layer was not measured, or its normalisation has no scale.
    """

    def __init__(self, settings: Decig, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.made_by = producers(context.graph, context.module)
        self.state = {"strength": settings.strength or STRENGTHS[settings.regularisation]}
        self.latency_weights = self._mean_one(context.latency_shares)

    def extras(self) -> Extras:
        """Return the penalty, lambda's control and the learning rates."""
        return Extras(
            penalty=self.penalty,
            after_step=self.steer_,
            parameter_groups=self.parameter_groups(),
            state=self.state,
        )

    def finish_(self) -> None:
        """Do nothing: the network was plain all along."""

    def scores(self) -> Scores:
        """Return each set's folded norms over their mean at the start."""
        return set_norms(self.made_by, self.context.module)

    def keep(self) -> Keep:
        """Cut at the hinges.

        Returns:
            The channels above each set's hinge; of a set in which every channel died, the strongest. Sets in which no
            hinge formed are missing: they keep all.
        """
        kept = {}
        for name, norms in self.scores().items():
            hinge = find_hinge(norms, 1.0)
            if hinge.dead or hinge.kept is not None:
                kept[name] = keep_strongest(norms, hinge.kept or 1)
        return kept

    def penalty(self, *_: object) -> Float[Tensor, ""]:
        """Return lambda times sum_i l(i) sum_j f(j) ||W_ij||_1, over the number of layers and channels."""
        tensors = named_tensors(self.context.module)
        total = torch.zeros(())
        for makers in self.made_by.values():
            norms = torch.stack([self._weighted_norm(each, tensors) for each in makers]).sum(0)
            total = total + (rank_weights(norms, self.settings.ranking) * norms).mean()
        return self.state["strength"] * total / len(self.latency_weights)

    def steer_(self, step: int, *_: object) -> None:
        """Adjust lambda so that the predicted speedup follows a geometric schedule to the goal.

        Args:
            step: Steps done.
        """
        if self.settings.regularisation != "steered" or step % STEER_EVERY:
            return
        widths = {name: max(1, int((norms > ALIVE).sum())) for name, norms in self.scores().items()}
        wanted = self.context.goal ** min(1.0, step / (ARRIVAL * self.context.training.steps))
        change = np.clip(wanted / self.context.speedup(widths), SLOWER, FASTER)
        self.state["strength"] = float(min(LARGEST, self.state["strength"] * change))

    def parameter_groups(self) -> list[dict[str, object]]:
        """Split the parameters into those of normalisations, with their own learning rate, and all others."""
        norms = {
            name
            for makers in self.made_by.values()
            for each in makers
            if each.layer.norm is not None
            for name in (each.layer.norm.scale, each.layer.norm.bias)
            if name is not None
        }
        named = dict(self.context.module.named_parameters())
        fast = [parameter for name, parameter in named.items() if name in norms]
        rest = [parameter for name, parameter in named.items() if name not in norms]
        groups: list[dict[str, object]] = [{"params": rest, "lr": 1.0}]
        return [*groups, {"params": fast, "lr": self.settings.norm_rate}] if fast else groups

    def _mean_one(self, latency_shares: Mapping[str, float]) -> dict[str, float]:
        """Return l(i) of the layers whose channels can go, with mean 1."""
        made = [each.layer.name for makers in self.made_by.values() for each in makers]
        missing = [name for name in made if name not in latency_shares]
        if missing and self.settings.device_aware:
            raise BadInput(
                f"layer {missing[0]!r} has no latency; profile the network again, or set device_aware = false"
            )
        weights = {name: latency_shares[name] if self.settings.device_aware else 1.0 for name in made}
        mean = float(np.mean(list(weights.values())))
        return {name: weight / mean for name, weight in weights.items()}

    def _weighted_norm(self, producer: Producer, tensors: Tensors) -> Float[Tensor, " channels"]:
        weight = self.latency_weights[producer.layer.name] / producer.reference
        return weight * folded_norm(producer, tensors)


def rank_weights(norms: Float[Tensor, " n"], ranking: str) -> Float[Tensor, " n"]:
    """Return f of every channel's rank among the norms, the largest being the first."""
    count = len(norms)
    ranks = torch.arange(1, count + 1, dtype=norms.dtype, device=norms.device)
    by_rank = RANKINGS[ranking](ranks / (count + 1))
    weights = torch.empty_like(norms)
    weights[norms.detach().argsort(descending=True)] = by_rank / by_rank.mean()
    return weights
