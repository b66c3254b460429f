from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.balanced import keep_counts
from compress.graph.channels import ChannelGraph
from compress.width_problem import WidthProblem, width_problem
from device_profiles.errors import BadInput
from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.predict import predict
from device_profiles.profile import DeviceProfile, LayerProfile
from device_profiles.target import Target
from tests.compress.graph.patterns import graph_of
from tests.device_profiles.example import flat, probe, profile

FAST, SLOW, BOTH = Target("onnxruntime"), Target("openvino"), Target("onnxruntime", threads=2)
PATTERNS = ["Dense", "Residual", "Depthwise", "Grouped", "SplitChunk", "Attention", "FlattenLinear"]
TERMS = ("1", "in", "out16", "in*out", "in4*out4", "in*out*in%4", "out%8")


def isolated(graph: ChannelGraph, seed: int) -> DeviceProfile:
    """A profile with a grid of made-up latencies for each layer, and steps of 4."""
    generator = np.random.default_rng(seed)
    layers = []
    for layer in graph.layers:
        ins, outs = (sorted({1, full // 2 or 1, full}) for full in (layer.in_channels, layer.out_channels))
        grid = {(i, o): flat(float(i * o * generator.uniform(0.8, 1.2))) for i in ins for o in outs}
        layers.append(LayerProfile(layer.name, layer.op, layer.in_channels, layer.out_channels, grid))
    steps = (probe("a", "Conv", lambda width: -(-width // 4)),)
    return profile(layers=tuple(layers), probes=steps, end_to_end=flat(9.0))


def in_context(graph: ChannelGraph, seed: int) -> DeviceProfile:
    """A profile with made-up sums of terms for each layer."""
    generator = np.random.default_rng(seed)
    full = graph.layer_widths({})
    costs = {name: dict(zip(TERMS, generator.exponential(1.0, len(TERMS)), strict=True)) for name in full}
    layers = tuple(LayerProfile(name, "Conv", *widths, {widths: flat(1.0)}) for name, widths in full.items())
    measured = InContext((MeasuredVariant(full, flat(1.0), {}),), costs, {}, 0.03)
    return profile(layers=layers, probes=(), in_context=measured)


def blended(graph: ChannelGraph, seed: int) -> DeviceProfile:
    """A profile that was measured both ways, of which both count."""
    found = in_context(graph, seed).in_context
    assert found is not None
    return replace(isolated(graph, seed), in_context=replace(found, share=0.6, isolated_level=0.1))


def scores_of(graph: ChannelGraph, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {one.name: generator.lognormal(0, 1, one.width) for one in graph.prunable}


def problem_of(name: str, multiple: int = 1, **at_most: int) -> WidthProblem:
    graph = graph_of(name)
    profiles = {FAST: in_context(graph, 0), SLOW: isolated(graph, 1)}
    multiples = {one.name: multiple for one in graph.prunable}
    return width_problem(graph, scores_of(graph), profiles, multiples, at_most)


def random_choices(problem: WidthProblem, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    return [int(generator.integers(len(family.score))) for family in problem.families]


@pytest.mark.parametrize("name", PATTERNS)
def test_the_tables_add_up_to_what_is_predicted_at_any_widths(name: str) -> None:
    graph = graph_of(name)
    profiles = {FAST: in_context(graph, 0), SLOW: isolated(graph, 1), BOTH: blended(graph, 2)}
    problem = width_problem(graph, scores_of(graph), profiles, {one.name: 1 for one in graph.prunable}, {})
    for seed in range(8):
        chosen = random_choices(problem, seed)
        widths = graph.layer_widths(problem.widths(chosen))
        expected = [predict(profile, widths).ms for profile in profiles.values()]
        assert problem.ms(chosen) == pytest.approx(expected)


@pytest.mark.parametrize("name", PATTERNS)
def test_every_choice_is_one_that_the_balance_rules_allow_and_keeps_what_it_says(name: str) -> None:
    graph, problem = graph_of(name), problem_of(name)
    scores = scores_of(graph)
    for seed in range(8):
        chosen = random_choices(problem, seed)
        keep = keep_counts(graph, scores, problem.widths(chosen))
        assert {name: len(kept) for name, kept in keep.items()} == problem.widths(chosen)
        assert problem.score(chosen) == pytest.approx(sum(scores[name][kept].sum() for name, kept in keep.items()))


def test_widths_are_multiples_and_the_full_one() -> None:
    a, b, c = problem_of("Dense", multiple=4).families
    assert (a.widths["a"].tolist(), b.widths["b"].tolist(), c.widths["c"].tolist()) == ([4, 8], [4, 6], [4])


def test_nothing_wider_than_the_method_chose_is_offered_but_what_rounding_adds() -> None:
    a, b, _ = problem_of("Dense", multiple=2, a=4, b=3).families
    assert (a.widths["a"].tolist(), b.widths["b"].tolist()) == ([2, 4], [2, 4])


def test_sets_without_scores_stay_whole_and_their_layers_still_count() -> None:
    graph = graph_of("Dense")
    scores = {"b": scores_of(graph)["b"]}
    problem = width_problem(graph, scores, {FAST: in_context(graph, 0)}, dict.fromkeys("abc", 1), {})
    assert [list(family.widths) for family in problem.families] == [["b"]]
    assert problem.ms([2]) == pytest.approx([predict(in_context(graph, 0), graph.layer_widths({"b": 3})).ms])


def test_a_profile_of_another_network_is_refused() -> None:
    with pytest.raises(BadInput, match=r"layer 'a' is not in the profile of 'example', which has \['smooth', 'stepped"):
        width_problem(graph_of("Dense"), scores_of(graph_of("Dense")), {FAST: profile()}, dict.fromkeys("abc", 1), {})
