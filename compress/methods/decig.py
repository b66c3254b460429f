"""DECIG, stage I: train so that few channels do the work, layers that are slow on the device first.

N. A. Shah and G. Bharaj, "Towards Device Efficient Conditional Image Generation", BMVC 2022, arXiv 2203.10363. To the
task's loss it adds sum_i l(i) sum_j f(j) ||W_ij||_1, with l(i) the measured latency of layer i and j running over its
channels sorted by their norm. What the paper leaves open is settled here: the norms are those of
`compress.scores.folded_norm`, each over its layer's mean at the start, and l has mean 1, so that lambda means the same
for every network; the sort is descending and repeated in every step, so that a linear f pushes weak channels harder;
lambda is steered so that the predicted latency falls on a schedule; and the parameters of the normalisations have a
learning rate of their own, because Adam moves them by no more than one learning rate a step, too slowly to reach zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph
from compress.scores import Producer, folded_norm, producers, set_norms
from compress.surgery import named_tensors

SOURCE = "Shah and Bharaj, BMVC 2022, arXiv 2203.10363"
STEER_EVERY = 10  # steps
ALIVE = (
    0.05  # of the mean norm at the start: channels above it count as kept while lambda is steered; hinges form near it
)
SLOWER, FASTER = 0.8, 1.15  # lambda's change at most; an uncapped controller ran away to 5e4
LARGEST = 1.0  # beyond, the network dies: norms cannot follow lambda faster than the learning rate
ARRIVAL = 0.9  # share of the steps after which the schedule asks for the whole speedup


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Decig:
    """Settings of stage I.

    Args:
        ranking: f(j): "linear" rises with the rank from 0 to 2, "uniform" is 1.
        strength: lambda at the start.
        steered: Whether lambda follows the predicted latency; otherwise it stays.
        device_aware: Whether l(i) is the measured latency; otherwise it is 1.
        norm_rate: Learning rate of the normalisations' parameters, as a multiple of the others'.
    """

    ranking: Literal["linear", "uniform"] = "linear"
    strength: float = Field(0.05, gt=0)
    steered: bool = True
    device_aware: bool = True
    norm_rate: float = Field(10.0, gt=0)


class Condensation:
    """The penalty of stage I and its control, for one training run.

    Args:
        settings: See `Decig`.
        module: The network in training.
        graph: Its channel graph.
        latencies_ms: l(i) by layer name, ms; one target's, or the mean of several targets' shares.
    """

    def __init__(
        self, settings: Decig, module: nn.Module, graph: ChannelGraph, latencies_ms: Mapping[str, float]
    ) -> None:
        self.settings = settings
        self.module = module
        self.made_by = producers(graph, module)
        self.state = {"strength": settings.strength}
        self._tensors = named_tensors(module)
        made = [each.layer.name for layers in self.made_by.values() for each in layers]
        weights = {name: latencies_ms[name] if settings.device_aware else 1.0 for name in made}
        mean = float(np.mean(list(weights.values())))
        self.latency_weights = {name: weight / mean for name, weight in weights.items()}

    def penalty(self, *_: object) -> Float[Tensor, ""]:
        """Return lambda times sum_i l(i) sum_j f(j) ||W_ij||_1, over the number of layers and channels."""
        total = torch.zeros(())
        for layers in self.made_by.values():
            norms = torch.stack([self._weighted_norm(each) for each in layers]).sum(0)
            total = total + (self._rank_weights(norms) * norms).mean()
        return self.state["strength"] * total / len(self.latency_weights)

    def norms(self) -> dict[str, Float[np.ndarray, " channels"]]:
        """Return each set's folded norms over their mean at the start."""
        return set_norms(self.made_by, self.module)

    def steer_(self, step: int, steps: int, goal: float, speedup: Callable[[Mapping[str, int]], float]) -> None:
        """Adjust lambda so that the predicted speedup follows a geometric schedule to the goal.

        Args:
            step: Steps done.
            steps: Steps of the whole stage.
            goal: The speedup to arrive at.
            speedup: Predicts the speedup of the network with the given widths, by set name.
        """
        if not self.settings.steered or step % STEER_EVERY:
            return
        widths = {name: max(1, int((norms > ALIVE).sum())) for name, norms in self.norms().items()}
        wanted = goal ** min(1.0, step / (ARRIVAL * steps))
        change = np.clip(wanted / speedup(widths), SLOWER, FASTER)
        self.state["strength"] = float(min(LARGEST, self.state["strength"] * change))

    def parameter_groups(self) -> list[dict[str, object]]:
        """Split the parameters into those of normalisations, with their own learning rate, and all others."""
        norms = {
            name
            for layers in self.made_by.values()
            for each in layers
            if each.layer.norm is not None
            for name in (each.layer.norm.scale, each.layer.norm.bias)
            if name is not None
        }
        named = dict(self.module.named_parameters())
        fast = [parameter for name, parameter in named.items() if name in norms]
        rest = [parameter for name, parameter in named.items() if name not in norms]
        groups: list[dict[str, object]] = [{"params": rest, "lr": 1.0}]
        return [*groups, {"params": fast, "lr": self.settings.norm_rate}] if fast else groups

    def _weighted_norm(self, producer: Producer) -> Float[Tensor, " channels"]:
        weight = self.latency_weights[producer.layer.name] / producer.reference
        return weight * folded_norm(producer.layer, self._tensors)

    def _rank_weights(self, norms: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        if self.settings.ranking == "uniform":
            return torch.ones_like(norms)
        count = len(norms)
        weights = torch.empty_like(norms)
        ranks = torch.arange(1, count + 1, dtype=norms.dtype)
        weights[norms.detach().argsort(descending=True)] = 2 * ranks / (count + 1)
        return weights
