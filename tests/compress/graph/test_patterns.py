from __future__ import annotations

import numpy as np
import pytest

from compress.graph.choose import choose
from compress.graph.count import parameters
from compress.graph.proof import TOLERANCE
from compress.graph.surgery import prune
from tests.compress.graph.patterns import PATTERNS, graph_of

RECURRENT = ["i", "l.weight_ih_l0", "b.weight_ih_l0", "g.weight_ih_l0"]

# What must be found: set -> (width, step). A missing layer is frozen, and should be.
SETS = {
    "Residual": {"a": (16, 1)},
    "Dense": {"a": (8, 1), "b": (6, 1), "c": (4, 1)},
    "SplitChunk": {"a": (8, 1), "a[2]": (6, 1), "a[3]": (2, 1), "b": (8, 1), "c": (4, 1)},
    "Depthwise": {"a": (8, 1)},
    "Grouped": {"a": (16, 4), "b": (24, 4)},
    "Transposed": {"a": (8, 1), "b": (12, 3), "c": (12, 3)},
    "TransposedGroups": {"a": (4, 2), "b": (4, 2)},
    "ShuffleV1": {"a": (12, 3), "b": (4, 4)},
    "ShuffleUneven": {"a": (24, 3), "b": (6, 3)},
    "ShuffleV2": {"a": (4, 1), "a[2]": (4, 1), "a[3]": (8, 1), "b": (8, 1)},
    "PixelShuffleOp": {"a": (4, 1)},
    "PixelShuffleHand": {"a": (4, 1)},
    "PixelUnshuffle": {"a": (6, 1)},
    "SpaceToDepthHand": {"a": (6, 1)},
    "FlattenLinear": {"a": (6, 1), "b": (10, 1)},
    "PermuteFlatten": {"a": (6, 1), "b": (10, 1)},
    "SqueezeExcite": {"a": (16, 1), "r": (4, 1), "l1": (4, 1)},
    "LayerScale": {"a": (8, 1)},
    "Norms": {"a": (16, 1), "b": (16, 4), "c": (12, 1)},
    "Shared": {"a": (8, 1)},
    "Attention": {"i": (16, 1), "m.in_proj_weight": (16, 4), "m.in_proj_weight[2]": (16, 4), "f": (32, 1)},
    "AttentionHand": {"i": (16, 1), "qkv": (16, 4), "qkv[2]": (16, 4)},
    "GroupedQuery": {"i": (16, 1), "q": (8, 2), "v": (8, 2)},
    "Rotary": {"q": (2, 1), "v": (16, 4)},
    "RotaryPairs": {"q": (2, 1), "v": (16, 4)},
    "StridedHeads": {"v": (6, 1), "v[2]": (6, 1)},
    "LinearAttention": {"i": (8, 1), "qkv": (8, 2), "qkv[2]": (8, 2), "g": (8, 2), "g[2]": (8, 2)},
    "TokenMix": {"i": (16, 1)},
    "Swin": {"i": (16, 1), "qkv": (16, 2), "qkv[2]": (16, 2)},
    "Gated": {"a": (8, 1), "b": (6, 1)},
    "ResizeFlip": {"a": (8, 1), "b": (5, 1), "b[2]": (3, 1)},
    "PadChannels": {"a": (6, 1), "b": (4, 1)},
    "IndexPerm": {"a": (6, 1)},
    "IndexGrid": {"a": (6, 2), "a[2]": (3, 1), "b": (8, 1)},
    "Repeat": {"a": (6, 1)},
    "Conv1d": {"a": (8, 1), "b": (6, 1)},
    "Conv3d": {"a": (8, 1)},
    "TwoInOut": {"a": (8, 1)},
    "Recurrent": {n: (w, 1) for n, w in zip(RECURRENT, (10, 12, 6, 8), strict=True)},
    "Einsum": {"l": (8, 1)},
    "ChannelMean": {"a": (8, 1), "d": (3, 1)},
    "BlurPool": {"a": (8, 1)},
    "Tokens": {"a": (16, 1), "b": (8, 1)},
}


@pytest.mark.parametrize("name", SETS)
def test_the_coupled_sets_are_found(name: str) -> None:
    assert {one.name: (one.width, one.step) for one in graph_of(name).sets.values()} == SETS[name]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("ratio", [0.5, 0.3, "uneven"])
def test_pruning_a_pattern_equals_zeroing(name: str, ratio: float | str) -> None:
    graph = graph_of(name)
    generator = np.random.default_rng(3)
    scores = {one.name: generator.random(one.width) for one in graph.sets.values()}
    uneven = {one.family: float(generator.uniform(0.1, 1.0)) for one in graph.sets.values()}
    keep = choose(graph, scores, uneven if isinstance(ratio, str) else ratio)
    pruned = prune(graph.network, keep)
    assert pruned.proof is not None
    assert pruned.proof.max_error_of_spread <= TOLERANCE
    assert (parameters(pruned) < parameters(graph.network)) == bool(keep)
