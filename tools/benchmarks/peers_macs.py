"""MACs in the place of milliseconds: what our methods would go by if they knew nothing of the device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compress.cut import Rig
from compress.graph.channels import ChannelGraph
from compress.graph.count import macs_by_node
from compress.scores import Scores
from compress.select import uniform_widths

SHARES = 65  # of the width that are tried to find what a goal in milliseconds is in MACs


class MacsCost:
    """The MACs of a network at any widths.

    Args:
        graph: Its channels.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        counts = macs_by_node(graph.network)
        by_operator = {node.name: node.output[0] for node in graph.network.model.graph.node}
        self.graph = graph
        self.full = {layer.name: counts[by_operator[layer.node]] for layer in graph.layers}

    def shares(self) -> dict[str, float]:
        """Return each layer's share of all MACs, as `Context.latency_shares` has it of the latency."""
        total = sum(self.full.values())
        return {name: count / total for name, count in self.full.items()}

    def speedup(self, widths: Mapping[str, int]) -> float:
        """Return how many times fewer MACs the network has with the given widths by set."""
        pairs = self.graph.layer_widths(widths)
        left = 0.0
        for layer in self.graph.layers:
            width_in, width_out = pairs[layer.name]
            share = width_out / layer.out_channels
            if layer.groups == 1:  # in a depthwise convolution a channel takes the same beside however many others
                share *= width_in / layer.in_channels
            left += share * self.full[layer.name]
        return sum(self.full.values()) / left

    def goal(self, rig: Rig, scores: Scores) -> float:
        """Return what a goal in milliseconds is in MACs, for uniform widths.

        Args:
            rig: Predicts latencies, and knows the goal.
            scores: Of the sets that can shrink; their values do not matter.
        """
        for share in np.linspace(1.0, 0.0, SHARES):
            widths = uniform_widths(scores, float(share), rig.multiples)
            if rig.predicted_speedup(widths) >= rig.goal:
                break
        return self.speedup(widths)
