"""What the papers' own structures imply that each method costs: numbers kept, and multiplications done in a step.

Each formula takes the shapes of the whole network from its channel graph, and settings from the method; nothing is read
off what the method allocated. A step of plain training is three times the network's multiplications on a batch: one
forward pass, and one backward pass each for activations and weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from compress.graph.channels import ChannelGraph, ChannelSet, Layer
from compress.graph.count import macs
from compress.methods.dcp import place_heads
from compress.methods.learned_groups import eligible
from compress.methods.squeeze_excitation import LEAST_HIDDEN
from compress.train.judge import RECALIBRATION_SAMPLES

PASSES_A_STEP = 3  # forward, and backward for activations and for weights


@dataclass(frozen=True)
class Studied:
    """What the formulas read.

    Attributes:
        module: The network as it was before the method began.
        graph: Its channel graph.
        settings: The method's; None of what is no method.
        batch: Samples of a step.
    """

    module: nn.Module
    graph: ChannelGraph
    settings: Any
    batch: int


@dataclass(frozen=True)
class Implied:
    """What a structure implies.

    Attributes:
        formula: In words and symbols, with its source.
        parameters: Numbers that are trained, or held as weights, beside the network's own.
        buffers: Other numbers that are held.
        macs: Multiplications of one step's forward pass, beside those of the network.
        passes: How often the step does them.
    """

    formula: str
    parameters: int = 0
    buffers: int = 0
    macs: int = 0
    passes: int = PASSES_A_STEP

    def step_ratio(self, studied: Studied) -> float:
        """Return the implied time of a step over that of a plain one, as if all multiplications cost the same."""
        plain = PASSES_A_STEP * studied.batch * macs(studied.graph.network)
        return 1 + self.passes * self.macs / plain


def decig(studied: Studied) -> Implied:
    """One pass over the weights."""
    made = {name for one in studied.graph.prunable for name in one.producers}
    weights = sum(_weight(studied, layer).numel() for layer in studied.graph.layers if layer.name in made)
    return Implied("nothing is kept; |W| of every prunable layer once (arXiv 2203.10363, the penalty)", macs=weights)


def network_slimming(studied: Studied) -> Implied:
    """One pass over the scales."""
    scales = sum(layer.out_channels for layer in studied.graph.layers if layer.norm is not None)
    return Implied("nothing is kept; |gamma| of every scale once (arXiv 1708.06519, eq. 1)", macs=scales)


def dhp(studied: Studied) -> Implied:
    """A hypernetwork in place of each weight: for k x k kernels 98 numbers a pair in place of 9, for 1 x 1 26 of 1."""
    embedding, parameters, products = studied.settings.embedding, 0, 0
    for layer in studied.graph.layers:
        shape = _weight(studied, layer).shape
        pairs, size = math.prod(shape[:2]), math.prod(shape[2:])
        parameters += pairs * (size * embedding + embedding + 1 + embedding + size) - pairs * size
        products += pairs * (size * embedding + embedding)
    latents = sum(one.width for one in studied.graph.prunable)
    return Implied(
        "sum over pairs of channels of k k m + m + 1 + m + k k, in place of k k, and the latents (arXiv 2003.13683)",
        parameters + latents,
        macs=products,
    )


def auto_pruner(studied: Studied) -> Implied:
    """A fully-connected matrix from the pooled map to the gates, once for the whole batch."""
    numbers = 0
    for one in studied.graph.prunable:
        height, width = _map(studied.graph, one)
        numbers += one.width**2 * max(1, height // 2) * max(1, width // 2)
    return Implied("sum over sets of C C floor(H/2) floor(W/2) (arXiv 1805.08941)", numbers, macs=numbers)


def dcp(studied: Studied) -> Implied:
    """Auxiliary heads: a normalisation and a linear map to the outputs, at every position where these are pictures."""
    graph = studied.graph
    taken = {node.name: node.input[0] for node in graph.network.model.graph.node}
    made = next(iter(graph.network.outputs.values()))
    parameters = products = 0
    for layer in place_heads(graph, studied.module, studied.settings.heads):
        _, channels, height, width = graph.network.shapes[taken[layer.node]]
        positions = height * width if len(made) == 4 else 1
        parameters += 2 * channels + channels * made[1] + made[1]
        products += studied.batch * positions * channels * made[1]
    return Implied(
        "sum over heads of 2 C + C K + K: BN and FC of C channels to K outputs (arXiv 1810.11809)",
        parameters,
        macs=products,
    )


def squeeze_excitation(studied: Studied) -> Implied:
    """A block on each set that one layer alone makes."""
    parameters = products = 0
    for one in studied.graph.prunable:
        if len(_makers(studied.graph, one)) == 1:
            hidden = max(LEAST_HIDDEN, one.width // studied.settings.reduction)
            parameters += 2 * one.width * hidden + hidden + one.width
            products += studied.batch * 2 * one.width * hidden
    return Implied("sum over gated sets of 2 C C/r + C/r + C (arXiv 1709.01507, eq. 3)", parameters, macs=products)


def learned_groups(studied: Studied) -> Implied:
    """A mask as large as each weight, multiplied onto it."""
    names = eligible(studied.module, studied.settings)
    weights = sum(studied.module.get_submodule(name).weight.numel() for name in names)
    return Implied(
        "a mask of the size of every condensed weight (arXiv 1711.09224, its code)", buffers=weights, macs=weights
    )


def distillation(studied: Studied) -> Implied:
    """A second network, of the whole width, that only runs forward."""
    return Implied(
        "the teacher's weights and one forward pass of it",
        sum(parameter.numel() for parameter in studied.module.parameters()),
        sum(buffer.numel() for buffer in studied.module.buffers()),
        macs=studied.batch * macs(studied.graph.network),
        passes=1,
    )


FORMULAS: dict[str, Callable[[Studied], Implied]] = {
    "decig": decig,
    "network-slimming": network_slimming,
    "dhp": dhp,
    "auto-pruner": auto_pruner,
    "dcp": dcp,
    "se": squeeze_excitation,
    "learned-groups": learned_groups,
    "distillation": distillation,
}


def implied_steps(name: str, settings: Any, batch: int) -> float:
    """Return how many plain training steps a pass that only scores is worth, by the samples that it runs.

    The optimizer's share of a step is left out.

    Args:
        name: Of the method.
        settings: Its settings.
        batch: Samples of a plain step.
    """
    if name != "greedy":
        return settings.samples / batch  # each forward and backward by itself
    scored = (settings.cuts + 1) * settings.samples
    recalibrated = settings.cuts * RECALIBRATION_SAMPLES / PASSES_A_STEP  # forward only
    return (scored + recalibrated) / batch


def _weight(studied: Studied, layer: Layer) -> nn.Parameter:
    return studied.module.get_parameter(layer.weight)


def _makers(graph: ChannelGraph, one: ChannelSet) -> list[Layer]:
    """Return the layers that make a set, without depthwise ones, which hand channels on."""
    layers = [graph.layer(name) for name in one.producers]
    return [layer for layer in layers if not (layer.groups > 1 and one.name in layer.in_sets)]


def _map(graph: ChannelGraph, one: ChannelSet) -> tuple[int, int]:
    shape = graph.network.shapes[graph.layer(one.producers[0]).output]
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)
