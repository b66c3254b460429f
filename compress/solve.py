"""The widths that keep the most score within a budget on every target, by price and local search.

What a layer costs depends on both of its widths and rises in steps, so the problem is a knapsack with a cost for every
pair of neighbours, and one budget for each target. HALP (Shen et al. 2022, arXiv 2110.10811) and MDP (Sun et al. 2025,
arXiv 2504.02168) give such problems to knapsack and mixed-integer solvers, HALP with the input widths held fixed. Here
prices per millisecond (a Lagrangian relaxation) lead near the optimum, and exchanges between all pairs of families,
neighbours with their joint cost, fill the budgets exactly. Nothing is linearised or held fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from compress.width_problem import LayerCost, WidthProblem
from device_profiles.errors import BudgetInfeasible
from device_profiles.target import Target

KICKS = 8  # searches that begin near the best one, with some families changed at random
KICKS_BY = 320  # over the families: with many all searches end about as high, 27 of ResNet-50 within 1.3 %
KICKED, KICKED_SHARE = 3, 8  # so many families of few, or one in so many of many
LEAST_PRICE, MOST_PRICE = 2.0**-10, 2.0**20  # of a latency of the size of its budget, in all that can be lost
HALVINGS = 10  # of the range of prices in which the budgets begin to hold
ROUNDS = 20  # of all families at one price
FEW, SPREAD = 24, 10  # a family with more choices than FEW is tried at SPREAD of them and at as many around its own
SLACK = 1e-9  # of a budget: rounding errors of sums
EVEN = 1e-7  # of a score: where two choices keep as much, the faster one is better
LEAST_GAIN = 1e-12  # of a score: less are rounding errors

Budgets = Float[np.ndarray, " targets"]
Values = Sequence[Float[np.ndarray, " choices"]]
Choices = Int[np.ndarray, " ..."]
# From what choices keep and the latencies they lead to, one for each target, to what they are worth.
Worth = Callable[[Float[np.ndarray, " ..."], Float[np.ndarray, "targets ..."]], Float[np.ndarray, " ..."]]


@dataclass(frozen=True)
class Solution:
    """Widths that fit.

    Attributes:
        widths: By set.
        score: What they keep.
        ms: Predicted, by target.
    """

    widths: Mapping[str, int]
    score: float
    ms: Mapping[Target, float]


def solve(problem: WidthProblem, budget_ms: Mapping[Target, float]) -> Solution:
    """Keep the most score with which every target's predicted latency is within its budget.

    Args:
        problem: From `compress.width_problem.width_problem`.
        budget_ms: By target; targets that are missing may take any time.

    Raises:
        BudgetInfeasible: No widths fit, with the fastest reachable latency of every target.
    """
    budgets = _budgets(problem, budget_ms)
    search = Search(problem, problem.widest)
    if not search.fits(budgets):
        search = _best(problem, budgets)
    if not search.fits(budgets):
        raise _infeasible(problem, search, budgets)
    return _solution(search)


def fastest(problem: WidthProblem, budget_ms: Mapping[Target, float]) -> Solution:
    """Return the widths whose latencies are furthest below the budgets, where they are least so.

    Args:
        problem: From `compress.width_problem.width_problem`.
        budget_ms: By target; only how they compare matters.
    """
    return _solution(_fastest(problem, _budgets(problem, budget_ms)))


def _budgets(problem: WidthProblem, budget_ms: Mapping[Target, float]) -> Budgets:
    return np.asarray([budget_ms.get(target, np.inf) for target in problem.targets])


def _solution(search: Search) -> Solution:
    problem = search.problem
    ms = dict(zip(problem.targets, search.ms.tolist(), strict=True))
    return Solution(problem.widths(search.chosen), problem.score(search.chosen), ms)


class Search:
    """A solution that is changed step by step, with what each step would cost at hand.

    Args:
        problem: What to choose.
        chosen: The choice of every family to begin with.
    """

    def __init__(self, problem: WidthProblem, chosen: Sequence[int]) -> None:
        self.problem = problem
        self.chosen = np.array(chosen, np.int64)
        self.ms = problem.ms(self.chosen)
        self._steps: dict[int, Float[np.ndarray, "targets choices"]] = {}

    def copy(self) -> Search:
        """Return a search that goes on from here by itself."""
        other = Search(self.problem, self.chosen)
        other._steps = dict(self._steps)
        return other

    def fits(self, budgets: Budgets) -> bool:
        """Whether every target is within its budget."""
        return bool((self.ms <= budgets * (1 + SLACK)).all())

    def near(self, family: int) -> Choices:
        """List choices of a family to try: all of few; of many, some everywhere and more around its own."""
        count = len(self.problem.families[family].score)
        if count <= FEW:
            return np.arange(count)
        around = np.arange(self.chosen[family] - SPREAD // 2, self.chosen[family] + SPREAD // 2 + 1)
        everywhere = np.linspace(0, count - 1, SPREAD).round().astype(np.int64)
        return np.unique(np.concatenate([everywhere, np.clip(around, 0, count - 1)]))

    def choose_(self, family: int, choice: int) -> None:
        """Change one family."""
        if choice != self.chosen[family]:
            self.ms = self.ms + self._step(family)[:, choice]
            self.chosen[family] = choice
            for other in self.problem.neighbours[family]:
                self._steps.pop(other, None)

    def ms_with(self, free: Mapping[int, Choices]) -> Float[np.ndarray, "targets ..."]:
        """Return the latencies with one or two families at other choices, which are broadcast against each other."""
        total: Any = 0
        for family, choices in free.items():
            total = total + self._step(family)[:, choices]
        for layer in self.problem.shared.get(tuple(sorted(free)), ()):  # whose steps do not just add up
            apart = sum(self._layer_ms(layer, {family: choices}) for family, choices in free.items())
            total = total + self._layer_ms(layer, free) - apart + _over(self._layer_ms(layer, {}), total)
        return _over(self.ms, total) + total

    def _step(self, family: int) -> Float[np.ndarray, "targets choices"]:
        """Return by how much each choice of a family changes the latencies."""
        if family not in self._steps:
            every = np.arange(len(self.problem.families[family].score))
            self._steps[family] = np.zeros((len(self.ms), len(every))) + sum(
                self._layer_ms(layer, {family: every}) - self._layer_ms(layer, {})[:, None]
                for layer in self.problem.reached[family]
            )
        return self._steps[family]

    def _layer_ms(self, layer: LayerCost, free: Mapping[int, Choices]) -> Float[np.ndarray, "targets ..."]:
        """Look up a layer's latencies with some families at other choices, the rest as they are chosen."""
        return layer.at(
            *(
                fixed + sum(channels[free.get(family, self.chosen[family])] for family, channels in side.items())
                for fixed, side in layer.sides
            )
        )


