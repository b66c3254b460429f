"""Network Slimming: an L1 penalty on the scales of the normalisations, and one threshold for the whole network.

Z. Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv 1708.06519. To the
task's loss it adds lambda sum |gamma|. The authors add the sub-gradient lambda sign(gamma) to the gradient, which never
arrives at zero; the default here is the proximal step, a soft threshold of gamma after each optimizer step, which does.
Adam divides every step by the root of the gradient's mean square, and so must the threshold, or lambda would compete
with the direction of the task's gradient in place of its size: at half of the scales zero, thresholds of lambda times
the learning rate alone left 76 % accuracy on digits and these 97 (one run each). Of the proximal step, lambda is
counted in root mean squares of the task's gradient on the scales, so that it means the same for a cross-entropy and for
an error of pixels: with a lambda that has the loss's unit, right for digits, all scales of a DnCNN died within 150
steps, and a network of zeros gets no gradient that could revive it. Nor are the strongest channels of a set shrunk, and
once the zeros are predicted to be enough for the speedup that is asked for, they stay and nothing else is shrunk.

We start from a trained network, so scales are not set to 0.5 as they are for training from scratch. A channel scaled by
several normalisations (a residual trunk) has the mean of their scales and is cut in all of them, so that networks with
the normalisation before the convolution need no layer that selects channels. What a channel of scale zero still emits,
its offset, is absorbed into the next layer. Channels that are cut though their scale is not zero emit no constant:
absorbing their offsets, too, moved digit networks by -1.0 to 2.1 points of accuracy once their statistics were taken
anew, as they are before any fine-tuning (twelve runs, tools/benchmarks/method_experiments.json), so they are dropped.
Several passes are several runs, each on the pruned network of the one before.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from compress.absorb import absorb_
from compress.graph.channels import Keep
from compress.methods.base import Context
from compress.scores import Scale, Scores, norm_scales, scale_magnitudes
from compress.select import Selection, keep_strongest, rounded_width
from compress.surgery import named_tensors
from compress.train.loop import Extras
from device_profiles.errors import BadInput

DECAY, EPSILON = 0.99, 1e-8  # of the squared gradients, as in the training loop's Adam
NEARLY_ZERO = 0.01  # |gamma| below it counts as zero where the sub-gradient never arrives there
# lambda. At 0.7, 53 to 59 % of the scales for digits became zero, and the cut cost nothing; at 1, 60 to 66 %, and it
# cost up to 5 points (three runs each).
STRENGTHS = {"prox": 0.7, "subgradient": 0.02}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NetworkSlimming:
    """Settings.

    Args:
        strength: lambda: of "prox" in root mean squares of the task's gradient on the scales, of "subgradient" in the
            loss's own unit. None for the step's own. The authors' 1e-4 belongs to hundreds of epochs.
        step: "prox" thresholds after each step and makes exact zeros; "subgradient" adds the penalty to the loss, as
            the authors do.
        norm_rate: Learning rate of the scales, as a multiple of the others'.
        device_aware: Whether each scale's term is weighed by l(i), of mean 1.
        prune_share: Share of all channels below the global threshold, the authors' 0.4 to 0.7; None cuts the channels
            whose scale is zero.
        least_channels: How many every set keeps, the strongest, which "prox" does not shrink; without a floor whole
            layers vanish.
    """

    title: ClassVar[str] = "Network Slimming"
    source: ClassVar[str] = "Liu et al., ICCV 2017, arXiv 1708.06519"
    score: ClassVar[str] = "|gamma|"
    trains: ClassVar[bool] = True
    selection: ClassVar[Selection] = "threshold"

    strength: float | None = Field(None, ge=0)
    step: Literal["prox", "subgradient"] = "prox"
    norm_rate: float = Field(10.0, gt=0)
    device_aware: bool = False
    prune_share: float | None = Field(None, gt=0, lt=1)
    least_channels: int = Field(4, ge=1)

    def prepare(self, context: Context) -> Slimming:
        """Find the network's normalisations."""
        return Slimming(self, context)


