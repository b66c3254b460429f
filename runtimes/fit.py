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

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Fit:
    """Terms fitted to one layer.

    Attributes:
        cost: Term -> ms, without zeros.
        unseen_ms: What a fit without it predicts for each variant.
    """

    cost: Mapping[str, float]
    unseen_ms: Array


def fit(variants: Sequence[MeasuredVariant], merged: Mapping[str, str]) -> InContext:
    """Fit every layer by non-negative least squares, with the set of terms that predicts unseen variants best.

    Args:
        variants: The network at full width, then at others.
        merged: Layers without times of their own -> the layers they count with.

    Returns:
        The fit, with the error that cross-validation found.
    """
    total_ms = np.asarray([variant.end_to_end.ms for variant in variants])
    fits = {}
    for name in variants[0].layers_ms:
        widths = np.asarray([variant.widths[name] for variant in variants])
        layer_ms = np.asarray([variant.layers_ms[name] for variant in variants])
        fits[name] = _fit_layer(widths, layer_ms, 1 / total_ms)
    unseen_ms = sum((each.unseen_ms for each in fits.values()), np.zeros(len(variants)))
    errors = np.abs(np.log(np.maximum(unseen_ms, 1e-9) / total_ms))
    return InContext(
        variants=tuple(variants),
        costs={name: each.cost for name, each in fits.items()},
        merged=merged,
        error=float(np.quantile(errors[1:] if len(errors) > 1 else errors, CONFIDENCE)),
    )


def _fit_layer(widths: NDArray[np.int64], layer_ms: Array, weights: Array) -> _Fit:
    """Choose among the sets of terms by cross-validation.

    Args:
        widths: Channels in and out, shape (n, 2); the full ones first.
        layer_ms: Shape (n,).
        weights: Of each error, shape (n,).
    """
    # In random order, or a fold could hold all networks of one alignment, which repeat regularly.
    folds = np.random.default_rng(0).permutation(len(layer_ms)) % FOLDS
    full = (int(widths[0, 0]), int(widths[0, 1]))
    best, least = None, np.inf
    for terms in dictionaries():
        columns = evaluate(terms, widths, full)
        unseen_ms = np.empty_like(layer_ms)
        for fold in range(min(FOLDS, len(layer_ms))):
            seen = folds != fold if len(layer_ms) >= FOLDS else np.ones(len(layer_ms), np.bool_)
            unseen_ms[folds == fold] = columns[folds == fold] @ _solve(columns[seen], layer_ms[seen], weights[seen])
        error = float(np.sqrt(np.mean(((unseen_ms - layer_ms) * weights) ** 2)))
        if error < least:
            coefficients = _solve(columns, layer_ms, weights)
            cost = {term: float(ms) for term, ms in zip(terms, coefficients, strict=True) if ms > 0}
            best, least = _Fit(cost, unseen_ms), error
    assert best is not None, "there is a set of terms"
    return best


def _solve(columns: Array, layer_ms: Array, weights: Array) -> Array:
    """Solve weighted least squares for non-negative coefficients."""
    weighted = columns * weights[:, None]
    scale = np.maximum(np.linalg.norm(weighted, axis=0), 1e-12)
    ridge = np.sqrt(RIDGE) * np.eye(columns.shape[1])
    solution, _ = nnls(np.vstack([weighted / scale, ridge]), np.concatenate([layer_ms * weights, np.zeros(len(scale))]))
    return np.asarray(solution / scale)
