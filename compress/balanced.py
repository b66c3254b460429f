"""From how many channels a method would keep to a choice that the balance rules allow."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from compress.graph.channels import ChannelGraph, Keep
from compress.graph.choose import choose


def keep_counts(
    graph: ChannelGraph, scores: Mapping[str, Float[np.ndarray, " channels"]], counts: Mapping[str, int]
) -> Keep:
    """Keep as many of each set's channels as asked for, those with the highest scores.

    A set that must keep a multiple of something keeps the next larger one, and sets that must keep the same share keep
    the largest that any of them asks for.

    Args:
        graph: The channel graph.
        scores: One finite score per channel, by set.
        counts: How many channels to keep of each of these sets.
    """
    shares: dict[str, float] = {}
    for name, count in counts.items():
        one = graph.sets[name]
        share = min(1.0, math.ceil(max(1, count) / one.step) * one.step / one.width)
        shares[one.family] = max(shares.get(one.family, 0.0), share)
    chosen = choose(graph, scores, shares)
    return {name: chosen.get(name, np.arange(len(values))) for name, values in scores.items()}
