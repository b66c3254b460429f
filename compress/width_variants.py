"""Networks of random uneven widths, to measure what widths cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compress.graph.channels import ChannelGraph, Keep
from compress.graph.choose import choose
from compress.graph.surgery import remove_channels
from device_profiles.errors import BadInput
from runtimes.in_context import WidthVariant

LEAST = 0.3
# Of all widths of a network at once: any runtime's fast path is taken by a whole network or missed by one. Drawn layer
# by layer, aligned neighbours are too rare to tell what they save.
ALIGNMENTS = (1, 4, 1, 8, 1, 4, 1, 16)


def full_variant(graph: ChannelGraph) -> WidthVariant:
    """Return the network as it is."""
    return WidthVariant(graph.layer_widths({}), lambda: graph.network.model)


def draw_variants(graph: ChannelGraph, count: int, seed: int, least: float = LEAST) -> tuple[WidthVariant, ...]:
    """Draw widths for every family of channel sets by Latin hypercube: each family covers the whole range evenly.

    Args:
        graph: The channel graph of the network as it is deployed.
        count: How many networks, at least 1.
        seed: Of the draw.
        least: Smallest width as a share of the full one, in (0, 1].

    Raises:
        BadInput: `count` or `least` is out of range, or the network has nothing to prune.
    """
    if count < 1 or not 0 < least <= 1:
        raise BadInput(f"count (={count}) must be at least 1, least (={least}) above 0 and at most 1")
    families = {one.family: one.width for one in graph.prunable}
    if not families:
        raise BadInput("the network has no channels that may be removed, so it has one width only; profile it isolated")
    generator = np.random.default_rng(seed)
    shares = {family: _shares(count, least, generator) for family in families}
    return tuple(
        _variant(graph, {family: _aligned(shares[family][i], width, i) for family, width in families.items()})
        for i in range(count)
    )


def _shares(count: int, least: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """One share of the width from each of `count` equal parts of the range, in random order."""
    parts = (generator.permutation(count) + generator.random(count)) / count
    return np.asarray(least + (1 - least) * parts)


def _aligned(share: float, width: int, place: int) -> float:
    """Round a width to the alignment of the network at a place; one too narrow for it takes what it can."""
    alignment = ALIGNMENTS[place % len(ALIGNMENTS)]
    while alignment > 1 and width < 2 * alignment:
        alignment //= 2
    return min(max(round(share * width / alignment), 1) * alignment, width) / width


def _variant(graph: ChannelGraph, keep_ratio: Mapping[str, float]) -> WidthVariant:
    scores = {one.name: -np.arange(one.width, dtype=np.float64) for one in graph.prunable}
    keep: Keep = choose(graph, scores, keep_ratio)
    widths = graph.layer_widths({name: len(kept) for name, kept in keep.items()})
    return WidthVariant(widths, lambda: remove_channels(graph, keep).model)