class Slimming:
    """The penalty on one network's scales.

    Args:
        settings: See `NetworkSlimming`.
        context: The network and its graph.

    Raises:
        BadInput: No channel that could be removed has a normalisation with a scale.
    """

    def __init__(self, settings: NetworkSlimming, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.strength = STRENGTHS[settings.step] if settings.strength is None else settings.strength
        self.scales = norm_scales(context.graph, context.module)
        if not self.scales:
            raise BadInput(
                "no channel that can be removed has a normalisation with a scale, which Network Slimming needs; use "
                "decig, or give InstanceNorm a scale (compress.affine.make_norms_affine_)"
            )
        self.weights = self._penalty_weights()
        self.squares = nn.ParameterList(
            nn.Parameter(torch.zeros_like(weight), requires_grad=False) for weight in self.weights.values()
        )
        self.zeros = nn.ParameterList(  # after the last step
            nn.Parameter(torch.zeros_like(weight, dtype=torch.bool), requires_grad=False)
            for weight in self.weights.values()
        )

    def extras(self) -> Extras:
        """Return the penalty or the proximal step, and the scales' learning rate."""
        prox = self.settings.step == "prox"
        return Extras(
            penalty=None if prox else self.penalty,
            after_step=self.shrink_ if prox else None,
            modules={"squares": self.squares, "zeros": self.zeros} if prox else {},
            parameter_groups=self.parameter_groups(),
        )

    def finish_(self) -> None:
        """Absorb what channels of scale zero still emit into the layers that use them.

        Scales that the sub-gradient, or a moving average of the weights, left near zero become zero.
        """
        self._zero_()
        nearly = NEARLY_ZERO if self.settings.step == "subgradient" else 0.0
        absorb_(self.context.module, self.context.graph, self._above(nearly))

    def scores(self) -> Scores:
        """Return |gamma| of every channel; sets without a normalisation are missing and keep all."""
        return scale_magnitudes(self.scales, self.context.module)

    def keep(self) -> Keep:
        """Cut what is zero, or what lies below the global threshold of `prune_share`."""
        scores, share = self.scores(), self.settings.prune_share
        return self._above(0.0 if share is None else float(np.quantile(np.concatenate(list(scores.values())), share)))

    def penalty(self, *_: object) -> Float[Tensor, ""]:
        """Return lambda sum l |gamma|."""
        tensors = named_tensors(self.context.module)
        terms = [(weight.to(tensors[name].device) * tensors[name].abs()).sum() for name, weight in self.weights.items()]
        return self.strength * torch.stack(terms).sum()

    def shrink_(self, step: int, rate: float) -> None:
        """Move every scale towards zero by lambda times l times its step size, and no further.

        The penalty counts in the root of the mean square as if it were in the loss, so that no scale moves faster than
        Adam moves it.

        Args:
            step: Steps done.
            rate: Learning rate of the step that was just done.
        """
        tensors = named_tensors(self.context.module)
        gammas = [tensors[name] for name in self.weights]
        with torch.no_grad():
            for gamma, square in zip(gammas, self.squares, strict=True):
                square.mul_(DECAY).add_((1 - DECAY) * gamma.grad.to(square.device) ** 2)
            if self._suffices():
                self._zero_()
                return
            known = 1 - DECAY**step
            strength = self.strength * torch.sqrt(torch.cat(list(self.squares)).mean() / known)
            pushed = self._pushed()
            for name, gamma, square, zero in zip(pushed, gammas, self.squares, self.zeros, strict=True):
                force = strength * pushed[name].to(square.device)
                root = torch.sqrt(square / known + force**2) + EPSILON
                threshold = (rate * self.settings.norm_rate * force / root).to(gamma.device)
                gamma.copy_(gamma.sign() * (gamma.abs() - threshold).clamp_min(0.0))
                zero.copy_(gamma == 0)

    def parameter_groups(self) -> list[dict[str, object]]:
        """Split the parameters into the scales, with their own learning rate, and all others."""
        named = dict(self.context.module.named_parameters())
        rest = [parameter for name, parameter in named.items() if name not in self.weights]
        scales = [named[name] for name in self.weights]
        return [{"params": rest, "lr": 1.0}, {"params": scales, "lr": self.settings.norm_rate}]

    def _zero_(self) -> None:
        """Set the scales to zero that were zero after the last step that shrank any."""
        tensors = named_tensors(self.context.module)
        with torch.no_grad():
            for name, zero in zip(self.weights, self.zeros, strict=True):
                tensors[name].masked_fill_(zero.to(tensors[name].device), 0.0)

    def _suffices(self) -> bool:
        """Whether the scales that were zero after the last step are predicted to be enough for the speedup."""
        if self.settings.prune_share is not None:
            return False
        left = {name: (~zero).float() for name, zero in zip(self.weights, self.zeros, strict=True)}
        multiples, widths = self.context.multiples, {}
        for name, found in self.scales.items():
            alive = np.logical_or.reduce([scale.magnitudes(left) > 0 for scale in found])
            widths[name] = rounded_width(int(alive.sum()), len(alive), multiples.get(name, 1))
        return self.context.speedup(widths) >= self.context.goal

    def _pushed(self) -> dict[str, Float[Tensor, " positions"]]:
        """Return l at every position of every scale, 0 also where a set's strongest channels are."""
        pushed = {name: weight.clone() for name, weight in self.weights.items()}
        for name, values in self.scores().items():
            strongest = keep_strongest(values, self.settings.least_channels)
            for scale in self.scales[name]:
                pushed[scale.name][torch.from_numpy(scale.positions(strongest))] = 0.0
        return pushed

    def _above(self, threshold: float) -> Keep:
        return {
            name: keep_strongest(values, max(self.settings.least_channels, int((values > threshold).sum())))
            for name, values in self.scores().items()
        }

    def _penalty_weights(self) -> dict[str, Float[Tensor, " positions"]]:
        """Return l at every position of every scale, 0 where the channel cannot be removed."""
        every = {scale.name: scale for found in self.scales.values() for scale in found}
        latency = {name: self._latency(scale) for name, scale in every.items()}
        mean = sum(latency.values()) / len(latency)
        weights = {name: torch.zeros(len(scale.channels)) for name, scale in every.items()}
        for found in self.scales.values():
            for scale in found:
                weights[scale.name][scale.channels >= 0] = latency[scale.name] / mean
        return weights

    def _latency(self, scale: Scale) -> float:
        if not self.settings.device_aware:
            return 1.0
        shares, sets = self.context.latency_shares, self.context.graph.sets
        own = [layer.name for layer in self.context.graph.layers if layer.norm and layer.norm.scale == scale.name]
        makers = own or [layer for name, found in self.scales.items() if scale.name in {each.name for each in found}
                         for layer in sets[name].producers]  # fmt: skip
        missing = [name for name in makers if name not in shares]
        if missing:
            raise BadInput(
                f"layer {missing[0]!r} has no latency; profile the network again or set device_aware to false"
            )
        return sum(shares[name] for name in makers) / len(makers)
