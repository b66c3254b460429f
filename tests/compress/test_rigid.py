from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.graph.choose import choose
from compress.rigid import prune_where_flexible
from compress.surgery import prune_module
from device_profiles.errors import ParityFailed
from tests.compress.graph.patterns import PATTERNS, build, example, graph_of

# What the code of a pattern does not let go: literal sizes, invariants, weights standardised over what is removed.
RIGID = {
    "SplitChunk": {"a", "a[2]", "a[3]"},
    "TransposedGroups": {"b"},
    "StandardisedWeights": {"a"},
    "BatchStandardisedWeights": {"a", "b.folded"},
    "Attention": {"i", "m.in_proj_weight", "m.in_proj_weight[2]"},
    "AttentionHand": {"i", "qkv", "qkv[2]"},
    "GroupedQuery": {"i", "q", "v"},
    "Rotary": {"q", "v"},
    "RotaryPairs": {"q", "v"},
    "LinearAttention": {"qkv", "qkv[2]", "g", "g[2]"},
    "StridedHeads": {"v", "v[2]"},
    "Swin": {"i", "qkv", "qkv[2]"},
    "ResizeFlip": {"b[2]"},
    "PadChannels": {"b"},
    "IndexPerm": {"a"},
    "IndexGrid": {"a", "a[2]"},
    "BlurPool": {"a"},
}


def half(name: str) -> dict[str, np.ndarray]:
    graph = graph_of(name)
    generator = np.random.default_rng(0)
    return dict(choose(graph, {one.name: generator.random(one.width) for one in graph.sets.values()}, 0.5))


@pytest.mark.parametrize("name", PATTERNS)
def test_only_what_the_code_does_not_let_go_stays(name: str) -> None:
    pruned = prune_where_flexible(build(name), graph_of(name), half(name))
    assert set(pruned.frozen) == RIGID.get(name, set())
    assert set(pruned.keep) == set(half(name)) - set(pruned.frozen)
    assert all(pruned.graph.sets[rigid].frozen == reason for rigid, reason in pruned.frozen.items())


@pytest.mark.parametrize("name", ["Swin", "ResizeFlip", "BlurPool"])
def test_prune_module_refuses_what_the_code_does_not_let_go(name: str) -> None:
    with pytest.raises(ParityFailed, match="once it is pruned; its code computes with sizes of its own"):
        prune_module(build(name), graph_of(name), half(name))


def test_parametrised_weights_become_plain_and_the_original_stays_parametrised() -> None:
    module = build("ParametrisedWeights").eval()
    before = module(*example("Residual"))
    pruned = prune_module(module, graph_of("ParametrisedWeights"), half("ParametrisedWeights"))
    assert {name for name, _ in pruned.named_parameters()} == {f"{k}.{w}" for k in "abcd" for w in ("weight", "bias")}
    assert hasattr(module.a, "parametrizations")
    assert module(*example("Residual")).shape == before.shape
    assert torch.equal(pruned.a.weight, module.a.weight[torch.from_numpy(half("ParametrisedWeights")["a"])])
