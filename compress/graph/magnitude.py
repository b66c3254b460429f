"""Scores without training: the magnitude of each channel's weights with its normalisation folded in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compress.graph.channels import ChannelGraph, Layer, WeightSlice

Floats = NDArray[np.float64]


def magnitudes(graph: ChannelGraph) -> dict[str, Floats]:
    """Score every channel of every set.

    A layer's channel has the L1 norm of its weights, times the scale and over the deviation of the normalisation
    that follows, plus the magnitude of its offset; over the layer's mean, so that layers compare. A channel that
    several layers make has the mean of their scores.

    Returns:
        Channel set -> one score per channel, higher means keep.
    """
    layers = {layer.name: layer for layer in graph.layers}
    scores = {}
    for one in graph.sets.values():
        slices = {(part.initializer, part.axis): part for part in graph.slices(one.name)}
        total = np.zeros(one.width)
        for producer in one.producers:
            found = _layer_scores(graph, layers[producer], slices, one.width)
            total += found / (found.mean() or 1.0)
        scores[one.name] = total / len(one.producers)
    return scores


def output_axis(graph: ChannelGraph, layer: Layer) -> int:
    """Return the axis of a layer's weight along which its output channels lie."""
    if layer.op in ("Conv", "ConvTranspose"):
        return 0 if layer.op == "Conv" else 1
    node = next(node for node in graph.network.model.graph.node if node.name == layer.node)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed or layer.weight not in node.input else 1


def _layer_scores(
    graph: ChannelGraph, layer: Layer, slices: Mapping[tuple[str, int], WeightSlice], width: int
) -> Floats:
    weights = graph.network.weights
    part = slices.get((layer.weight, output_axis(graph, layer)))
    if part is None:  # the channels of a grouped transposed convolution that its inputs decide on
        part = next(one for (name, _), one in slices.items() if name == layer.weight)
    score = _per_channel(np.abs(weights[layer.weight]), part, width)
    offset = layer.bias
    if layer.norm is not None:
        scale = slices[layer.norm.scale, 0]
        score *= _per_channel(np.abs(weights[layer.norm.scale]), scale, width)
        if layer.norm.var is not None:
            deviation = np.sqrt(weights[layer.norm.var].astype(np.float64) + layer.norm.epsilon)
            score /= np.maximum(_per_channel(deviation, slices[layer.norm.var, 0], width), 1e-12)
        offset = layer.norm.bias
    if offset is not None and (offset, 0) in slices:
        score += _per_channel(np.abs(weights[offset]), slices[offset, 0], width)
    return score


def _per_channel(data: NDArray[np.generic], part: WeightSlice, width: int) -> Floats:
    """Sum what belongs to each channel."""
    channels = np.broadcast_to(part.channels, data.shape).reshape(-1)
    own = channels >= 0
    sums: Floats = np.bincount(channels[own], data.reshape(-1)[own].astype(np.float64), width).astype(np.float64)
    return sums
