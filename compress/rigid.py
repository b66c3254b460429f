"""Find the channels that a module's own code does not let go.

Code may repeat a width as a number or rely on an invariant (a head size, a list of split sizes) that no graph shows.
The pruned module then computes something else than the original with the removed channels zeroed, or nothing at all.
Here the channel sets that cause it are found and frozen with the reason: by the shapes alone first, which needs no
data, and by what the module computes after that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from compress.culprits import Search
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.proof import prove
from compress.graph.surgery import remove_channels
from compress.skeleton import rigid_by_shape
from compress.surgery import difference, plain, slice_module


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
        before = {one.name: one.frozen for one in graph.sets.values() if one.frozen is not None}
        graph = analyse(graph.network, frozen=before | frozen)
    flexible = {name: indices for name, indices in keep.items() if graph.sets[name].frozen is None}
    prove(graph, flexible, remove_channels(graph, flexible), remove_channels)
    return FlexiblePruning(slice_module(module, graph, flexible), graph, flexible, frozen)


def rigid_sets(module: nn.Module, graph: ChannelGraph, keep: Keep) -> dict[str, str]:
    """Return the sets of `keep` that the module's code does not let go, with the reasons.

    Sets of one family are pruned together. The others were seen to compute, together, what the original computes with
    their removed channels zeroed.

    Raises:
        BadInput: `keep` does not fit the graph, or the module is another one.
    """
    families: dict[str, dict[str, object]] = {}
    for name, indices in keep.items():
        families.setdefault(graph.sets[name].family, {})[name] = indices
    original = plain(module)
    rigid = {}
    if _fails(original, graph, families, list(families)) is not None:
        rigid = rigid_by_shape(original, graph, families)
        search = Search(lambda names: _fails(original, graph, families, names))
        search.run_(_alike([family for family in families if family not in rigid]))
        rigid |= search.found
    return {name: reason for family, reason in rigid.items() for name in families[family]}


def _fails(module: nn.Module, graph: ChannelGraph, families: Mapping[str, Keep], names: Sequence[str]) -> str | None:
    keep = {name: indices for family in names for name, indices in families[family].items()}
    return difference(module, slice_module(module, graph, keep, share=True), graph, keep)


def _alike(families: Sequence[str]) -> list[list[str]]:
    """Group what differs by numbers in the name only: repeated blocks run the same code."""
    kinds: dict[str, list[str]] = {}
    for family in families:
        kinds.setdefault(re.sub(r"\d+", "#", family), []).append(family)
    return list(kinds.values())
