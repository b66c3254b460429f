from __future__ import annotations

import math
import re

import numpy as np
import pytest

from compress.solve import FEW, Search, fastest, solve
from compress.width_problem import Channels, Family, LayerCost, WidthProblem, width_problem
from device_profiles.errors import BudgetInfeasible
from device_profiles.target import Target
from tests.compress.graph.patterns import graph_of
from tests.compress.test_width_problem import in_context, isolated, scores_of

FAST, SLOW = Target("onnxruntime"), Target("openvino")
ENOUGH = 0.98  # of the best score


def reachable(channels: Channels, fixed: int) -> np.ndarray:
    widths = np.asarray([fixed])
    for each in channels.values():
        widths = np.unique(widths[:, None] + each)
    return widths


def places(widths: np.ndarray) -> np.ndarray:
    found = np.zeros(widths[-1] + 1, np.int64)
    found[widths] = np.arange(len(widths))
    return found


def random_network(seed: int, families: int = 5, targets: int = 2) -> WidthProblem:
    """A chain of layers with skips and a concatenation, whose latencies rise in steps and off multiples of 8."""
    generator = np.random.default_rng(seed)
    decisions = []
    for number in range(families):
        widths = 4 * np.arange(1, generator.integers(4, 8))
        scores = np.sort(generator.lognormal(generator.normal(), generator.uniform(0.2, 1.5), widths[-1]))[::-1]
        decisions.append(Family({f"set {number}": widths}, np.cumsum(scores)[widths - 1]))
    sides: list[tuple[list[int], list[int]]] = [([], [0]), ([families - 1], [])]
    sides += [([number], [number + 1]) for number in range(families - 1)]
    sides += [([0, families // 2], [families - 1]), ([1], [1])]
    sides += [([int(a)], [int(b)]) for a, b in generator.integers(families, size=(2, 2))]
    layers = []
    for ends in sides:
        inputs, outputs = ({i: decisions[i].widths[f"set {i}"] for i in numbers} for numbers in ends)
        fixed = (0 if inputs else 3, 0 if outputs else 10)
        widths_in, widths_out = reachable(inputs, fixed[0]), reachable(outputs, fixed[1])
        ms = [made_up_ms(generator, widths_in, widths_out) for _ in range(targets)]
        layers.append(LayerCost(fixed, inputs, outputs, places(widths_in), places(widths_out), np.stack(ms)))
    return WidthProblem((FAST, SLOW)[:targets], tuple(decisions), tuple(layers), np.full(targets, 0.1))


def made_up_ms(generator: np.random.Generator, widths_in: np.ndarray, widths_out: np.ndarray) -> np.ndarray:
    step, size = int(generator.choice([4, 8, 16])), np.exp(generator.normal())
    steps_in, steps_out = (-(-widths // step) * step for widths in (widths_in, widths_out))
    slow_in, slow_out = ((widths % 8 != 0) * generator.uniform(0, 0.5) for widths in (widths_in, widths_out))
    return size * (np.outer(steps_in, steps_out) / 100 + 0.2) * (1 + slow_in[:, None] + slow_out)


def whole_ms(problem: WidthProblem) -> dict[Target, float]:
    return dict(zip(problem.targets, problem.ms(problem.widest).tolist(), strict=True))


def best_score(problem: WidthProblem, budget_ms: dict[Target, float]) -> float:
    """Try every solution; minus infinity where none fits."""
    grids = np.meshgrid(*[np.arange(len(family.score)) for family in problem.families], indexing="ij")
    score = sum(family.score[grid] for family, grid in zip(problem.families, grids, strict=True))
    ms = np.zeros((len(problem.targets), *score.shape)) + problem.fixed_ms.reshape(-1, *(1,) * score.ndim)
    for layer in problem.layers:
        widths = []
        for fixed, side in layer.sides:
            widths.append(np.full(score.shape, fixed))
            for number, channels in side.items():
                widths[-1] += channels[grids[number]]
        ms += layer.at(*widths)
    fits = np.all([ms[i] <= budget_ms[target] for i, target in enumerate(problem.targets)], axis=0)
    return float(np.where(fits, score, -np.inf).max())


@pytest.mark.parametrize("seed", range(16))
def test_no_search_of_all_solutions_keeps_much_more(seed: int) -> None:
    problem = random_network(seed, families=4 + seed % 3, targets=1 + seed % 2)
    generator = np.random.default_rng(seed)
    budget_ms = {target: ms / generator.uniform(1.2, 3.5) for target, ms in whole_ms(problem).items()}
    best = best_score(problem, budget_ms)
    if best == -math.inf:
        with pytest.raises(BudgetInfeasible, match="out of reach"):
            solve(problem, budget_ms)
        return
    found = solve(problem, budget_ms)
    assert all(found.ms[target] <= budget_ms[target] * (1 + 1e-6) for target in problem.targets)
    assert ENOUGH * best <= found.score <= best * (1 + 1e-6)


@pytest.mark.parametrize("name", ["Dense", "Residual", "Attention"])
@pytest.mark.parametrize("seed", range(2))
def test_of_real_graphs_and_profiles_no_other_solution_keeps_much_more(name: str, seed: int) -> None:
    graph = graph_of(name)
    profiles = {FAST: in_context(graph, seed), SLOW: isolated(graph, seed + 1)}
    multiples = {one.name: max(1, one.width // 8) for one in graph.prunable}
    problem = width_problem(graph, scores_of(graph, seed), profiles, multiples, {})
    whole, least = (fastest(problem, whole_ms(problem)).ms, whole_ms(problem))
    budget_ms = {target: 0.5 * (whole[target] + least[target]) for target in profiles}
    found = solve(problem, budget_ms)
    best = best_score(problem, budget_ms)
    assert ENOUGH * best <= found.score <= best * (1 + 1e-6)


def test_of_many_widths_those_between_the_tried_ones_are_found() -> None:
    widths = np.arange(1, 8 * FEW)
    scores = [np.sqrt(widths + 0.0), 3 * np.log(widths + 1.0)]
    families = tuple(Family({name: widths}, score) for name, score in zip("ab", scores, strict=True))
    ms = np.outer(widths, widths)[None] / 1000 + widths[:, None] / 50
    layer = LayerCost((0, 0), {0: widths}, {1: widths}, places(widths), places(widths), ms)
    problem = WidthProblem((FAST,), families, (layer,), np.zeros(1))
    best = best_score(problem, {FAST: 7.0})
    assert solve(problem, {FAST: 7.0}).score == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("pair", [(0, 1), (0, 4), (2, 4), (1, 3)])
def test_two_changes_at_once_cost_what_the_network_with_both_costs(pair: tuple[int, int]) -> None:
    problem = random_network(0)
    search = Search(problem, [1] * 5)
    search.choose_(3, 2)
    rows, columns = (np.arange(len(problem.families[number].score)) for number in pair)
    ms = search.ms_with({pair[0]: rows[:, None], pair[1]: columns[None]})
    for row in rows:
        for column in columns:
            chosen = search.chosen.copy()
            chosen[list(pair)] = row, column
            assert ms[:, row, column] == pytest.approx(problem.ms(chosen))


def test_a_budget_that_the_whole_network_meets_removes_nothing() -> None:
    problem = random_network(0)
    assert solve(problem, whole_ms(problem)).widths == problem.widths(problem.widest)


def test_every_target_is_within_its_budget_where_one_alone_would_not_do() -> None:
    problem = random_network(5)
    budget_ms = {target: 0.5 * ms for target, ms in whole_ms(problem).items()}
    alone = [solve(problem, {target: budget_ms[target]}) for target in (FAST, SLOW)]
    assert alone[0].ms[SLOW] > budget_ms[SLOW]
    assert alone[1].ms[FAST] > budget_ms[FAST]
    both = solve(problem, budget_ms)
    assert all(both.ms[target] <= budget_ms[target] * (1 + 1e-6) for target in budget_ms)
    assert both.score <= min(each.score for each in alone)


def test_within_a_step_the_widest_is_kept() -> None:
    widths = np.arange(1, 33)
    ms = (-(-widths // 8) * 1.0)[None, None]
    layer = LayerCost((3, 0), {}, {0: widths}, places(np.asarray([3])), places(widths), ms)
    problem = WidthProblem((FAST,), (Family({"a": widths}, np.sqrt(widths)),), (layer,), np.zeros(1))
    assert solve(problem, {FAST: 2.5}).widths == {"a": 16}


def test_of_widths_that_keep_as_much_the_faster_ones_are_chosen() -> None:
    widths = np.asarray([8, 16])
    layer = LayerCost((3, 0), {}, {0: widths}, places(np.asarray([3])), places(widths), np.asarray([[[1.0, 2.0]]]))
    other = LayerCost((3, 0), {}, {1: widths}, places(np.asarray([3])), places(widths), np.asarray([[[1.0, 3.0]]]))
    families = (Family({"a": widths}, np.asarray([1.0, 1.0])), Family({"b": widths}, np.asarray([1.0, 2.0])))
    problem = WidthProblem((FAST,), families, (layer, other), np.zeros(1))
    assert solve(problem, {FAST: 4.5}).widths == {"a": 8, "b": 16}


def test_a_budget_out_of_reach_names_the_fastest_latency() -> None:
    problem = random_network(3, targets=1)
    whole = whole_ms(problem)[FAST]
    least = fastest(problem, {FAST: 1.0}).ms[FAST]
    message = (
        f"the fastest predicted latency is onnxruntime-cpu {least:.3g} ms of {whole / 100:.3g} ms asked for; allow"
    )
    with pytest.raises(BudgetInfeasible, match=re.escape(message)):
        solve(problem, {FAST: whole / 100})


def test_budgets_out_of_reach_name_the_fastest_latency_of_each_target_and_the_nearest_to_all() -> None:
    problem = random_network(3)
    budget_ms = {target: ms / 100 for target, ms in whole_ms(problem).items()}
    each = [fastest(problem, {target: 1.0}).ms[target] for target in (FAST, SLOW)]
    names = rf"onnxruntime-cpu {each[0]:.3g} ms of \S+ ms asked for, openvino-cpu {each[1]:.3g} ms of"
    with pytest.raises(BudgetInfeasible, match=names + r".*nearest to all budgets at once: onnxruntime-cpu"):
        solve(problem, budget_ms)


def test_a_network_with_nothing_to_choose_is_as_fast_as_it_is() -> None:
    problem = WidthProblem((FAST,), (), (), np.full(1, 2.0))
    assert solve(problem, {FAST: 3.0}).ms == {FAST: 2.0}
    with pytest.raises(BudgetInfeasible, match="onnxruntime-cpu 2 ms of 1 ms asked for"):
        solve(problem, {FAST: 1.0})
