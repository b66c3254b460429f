"""The plain scores that every method is compared with: they need no training of their own.

Norms of weights say how large a layer's channels are beside each other and nothing of other layers, so those are over
their mean in each layer. Gradients of the loss compare between layers as they are, and add up to what the loss is
expected to change by, so that they are what the solver needs. At a threshold they took whole layers from a network that
makes no mistakes on its training data, whose gradients say little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from compress.gates import SAMPLES, gate_scores
from compress.methods.base import Context
from compress.scores import (
    Producer,
    Scores,
    Tensors,
    makers_of,
    norm_scales,
    producers,
    scale_magnitudes,
    set_norms,
    weight_name,
)
from compress.select import Selection
from compress.surgery import named_tensors
from compress.train.loop import Extras
from device_profiles.errors import BadInput

STRICT = ConfigDict(extra="forbid")


@plain_dataclass(frozen=True)
class Scored:
    """A method that leaves the network as it is and only scores it.

    Attributes:
        score: Computes the scores.
    """

    score: Callable[[], Scores]

    def extras(self) -> Extras:
        """Add nothing to training."""
        return Extras()

    def finish_(self) -> None:
        """Do nothing: the network was plain all along."""

    def scores(self) -> Scores:
        """Return the scores of the network as it is now."""
        return self.score()

    def keep(self) -> None:
        """Choose nothing: the scores decide."""


@dataclass(frozen=True, config=STRICT)
class L1:
    """The sum of the magnitudes of a filter's weights.

    Args:
        folded: Whether the normalisation after it is folded into the weights first, as it will be when deployed.
    """

    title: ClassVar[str] = "L1 norm"
    source: ClassVar[str] = "Li et al., ICLR 2017, arXiv 1608.08710"
    score: ClassVar[str] = "L1 norm over the layer's mean"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "threshold"

    folded: bool = False

    def prepare(self, context: Context) -> Scored:
        """Score by the network's weights."""
        if self.folded:
            return Scored(lambda: set_norms(producers(context.graph, context.module), context.module))
        return Scored(lambda: _by_layer(context, lambda rows: rows.abs().sum(1)))


@dataclass(frozen=True, config=STRICT)
class L2:
    """The Euclidean norm of a filter's weights."""

    title: ClassVar[str] = "L2 norm"
    source: ClassVar[str] = "He et al., IJCAI 2018, arXiv 1808.06866"
    score: ClassVar[str] = "L2 norm over the layer's mean"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "threshold"

    def prepare(self, context: Context) -> Scored:
        """Score by the network's weights."""
        return Scored(lambda: _by_layer(context, lambda rows: rows.norm(dim=1)))


@dataclass(frozen=True, config=STRICT)
class Fpgm:
    """How far a filter is from the other filters of its layer; one near their median can be replaced by them."""

    title: ClassVar[str] = "FPGM"
    source: ClassVar[str] = "He et al., CVPR 2019, arXiv 1811.00250"
    score: ClassVar[str] = "distance to the layer's other filters, over its mean"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "threshold"

    def prepare(self, context: Context) -> Scored:
        """Score by the network's weights."""
        return Scored(lambda: _by_layer(context, lambda rows: torch.cdist(rows, rows).sum(1)))


@dataclass(frozen=True, config=STRICT)
class NormScale:
    """The scale |gamma| of a channel's normalisation, without the penalty that would make some of them small."""

    title: ClassVar[str] = "BatchNorm scale"
    source: ClassVar[str] = "the score of Liu et al., ICCV 2017, arXiv 1708.06519"
    score: ClassVar[str] = "|gamma|"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "threshold"

    def prepare(self, context: Context) -> Scored:
        """Find the network's normalisations.

        Raises:
            BadInput: No channel that could be removed has one.
        """
        scales = norm_scales(context.graph, context.module)
        if not scales:
            raise BadInput("no channel that can be removed has a normalisation with a scale; score by l1 or fisher")
        return Scored(lambda: scale_magnitudes(scales, context.module))


@dataclass(frozen=True, config=STRICT)
class Random:
    """Nothing at all: what every score has to beat."""

    title: ClassVar[str] = "random"
    source: ClassVar[str] = "a control"
    score: ClassVar[str] = "a random number"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "threshold"

    def prepare(self, context: Context) -> Scored:
        """Draw the scores once."""
        generator = np.random.default_rng(context.seed)
        drawn = {one.name: generator.random(one.width) for one in context.graph.prunable}
        return Scored(lambda: drawn)


@dataclass(frozen=True, config=STRICT)
class Taylor:
    """How much the loss changes to first order when a channel is faded out, sample by sample.

    Args:
        samples: Training samples to average over.
    """

    title: ClassVar[str] = "Taylor expansion"
    source: ClassVar[str] = "Molchanov et al., ICLR 2017, arXiv 1611.06440"
    score: ClassVar[str] = "mean |dL/dz| of a gate"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "solver"

    samples: int = Field(SAMPLES, gt=0)

    def prepare(self, context: Context) -> Scored:
        """Score by the loss's gradients."""
        return Scored(lambda: gate_scores(context.graph, context.module, context.task, self.samples, np.abs))


@dataclass(frozen=True, config=STRICT)
class Fisher:
    """The Fisher information of a channel's gate: how much the loss rises to second order when it is faded out.

    Args:
        samples: Training samples to average over.
    """

    title: ClassVar[str] = "Fisher information"
    source: ClassVar[str] = "Theis et al., 2018, arXiv 1801.05787"
    score: ClassVar[str] = "mean (dL/dz)^2 of a gate"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "solver"

    samples: int = Field(SAMPLES, gt=0)

    def prepare(self, context: Context) -> Scored:
        """Score by the loss's gradients."""
        return Scored(lambda: gate_scores(context.graph, context.module, context.task, self.samples, np.square))


def _by_layer(context: Context, measure: Callable[[Float[Tensor, "n m"]], Float[Tensor, " n"]]) -> Scores:
    """Measure each layer's filters, over the layer's mean; a set that several layers make has the mean over them."""
    tensors = named_tensors(context.module)
    with torch.no_grad():
        return {
            name: torch.stack([_over_mean(each, tensors, measure) for each in makers]).mean(0).cpu().numpy()
            for name, makers in makers_of(context.graph).items()
        }


def _over_mean(
    producer: Producer, tensors: Tensors, measure: Callable[[Float[Tensor, "n m"]], Float[Tensor, " n"]]
) -> Float[Tensor, " channels"]:
    found = producer.per_channel(measure(producer.rows(tensors[weight_name(producer.layer, tensors)])))
    return found / found.mean().clamp_min(torch.finfo(found.dtype).tiny)
