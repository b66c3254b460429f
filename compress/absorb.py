"""Absorb the constants of removed channels into a module: a channel whose scale is zero still emits its offset.

Network Slimming's authors drop the offset; its users saw accuracy drop with it. What a constant channel adds to the
next layer is a constant too, which the layer's bias or its normalisation's mean can hold: exactly inside a picture, but
a zero-padded border sees fewer taps of it. How much that changes the network is measured here.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from compress.graph.absorb import dead_effects
from compress.graph.channels import ChannelGraph, Keep
from compress.scores import norm_scales
from compress.surgery import named_tensors, prune_module, with_weights
from compress.train.judge import run_in_chunks


@dataclass(frozen=True)
class Absorbed:
    """What became of the constants.

    Attributes:
        channels: How many channels' constants were moved into at least one layer.
        nowhere: Layers that use such channels and have neither a bias nor stored statistics to hold the constants.
    """

    channels: int
    nowhere: tuple[str, ...]


def absorb_(module: nn.Module, graph: ChannelGraph, keep: Keep) -> Absorbed:
    """Silence the channels that will be removed, and add what their offsets gave to the layers after them, in place.

    A scale that is nearly zero is taken for zero: the sub-gradient of an L1 penalty never arrives there.

    Args:
        module: The module that the graph's network was exported from; its weights may have been trained since.
        graph: The channel graph.
        keep: What will be kept.

    Raises:
        BadInput: `keep` does not fit the graph, or the network holds weights that were computed from others.
    """
    tensors = named_tensors(module)
    removed = {name: np.setdiff1d(np.arange(graph.sets[name].width), kept) for name, kept in keep.items()}
    scales = [(scale, removed[name]) for name, found in norm_scales(graph, module).items() for scale in found
              if name in removed]  # fmt: skip
    with torch.no_grad():
        for scale, channels in scales:
            tensors[scale.name][scale.positions(channels)] = 0.0
        effects = dead_effects(replace(graph, network=with_weights(graph.network, tensors)), keep, borders=True)
        nowhere = [name for name, effect in effects.by_layer.items() if not _hold_(tensors, graph, name, effect)]
        for scale, channels in scales:
            if scale.offset is not None:
                tensors[scale.offset][scale.positions(channels)] = 0.0
    return Absorbed(effects.channels, tuple(nowhere))


def border_error(module: nn.Module, graph: ChannelGraph, keep: Keep, inputs: Tensor) -> float:
    """Measure what absorbing changes: where the borders are padded, it is not exact.

    Args:
        module: As for `absorb_`; it is not changed.
        graph: The channel graph.
        keep: What will be kept.
        inputs: Samples.

    Returns:
        The largest change of an output, as a share of the outputs' spread.
    """
    constant, absorbed = copy.deepcopy(module), copy.deepcopy(module)
    tensors = named_tensors(constant)
    with torch.no_grad():
        for name, kept in keep.items():
            channels = np.setdiff1d(np.arange(graph.sets[name].width), kept)
            for scale in norm_scales(graph, module).get(name, ()):
                tensors[scale.name][scale.positions(channels)] = 0.0
    absorb_(absorbed, graph, keep)
    sliced = prune_module(absorbed, graph, keep, prove=False)
    before, after = run_in_chunks(constant, inputs), run_in_chunks(sliced, inputs)
    return float((before - after).abs().max() / (before.max() - before.min()))


def _hold_(tensors: dict[str, Tensor], graph: ChannelGraph, name: str, effect: Float[np.ndarray, " outputs"]) -> bool:
    """Put a constant into a layer's bias, or into the mean that its normalisation subtracts; tell whether it fits."""
    layer = graph.layer(name)
    users = Counter(each.bias for each in graph.layers)
    if layer.bias in tensors and users[layer.bias] == 1:
        held, sign = tensors[layer.bias], 1.0
    elif layer.norm is not None and layer.norm.mean in tensors:
        held, sign = tensors[layer.norm.mean], -1.0
    else:
        return layer.norm is not None and layer.norm.op == "InstanceNormalization"  # which subtracts it by itself
    held += sign * torch.from_numpy(effect).to(held).reshape(held.shape)
    return True
