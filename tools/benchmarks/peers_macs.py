"""MACs in the place of milliseconds: what our methods would go by if they knew nothing of the device."""

from __future__ import annotations

from dataclasses import replace

from compress.cut import Rig
from compress.graph.channels import ChannelGraph
from compress.graph.count import macs_by_node
from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.profile import DeviceProfile


def macs_rig(rig: Rig) -> Rig:
    """Return what fits MACs into a rig's budget, and measures milliseconds.

    What widths are multiples of is still what the device likes.
    """
    counted = {target: _counting(profile, rig.graph) for target, profile in rig.profiles.items()}
    return Rig(rig.graph, counted, rig.needed, rig.seconds)


def macs_by_layer(graph: ChannelGraph) -> dict[str, int]:
    """Return the MACs of each layer at full width."""
    counts = macs_by_node(graph.network)
    by_operator = {node.name: node.output[0] for node in graph.network.model.graph.node}
    return {layer.name: counts[by_operator[layer.node]] for layer in graph.layers}


def macs_shares(graph: ChannelGraph) -> dict[str, float]:
    """Return each layer's share of all MACs, as `Context.latency_shares` has it of the latency."""
    full = macs_by_layer(graph)
    return {name: count / sum(full.values()) for name, count in full.items()}


def _counting(profile: DeviceProfile, graph: ChannelGraph) -> DeviceProfile:
    """Return a profile in which a layer takes one millisecond for each of its MACs."""
    depthwise = {layer.name for layer in graph.layers if layer.groups > 1}  # a channel takes the same beside any others
    costs = {name: {"out" if name in depthwise else "in*out": count} for name, count in macs_by_layer(graph).items()}
    full = {layer.name: (layer.in_channels, layer.out_channels) for layer in profile.layers}
    whole = MeasuredVariant(full, profile.end_to_end, {})
    return replace(profile, in_context=InContext((whole,), costs, merged={}, error=0.0))
