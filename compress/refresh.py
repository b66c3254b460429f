"""Bring a channel graph's network up to date with a module that was trained since it was exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from compress.export import export_module
from compress.graph.channels import ChannelGraph
from compress.graph.fold import folded_name
from compress.graph.network import Network
from compress.graph.run import random_feeds
from compress.surgery import named_tensors, plain, with_weights
from device_profiles.errors import BadInput


def refreshed(graph: ChannelGraph, module: nn.Module) -> ChannelGraph:
    """Return the channel graph with the weights that a module has now.

    Weights that the network holds as they were computed from others (standardised ones) are computed again, by
    exporting the module once more.

    Args:
        graph: The channel graph of the network that the module was exported to.
        module: The module; only its weights may have changed.

    Raises:
        BadInput: The module is another one.
    """
    network = graph.network
    tensors = named_tensors(plain(module))
    if not any(folded_name(name) in network.weights for name in tensors):
        return replace(graph, network=with_weights(network, tensors))
    inputs = [torch.from_numpy(feed) for feed in random_feeds(network).values()]
    again = export_module(module, inputs)
    if _operators(again) != _operators(network):
        raise BadInput(
            f"{type(module).__name__} is exported to other operators than before; give the module that was analysed, "
            "on the same inputs, or analyse it again"
        )
    return replace(graph, network=replace(again, batch=network.batch))


def _operators(network: Network) -> list[tuple[str, Sequence[str], Sequence[str]]]:
    return [(node.op_type, tuple(node.input), tuple(node.output)) for node in network.model.graph.node]
