"""The latency of each layer as a sum of terms, fitted to what it took inside networks of uneven widths.

Coefficients are not negative, so a wider layer is predicted slower (or as fast), beyond the measured widths too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.terms import dictionaries, evaluate

FOLDS = 4
RIDGE = 1e-4  # keeps the choice among columns that are nearly equal from resting on noise
CONFIDENCE = 0.9
COARSE = 2  # sets of terms that whole networks can decide on

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LayerKind:
    """What layers share when only whole networks were measured.

    Attributes:
        kind: Layers of the same kind take the same time for the same work, such as "Conv 3x3 by 2".
        work: Of the layer at full width, in any unit.
    """

    kind: str
    work: float


@dataclass(frozen=True)
class _Chosen:
    """A set of terms with its coefficients.

    Attributes:
        coefficients: One a term.
        unseen_ms: What a fit without it predicts for each variant.
        error: Weighted root mean square of how far that is off.
        terms: Names of the terms.
    """

    coefficients: Array
    unseen_ms: Array
    error: float
    terms: tuple[str, ...]


def fit(variants: Sequence[MeasuredVariant], merged: Mapping[str, str]) -> InContext:
    """Fit every layer by non-negative least squares, with the set of terms that predicts unseen variants best.

    Args:
        variants: The network at full width, then at others, with the times of their layers.
        merged: Layers without times of their own -> the layers they count with.

    Returns:
        The fit, with the error that cross-validation found.
    """
    total_ms = np.asarray([variant.end_to_end.ms for variant in variants])
    unseen_ms, costs = np.zeros(len(variants)), {}
    for name in variants[0].layers_ms:
        layer_ms = np.asarray([variant.layers_ms[name] for variant in variants])
        candidates = (
            _cross_validated(terms, _columns(variants, name, terms), layer_ms, 1 / total_ms) for terms in dictionaries()
        )
        best = min(candidates, key=lambda chosen: chosen.error)
        unseen_ms += best.unseen_ms
        costs[name] = _without_zeros(best.terms, best.coefficients)
    return InContext(tuple(variants), costs, merged, _error(unseen_ms, total_ms), tuple(unseen_ms.tolist()))


def fit_whole(variants: Sequence[MeasuredVariant], kinds: Mapping[str, LayerKind]) -> InContext:
    """Fit layers to end-to-end latencies alone, for runtimes that do not tell what their operators take.

    Layers of a kind share their coefficients, each in proportion to its work; there are more layers than networks.

    Args:
        variants: The network at full width, then at others.
        kinds: Layer -> its kind.
    """
    total_ms = np.asarray([variant.end_to_end.ms for variant in variants])
    names = sorted({each.kind for each in kinds.values()})
    candidates = []
    for terms in dictionaries()[:COARSE]:
        columns = np.zeros((len(variants), len(names), len(terms)))
        for name, each in kinds.items():
            columns[:, names.index(each.kind)] += each.work * _columns(variants, name, terms)
        flat = columns.reshape(len(variants), -1)
        candidates.append(_cross_validated(terms, flat, total_ms, 1 / total_ms))
    best = min(candidates, key=lambda chosen: chosen.error)
    shared = dict(zip(names, best.coefficients.reshape(len(names), -1), strict=True))
    costs = {name: _without_zeros(best.terms, each.work * shared[each.kind]) for name, each in kinds.items()}
    return InContext(tuple(variants), costs, {}, _error(best.unseen_ms, total_ms), tuple(best.unseen_ms.tolist()))


def _columns(variants: Sequence[MeasuredVariant], name: str, terms: tuple[str, ...]) -> Array:
    widths = np.asarray([variant.widths[name] for variant in variants])
    return evaluate(terms, widths, variants[0].widths[name])


def _cross_validated(terms: tuple[str, ...], columns: Array, ms: Array, weights: Array) -> _Chosen:
    """Fit terms to all variants, and to all but each part of them.

    Args:
        terms: Names.
        columns: Shape (n, any).
        ms: Shape (n,).
        weights: Of each variant, shape (n,).
    """
    # In random order, or a fold could hold all networks of one alignment, which repeat regularly.
    folds = np.random.default_rng(0).permutation(len(ms)) % FOLDS
    unseen_ms = np.zeros_like(ms)
    for fold in set(folds.tolist()):
        seen = folds != fold if len(ms) >= FOLDS else np.ones(len(ms), np.bool_)
        unseen_ms[folds == fold] = columns[folds == fold] @ _solve(columns[seen], ms[seen], weights[seen])
    error = float(np.sqrt(np.mean(((unseen_ms - ms) * weights) ** 2)))
    return _Chosen(_solve(columns, ms, weights), unseen_ms, error, terms)


def _error(unseen_ms: Array, total_ms: Array) -> float:
    """The relative error that most variants stay below; the full network, which no other surrounds, does not count."""
    errors = np.abs(np.log(np.maximum(unseen_ms, 1e-9) / total_ms))
    return float(np.quantile(errors[1:] if len(errors) > 1 else errors, CONFIDENCE))


def _without_zeros(terms: tuple[str, ...], coefficients: Array) -> dict[str, float]:
    return {term: ms for term, ms in zip(terms, coefficients.tolist(), strict=True) if ms > 0}


def _solve(columns: Array, layer_ms: Array, weights: Array) -> Array:
    """Solve weighted least squares for non-negative coefficients."""
    weighted = columns * weights[:, None]
    scale = np.maximum(np.linalg.norm(weighted, axis=0), 1e-12)
    ridge = np.sqrt(RIDGE) * np.eye(columns.shape[1])
    solution, _ = nnls(np.vstack([weighted / scale, ridge]), np.concatenate([layer_ms * weights, np.zeros(len(scale))]))
    return np.asarray(solution / scale)
