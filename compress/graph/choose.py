"""Choose which channels stay, so that everything that must be balanced is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compress.graph.analyse import atom_of
from compress.graph.channels import ChannelGraph, Keep
from device_profiles.errors import BadInput

Scores = Mapping[str, NDArray[np.floating]]


def choose(graph: ChannelGraph, scores: Scores, keep_ratio: float | Mapping[str, float]) -> Keep:
    """Keep the best channels of every set.

    Sets of one family keep the same share, and within a set every group of channels that lies in the same rows of
    the balance rules keeps the same share: so each row keeps equally many.

    Args:
        graph: The channel graph.
        scores: Channel set -> one score per channel, higher means keep; sets without scores keep all.
        keep_ratio: Share of the channels that stay, in (0, 1]; one for all, or one per family.

    Returns:
        Channel set -> sorted indices, at least one each.

    Raises:
        BadInput: A ratio is out of range, a set is unknown, or its scores are not one finite number per channel.
    """
    _check(graph, scores, keep_ratio)
    atoms = atom_of(graph.sets, graph.balances, len(graph.class_of))
    whole = {one.family for one in graph.sets.values() if one.frozen is not None or one.name not in scores}
    keep: dict[str, NDArray[np.int64]] = {}
    for one in graph.prunable:
        if one.family in whole:
            continue
        ratio = keep_ratio if isinstance(keep_ratio, float | int) else keep_ratio.get(one.family, 1.0)
        parts = one.width // one.step
        part = max(1, round(ratio * parts))
        if part == parts:
            continue
        own = atoms[one.classes]
        chosen = []
        for atom in np.unique(own):
            members = np.flatnonzero(own == atom)
            best = np.argsort(-scores[one.name][members], kind="stable")
            chosen.append(members[best[: len(members) * part // parts]])
        keep[one.name] = np.sort(np.concatenate(chosen)).astype(np.int64)
    return keep


def _check(graph: ChannelGraph, scores: Scores, keep_ratio: float | Mapping[str, float]) -> None:
    ratios = {"all": keep_ratio} if isinstance(keep_ratio, float | int) else keep_ratio
    for name, ratio in ratios.items():
        if not 0 < ratio <= 1:
            raise BadInput(f"keep_ratio (={ratio}, {name}) must be above 0 and at most 1")
    for name, values in scores.items():
        if name not in graph.sets:
            raise BadInput(f"channel set {name!r} does not exist; the sets are {', '.join(graph.sets) or '(none)'}")
        width = graph.sets[name].width
        if values.shape != (width,) or not np.isfinite(values).all():
            raise BadInput(f"scores of {name!r} (shape {values.shape}) must be {width} finite numbers")
