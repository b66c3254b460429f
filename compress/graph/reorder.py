"""Put a set's channels into another order, exactly: what a layer would have to gather comes in that order then.

Which order the filters of a layer stand in is free as long as all that touches their channels follows: biases and
normalisations, the other layers of a residual sum, and whatever reads them. Only a reader that looks at some channels
apart from others, as a grouped convolution does, takes no other order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.graph.channels import ChannelGraph, WeightSlice
from compress.graph.labels import IntArray


@dataclass(frozen=True)
class Rearrangement:
    """What comes to stand where along one axis of an initializer.

    Attributes:
        initializer: Its name.
        axis: The axis.
        index: The present position of what is to stand at each position.
    """

    initializer: str
    axis: int
    index: IntArray


def rearrangements(graph: ChannelGraph, layer: str, order: IntArray) -> tuple[Rearrangement, ...] | None:
    """Tell how weights are rearranged so that a layer's inputs come in another order, and the network stays the same.

    Args:
        graph: The channel graph.
        layer: A convolution's name.
        order: The present position of the input that is to come at each position.

    Returns:
        One for every axis along which channels of the layer's input set lie, its own weight's among them; None where
        the order is not free: the inputs are no whole set, each channel once, or the set is frozen or balanced.
    """
    name = input_set(graph, layer)
    if name is None or not np.array_equal(np.sort(order), np.arange(graph.sets[name].width)):
        return None
    one = graph.sets[name]
    channels = _channels(graph, layer, one.classes)
    balanced = any(np.isin(rule.rows, one.classes).any() for rule in graph.balances)
    if one.frozen is not None or balanced or not np.array_equal(np.sort(channels), np.sort(order)):
        return None
    becomes = np.empty(one.width, np.int64)
    becomes[channels] = channels[order]
    found = [_rearranged(part, becomes, graph.network.shapes[part.initializer]) for part in graph.slices(name)]
    return None if None in found else tuple(each for each in found if each is not None)


def input_set(graph: ChannelGraph, layer: str) -> str | None:
    """Return the channel set that a layer's inputs are, where all of them are of one set."""
    sets = graph.layer(layer).in_sets
    return next(iter(sets)) if len(sets) == 1 else None


def _channels(graph: ChannelGraph, layer: str, classes: IntArray) -> IntArray:
    """Return the set's channel at every input of a layer; -1 for what is not of the set."""
    node = next(node for node in graph.network.model.graph.node if node.name == graph.layer(layer).node)
    labels = graph.execution.tensors[node.input[0]].vector(1)
    channel_of = np.full(len(graph.class_of), -1, np.int64)
    channel_of[classes] = np.arange(len(classes))
    return np.zeros(0, np.int64) if labels is None else channel_of[graph.class_of[labels]]


def _rearranged(part: WeightSlice, becomes: IntArray, shape: tuple[int, ...]) -> Rearrangement | None:
    """Rearrange one axis; None where its channels differ between rows or do not occur equally often."""
    channels = part.channels.reshape(-1)
    index = np.arange(shape[part.axis])
    count, left = divmod(int((channels >= 0).sum()), len(becomes))
    if len(channels) != len(index) or left:
        return None
    by_channel = np.argsort(channels, kind="stable")[len(channels) - count * len(becomes) :]
    places = by_channel.reshape(len(becomes), count)
    if not (channels[places] == np.arange(len(becomes))[:, None]).all():
        return None
    index[places] = places[becomes]
    return Rearrangement(part.initializer, part.axis, index)
