"""DHP: weights come out of a small network whose inputs, one number per channel, a proximal step drives to zero.

Y. Li, S. Gu, K. Zhang, L. Van Gool and R. Timofte, "DHP: Differentiable Meta Pruning via HyperNetworks", ECCV 2020,
arXiv 2003.13683. The kernel between an input and an output channel is w2 ((z_in z_out + b0) w1 + b1) + b2 with an
embedding w1 of 8 numbers and a matrix w2 of k k x 8 of its own; z are latent vectors, one per set of coupled channels.
All is trained from scratch, so the weights a network was trained to are given up. Here the sets come from the channel
graph, channels that must all stay have a constant latent of 1 (what the square of the others is on average), every
layer with a weight takes part, and the search may stop at a predicted latency. The paper's networks are trained with
SGD, which moves the biases b little; Adam moves all parameters alike, so latents and biases have rates of their own.
With z = 0 the kernel is still not zero, because of b1 and b2: `exact` leaves the three biases out, and then removing
such a channel changes nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress.balanced import keep_counts
from compress.graph.channels import ChannelGraph, Keep, Layer
from compress.graph.count import macs_by_node
from compress.methods.base import Context
from compress.scores import Scores
from compress.select import Selection
from compress.train.judge import recalibrate_
from compress.train.loop import Extras, Training

TRAVEL = 3.0  # sum of the latents' learning rates over all steps: times the strength, 95 % of them start below it


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Dhp:
    """Settings of the search.

    Args:
        stop_on: What ends the search: the speedup that the job asks for, as predicted, or the MACs that are left.
        macs_target: Share of the MACs to arrive at, where they end the search.
        macs_limit: How far above `macs_target` it may end; the paper's networks do by this much.
        shrinkage: "l1" takes the same from every latent, "l2" from the length of each set's vector.
        strength: What a step takes from a latent, over the latents' learning rate. Adam moves by that rate at most, so
            below 1 a latent that the loss steadily asks for stays; the paper has 0.1 for its 10^5 steps of Adam.
        threshold: Latents below it count as zero (tau).
        min_channels: Of these many channels of a set nothing more is taken.
        embedding: Numbers per pair of channels (m).
        exact: Whether to leave out the hypernetwork's biases.
        bias_rate: Learning rate of these biases, as a multiple of the others'. With 1, cut networks
            read 46 to 72 % of the digits, with 0.1 they read 98 % (tools/benchmarks/method_experiments.py, three runs).
        device_aware: Whether latents of slow layers shrink faster, in proportion to l(i).
    """

    title: ClassVar[str] = "DHP"
    source: ClassVar[str] = "Li, Gu, Zhang, Van Gool and Timofte, ECCV 2020, arXiv 2003.13683"
    score: ClassVar[str] = "magnitude of the latent"
    trains: ClassVar[bool] = True
    selection: ClassVar[Selection] = "threshold"

    stop_on: Literal["latency", "macs"] = "latency"
    macs_target: float = Field(0.5, gt=0, lt=1)
    macs_limit: float = Field(0.02, gt=0)
    shrinkage: Literal["l1", "l2"] = "l1"
    strength: float = Field(0.7, ge=0)
    threshold: float = Field(5e-3, gt=0)
    min_channels: int = Field(4, ge=1)
    embedding: int = Field(8, ge=1)
    exact: bool = False
    bias_rate: float = Field(0.1, gt=0)
    device_aware: bool = True

    def prepare(self, context: Context) -> Search:
        """Put hypernetworks in place of the weights, and start everything else of the network anew, too."""
        return Search(self, context)


class Latents(nn.Module):
    """The latent vectors of all sets, in one parameter.

    Args:
        widths: Channels of each set.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        starts = itertools.accumulate(widths.values(), initial=0)
        self.spans = {name: slice(start, start + widths[name]) for name, start in zip(widths, starts, strict=False)}
        self.values = nn.Parameter(torch.randn(sum(widths.values())))

    def at(self, indices: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Return the latents at indices into all of them, 1 at negative ones."""
        return torch.where(indices < 0, 1.0, self.values[indices.clamp(min=0)])

    def magnitudes(self) -> dict[str, Float[np.ndarray, " channels"]]:
        """Return |z| of each set's channels."""
        values = self.values.detach().abs().cpu().numpy()
        return {name: values[span] for name, span in self.spans.items()}


class Hypernetwork(nn.Module):
    """Makes one weight; a parametrization, so that its own weights are those of the layer while it is there.

    Args:
        latents: Shared by all layers.
        factors: Indices of latents, each to broadcast over the weight's first two axes; their product is z_in z_out.
        fan_in: How many products a value of the layer's output is the sum of.
        settings: See `Dhp`.
    """

    def __init__(self, latents: Latents, factors: list[Int[Tensor, "a b"]], fan_in: int, settings: Dhp) -> None:
        super().__init__()
        self.shared = (latents,)  # a tuple, so that the latents are no part of each layer's state
        self.fan_in = fan_in
        self.settings = settings
        for number, indices in enumerate(factors):
            self.register_buffer(f"factor{number}", indices, persistent=False)
        self.factors = len(factors)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Draw the hypernetwork's weights by hyperfan-in; what the weight was is given up."""
        self.shape = weight.shape
        pairs, size, width = math.prod(weight.shape[:2]), math.prod(weight.shape[2:]), self.settings.embedding
        reach = math.sqrt(3 / (width * self.fan_in))
        matrices = weight.new_empty(pairs, size, width).uniform_(-reach, reach)
        embeddings = weight.new_empty(pairs, width).uniform_(-math.sqrt(3), math.sqrt(3))
        if self.settings.exact:
            return matrices, embeddings
        biases = [weight.new_zeros(shape) for shape in ((pairs, 1), (pairs, width), (pairs, size))]
        return matrices, embeddings, *biases

    def forward(
        self, matrices: Float[Tensor, "p k m"], embeddings: Float[Tensor, "p m"], *biases: Float[Tensor, "p _"]
    ) -> Tensor:
        """Return the weight."""
        (latents,) = self.shared
        product = torch.ones((), device=matrices.device)
        for number in range(self.factors):
            product = product * latents.at(getattr(self, f"factor{number}"))
        pairs = product.expand(self.shape[:2]).reshape(-1, 1)
        if not biases:
            return (matrices * (pairs * embeddings)[:, None]).sum(-1).view(self.shape)
        embedded = (pairs + biases[0]) * embeddings + biases[1]
        return ((matrices * embedded[:, None]).sum(-1) + biases[2]).view(self.shape)


class Search:
    """The search for one network's widths.

    Args:
        settings: See `Dhp`.
        context: What the method is given.
    """

    def __init__(self, settings: Dhp, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.state = {"reached": 0.0}
        self.layers = _layers_with_own_weight(context)
        widths = {one.name: one.width for one in context.graph.prunable if set(one.producers) <= self.layers.keys()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.latents = Latents(widths)
            _restart_(context.module)
            for name, layer in self.layers.items():
                fan_in = context.module.get_parameter(layer.weight).numel() // layer.out_channels
                made = Hypernetwork(self.latents, self._factors(layer), fan_in, settings)
                parametrize.register_parametrization(context.module.get_submodule(name), "weight", made, unsafe=True)
        self.latent_rate = TRAVEL / _rates(context.training)
        self.latency_weights = self._latency_weights()

    def extras(self) -> Extras:
        """Return the proximal step, the stop, and the latents to train."""
        named = dict(self.context.module.named_parameters())
        made = [f"{name}.parametrizations.weight.original" for name in self.layers]
        biases = [named.pop(name + number) for name in made for number in "234" if name + number in named]
        groups: list[dict[str, object]] = [
            {"params": list(named.values()), "lr": 1.0},
            {"params": [self.latents.values], "lr": self.latent_rate},
        ]
        if biases:
            groups.append({"params": biases, "lr": self.settings.bias_rate})
        return Extras(
            after_step=self.after_step,
            finished=lambda: bool(self.state["reached"]),
            modules={"latents": self.latents},
            parameter_groups=groups,
            state=self.state,
        )

    def after_step(self, _: int, rate: float) -> None:
        """Shrink the latents and look whether they are few enough; the paper looks every 100 of its 39,000 steps."""
        by = rate * self.latent_rate * self.settings.strength
        with torch.no_grad():
            for name, span in self.latents.spans.items():
                self._shrink_(self.latents.values[span], by * self.latency_weights[name])
        self.state["reached"] = float(self._reached())

    def finish_(self) -> None:
        """Put the weights that the hypernetworks make in their place.

        The latents shrink faster than running statistics follow, so these are taken anew: without that, networks that
        read 98 % of the digits or more read anything from 12 %.
        """
        for name in self.layers:
            parametrize.remove_parametrizations(self.context.module.get_submodule(name), "weight")
        recalibrate_(self.context.module, self.context.task)

    def scores(self) -> Scores:
        """Return |z|; a set without latents, which cannot shrink, has the largest of all."""
        magnitudes = self.latents.magnitudes()
        top = max((float(values.max()) for values in magnitudes.values()), default=1.0)
        return {
            one.name: magnitudes.get(one.name, np.full(one.width, top, np.float32))
            for one in self.context.graph.prunable
        }

    def keep(self) -> Keep:
        """Return the channels with |z| of at least tau, and never fewer than `min_channels` of a set."""
        magnitudes = self.latents.magnitudes()
        counts = {
            name: max(int((values >= self.settings.threshold).sum()), min(self.settings.min_channels, len(values)))
            for name, values in magnitudes.items()
        }
        return keep_counts(self.context.graph, magnitudes, counts)

    def _shrink_(self, latents: Float[Tensor, " n"], by: float) -> None:
        if int((latents.abs() >= self.settings.threshold).sum()) <= self.settings.min_channels:
            return
        if self.settings.shrinkage == "l1":
            latents.copy_(latents.sign() * (latents.abs() - by).clamp(min=0))
        else:  # by a length that takes as much from the root mean square
            latents.mul_((1 - by * math.sqrt(len(latents)) / latents.norm()).clamp(min=0))

    def _reached(self) -> bool:
        widths = {name: len(kept) for name, kept in self.keep().items()}
        if self.settings.stop_on == "latency":
            return self.context.speedup(widths) >= self.context.goal
        return macs_share(self.context.graph, widths) <= self.settings.macs_target + self.settings.macs_limit

    def _factors(self, layer: Layer) -> list[Int[Tensor, "a b"]]:
        """Find which latents make each axis of a weight: concatenated, repeated or shared as the graph says."""
        factors = []
        for name, span in self.latents.spans.items():
            for part in self.context.graph.slices(name):
                if part.initializer == layer.weight:
                    channels = torch.from_numpy(part.channels.reshape(part.channels.shape[:2]))
                    factors.append(torch.where(channels < 0, -1, channels + span.start))
        return factors

    def _latency_weights(self) -> dict[str, float]:
        """Return l(i) of each set, of mean 1: the latency of the layers that make its channels."""
        sets, shares = self.context.graph.sets, self.context.latency_shares
        if not self.settings.device_aware:
            return dict.fromkeys(self.latents.spans, 1.0)
        made_in = {name: sum(shares[layer] for layer in sets[name].producers) for name in self.latents.spans}
        return {name: share * len(made_in) / sum(made_in.values()) for name, share in made_in.items()}


def macs_share(graph: ChannelGraph, widths: Mapping[str, int]) -> float:
    """Return which share of a network's MACs is left at the given widths by set."""
    counts = macs_by_node(graph.network)
    ends = graph.layer_widths(widths)
    saved = 0.0
    for layer in graph.layers:
        inner, outer = ends[layer.name]
        left = outer / layer.out_channels
        if not 1 < layer.groups == layer.in_channels:  # a depthwise layer's filters see one channel, whatever its width
            left *= inner / layer.in_channels
        saved += (1 - left) * counts.get(layer.output, 0)
    return 1 - saved / sum(counts.values())


def _layers_with_own_weight(context: Context) -> dict[str, Layer]:
    """Return the layers whose weight one module holds alone, as torch's layers do, and nothing else makes."""
    holders: dict[nn.Parameter, int] = {}
    for _, parameter in context.module.named_parameters(remove_duplicate=False):
        holders[parameter] = holders.get(parameter, 0) + 1
    named = dict(context.module.named_parameters())
    return {
        layer.name: layer
        for layer in context.graph.layers
        if layer.weight == f"{layer.name}.weight"
        and layer.weight in named
        and holders[named[layer.weight]] == 1
        and layer.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    }


def _restart_(module: nn.Module) -> None:
    """Draw all parameters anew that torch's own layers have; biases of layers start at 0, as in the paper."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def _rates(training: Training) -> float:
    """Return the sum of the learning rates over all steps."""
    return training.learning_rate * sum(training.rate_at(step) for step in range(training.steps))
