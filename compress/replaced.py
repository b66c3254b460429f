"""Methods that put other layers in the place of some: where that pays, and what is known of the network they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from compress.budget import Budget
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Proof
from compress.methods.base import Gains, Replacing, Settings
from compress.scores import Scores, producers, set_norms
from compress.start import Start
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target


@dataclass(frozen=True)
class Replaced:
    """What is known of a network in which a method replaced layers.

    Attributes:
        graph: Its channel graph.
        profiles: Its own device profile by target.
        proof: That it computes what it did before; what its layers do not read any more counts as removed.
    """

    graph: ChannelGraph
    profiles: Mapping[Target, DeviceProfile]
    proof: Proof

    def scores(self, module: nn.Module) -> Scores:
        """Return the folded norms of the channels, over their mean in each layer; 0 for what nothing reads."""
        norms = set_norms(producers(self.graph, module), module)
        return {name: np.zeros_like(one) if name in self.graph.unread else one for name, one in norms.items()}

    def chosen(self) -> Keep:
        """Return the choice of channels that costs nothing: of those that nothing reads, the fewest."""
        return {name: np.arange(1) for name in self.graph.unread}


def measured_gains(start: Start, settings: Settings) -> Gains:
    """Measure, once in a run, what the layers gain that a method may replace; empty for methods that replace none."""
    if not isinstance(settings, Replacing):
        return {}
    module, graph = start.baseline.module, start.graph  # by all processes, before the first one measures alone
    seconds = start.recipe.measure_seconds / 3
    return start.once("gains of other layers", lambda: settings.gains(module, graph, start.targets, seconds))


def settings_for(start: Start, settings: Settings, budget: Budget) -> Settings:
    """Return a method's settings; of one that replaces layers, for those where it pays on a budget's targets.

    Raises:
        PaysNowhere: There is no such layer.
    """
    if not isinstance(settings, Replacing):
        return settings
    needed = {target.name: speedup for target, speedup in start.needed(budget).items()}
    return settings.where_it_pays(measured_gains(start, settings), needed)


def analysed_anew(start: Start, module: nn.Module, proof: Proof, budget: Budget) -> Replaced:
    """Export, analyse and profile what a method left.

    Args:
        start: What the run starts from.
        module: The network as the method left it.
        proof: The method's own.
        budget: That the method was steered to.
    """
    graph = start.analysed(module, budget.step("rigid channels of other layers"))
    place = f"replaced-{budget.key}" if budget.place else "replaced"
    return Replaced(graph, start.profiles_of(graph, place), proof)