def _over(ms: Budgets, others: Float[np.ndarray, "targets ..."]) -> Float[np.ndarray, "targets ..."]:
    """Shape one number for each target so that it counts for all choices."""
    return ms.reshape(-1, *(1,) * (others.ndim - 1))


def _best(problem: WidthProblem, budgets: Budgets) -> Search:
    """Search from several sides, then again and again from near the best, with some families changed at random."""
    values = _values(problem)
    limited = np.isfinite(budgets)
    starts = [_priced(problem, budgets, weights, values) for weights in (limited, *np.diag(limited)[limited])]
    starts.append(_fastest(problem, budgets))

    def worth(kept: Float[np.ndarray, " ..."], ms: Float[np.ndarray, "targets ..."]) -> Float[np.ndarray, " ..."]:
        shares = ms / _over(budgets, ms)  # below 0 where a budget is missed, the further the more it is
        return np.where((shares <= 1 + SLACK).all(0), kept - EVEN * shares.sum(0), -shares.max(0))

    def height(search: Search) -> float:
        kept = sum(value[choice] for value, choice in zip(values, search.chosen, strict=True))
        return float(worth(np.asarray(kept), search.ms))

    for start in starts:
        _climb_(start, values, worth)
    best = max(starts, key=height)
    generator = np.random.default_rng(0)
    for _ in range(min(KICKS, KICKS_BY // max(1, len(values)))):
        other = best.copy()
        for family in generator.permutation(len(values))[: max(KICKED, len(values) // KICKED_SHARE)]:
            other.choose_(family, generator.integers(len(values[family])))
        _climb_(other, values, worth)
        best = max(best, other, key=height)
    return best


def _values(problem: WidthProblem) -> Values:
    """Scale the scores so that all that can be lost is 1, and the least that can be kept 0."""
    whole = sum(np.ptp(family.score) for family in problem.families) or 1.0
    return [(family.score - family.score.min()) / whole for family in problem.families]


def _fastest(problem: WidthProblem, budgets: Budgets) -> Search:
    """Find the widths that are furthest below the budgets, where they are least so."""

    def worth(_: Float[np.ndarray, " ..."], ms: Float[np.ndarray, "targets ..."]) -> Float[np.ndarray, " ..."]:
        shares = ms / _over(budgets, ms)
        return -shares.max(0) - EVEN * shares.sum(0)

    search = Search(problem, [0] * len(problem.families))
    _climb_(search, _values(problem), worth)
    return search


def _climb_(search: Search, values: Values, worth: Worth) -> None:
    """Change one family, or two at once, as long as that is worth more."""
    pairs = list(itertools.combinations(range(len(values)), 2))
    climbing = True
    while climbing:
        climbing = False
        for family, value in enumerate(values):
            every = np.arange(len(value))
            worths = worth(value, search.ms_with({family: every}))
            best = int(np.argmax(worths))
            if worths[best] > worths[search.chosen[family]] + LEAST_GAIN:
                search.choose_(family, best)
                climbing = True
        for first, second in pairs:
            rows, columns = search.near(first), search.near(second)
            kept = values[first][rows][:, None] + values[second][columns]
            worths = worth(kept, search.ms_with({first: rows[:, None], second: columns[None]}))
            row, column = np.unravel_index(int(np.argmax(worths)), worths.shape)
            now = np.searchsorted(rows, search.chosen[first]), np.searchsorted(columns, search.chosen[second])
            if worths[row, column] > worths[now] + LEAST_GAIN:
                search.choose_(first, rows[row])
                search.choose_(second, columns[column])
                climbing = True


def _priced(problem: WidthProblem, budgets: Budgets, weights: Float[np.ndarray, " targets"], values: Values) -> Search:
    """Find the lowest price of latency at which every family, choosing for itself in turn, lets all budgets hold."""
    search = Search(problem, problem.widest)
    low, high = 0.0, LEAST_PRICE
    while True:
        dearer = search.copy()
        _settle_(dearer, high * weights / budgets, values)
        if dearer.fits(budgets) or high > MOST_PRICE:
            break
        search, low, high = dearer, high, 2 * high
    for _ in range(HALVINGS):
        price = (low + high) / 2
        trial = search.copy()
        _settle_(trial, price * weights / budgets, values)
        if trial.fits(budgets):
            dearer, high = trial, price
        else:
            search, low = trial, price
    return dearer


def _settle_(search: Search, prices: Float[np.ndarray, " targets"], values: Values) -> None:
    """Let every family choose what is worth most at the prices, in turn, until none wants another."""
    for _ in range(ROUNDS):
        before = search.chosen.copy()
        for family, value in enumerate(values):
            search.choose_(family, int(np.argmax(value - prices @ search.ms_with({family: np.arange(len(value))}))))
        if np.array_equal(before, search.chosen):
            return


def _infeasible(problem: WidthProblem, nearest: Search, budgets: Budgets) -> BudgetInfeasible:
    """Say how fast each target can be by itself, and what comes nearest to all budgets."""
    limited = np.flatnonzero(np.isfinite(budgets))
    alone = {i: _fastest(problem, np.where(np.arange(len(budgets)) == i, budgets, np.inf)).ms[i] for i in limited}
    listed = ", ".join(f"{problem.targets[i].name} {alone[i]:.3g} ms of {budgets[i]:.3g} ms asked for" for i in limited)
    if len(limited) > 1:
        at_once = ", ".join(f"{problem.targets[i].name} {nearest.ms[i]:.3g} ms" for i in limited)
        listed += f" (each by itself; nearest to all budgets at once: {at_once})"
    return BudgetInfeasible(
        f"the budget is out of reach: the fastest predicted latency is {listed}; allow more time, or start from a "
        "narrower network"
    )
