"""Find the channels that a module's own code does not let go.

Code may repeat a width as a number or rely on an invariant (a head size, a list of split sizes) that no graph shows.
The pruned module then computes something else than the pruned network, or nothing at all. Here the channel sets that
cause it are found, by bisection, and frozen with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph, Keep
from compress.surgery import disagreement, prune_module


@dataclass(frozen=True)
class FlexiblePruning:
    """A module pruned as far as its code allows.

    Attributes:
        module: The pruned module.
        graph: The channel graph with the rigid sets frozen.
        keep: What was kept; sets that turned out rigid are left out.
        frozen: Rigid set -> the reason.
    """

    module: nn.Module
    graph: ChannelGraph
    keep: Keep
    frozen: dict[str, str]


def prune_where_flexible(module: nn.Module, graph: ChannelGraph, keep: Keep) -> FlexiblePruning:
    """Prune a module; where its code does not allow it, freeze the coupled set that breaks and prune the rest.

    Args:
        module: The module that `graph.network` was exported from.
        graph: Its channel graph.
        keep: Channel set -> sorted indices to keep.

    Raises:
        BadInput: `keep` does not fit the graph, or the module is another one.
        ParityFailed: The pruning of what is left cannot be proven.
    """
    frozen = rigid_sets(module, graph, keep)
    if frozen:
        graph = analyse(graph.network, frozen=frozen)
    flexible = {name: indices for name, indices in keep.items() if graph.sets[name].frozen is None}
    return FlexiblePruning(prune_module(module, graph, flexible), graph, flexible, frozen)


def rigid_sets(module: nn.Module, graph: ChannelGraph, keep: Keep) -> dict[str, str]:
    """Return the sets of `keep` that the module's code does not let go, with the reasons.

    Sets of one family are pruned together. Families that only break in company are found too: what is left is
    tried again until it works.
    """
    families: dict[str, list[str]] = {}
    for name in keep:
        families.setdefault(graph.sets[name].family, []).append(name)
    frozen: dict[str, str] = {}
    working: list[str] = []
    for family, reason in _search(module, graph, keep, list(families.values()), working):
        frozen.update(dict.fromkeys(family, reason))
    return frozen


def _search(
    module: nn.Module, graph: ChannelGraph, keep: Keep, families: Sequence[list[str]], working: list[str]
) -> list[tuple[list[str], str]]:
    """Add families to the working ones by halves; a family that alone breaks what works is rigid."""
    if not families:
        return []
    names = [*working, *(name for family in families for name in family)]
    reason = disagreement(module, graph, {name: keep[name] for name in names})
    if reason is None:
        working[:] = names
        return []
    if len(families) == 1:
        return [(families[0], reason)]
    half = len(families) // 2
    found = _search(module, graph, keep, families[:half], working)
    return found + _search(module, graph, keep, families[half:], working)
