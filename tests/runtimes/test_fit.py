from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from device_profiles.in_context import InContext, MeasuredVariant
from runtimes.fit import LayerKind, fit, fit_whole
from tests.device_profiles.example import flat

FULL = 64
Cost = Callable[[int, int], float]


def measured(cost: Cost, count: int = 40, noise: float = 0.0, seed: int = 0) -> list[MeasuredVariant]:
    """Two layers in a row whose inner width and outer widths vary; the first has the cost, the second is linear."""
    generator = np.random.default_rng(seed)
    variants = []
    for i in range(count):
        alignment = (1, 4, 8, 16)[i % 4]
        a, b, c = ((generator.integers(20, FULL + 1, 3) // alignment) * alignment).tolist() if i else [FULL] * 3
        layers_ms = {"first": cost(a, b), "second": 0.5 + b * c / 2000}
        layers_ms = {name: ms * (1 + noise * generator.standard_normal()) for name, ms in layers_ms.items()}
        widths = {"first": (a, b), "second": (b, c), "lost": (c, c)}
        variants.append(MeasuredVariant(widths, flat(sum(layers_ms.values())), layers_ms))
    return variants


def padded(width_in: int, width_out: int) -> float:
    return 0.2 + 2 * width_in * (-(-width_out // 16) * 16) / FULL**2


def slow_off_fours(width_in: int, width_out: int) -> float:
    return (3 if width_in % 4 else 1) * width_in * width_out / FULL**2


def errors(found: InContext, cost: Cost) -> list[float]:
    unseen = [(30, 33), (44, 47), (48, 48), (60, 20), (25, 50), (63, 64)]
    return [abs(found.layer_ms("first", widths) / cost(*widths) - 1) for widths in unseen]


@pytest.mark.parametrize("cost", [padded, slow_off_fours])
def test_steps_and_slow_paths_are_found(cost: Cost) -> None:
    found = fit(measured(cost), {"lost": "second"})
    assert max(errors(found, cost)) < 0.03
    assert found.error < 0.02
    assert found.layer_ms("lost", (40, 40)) == 0
    assert found.merged == {"lost": "second"}


def test_whole_networks_are_enough_where_layers_of_a_kind_behave_alike() -> None:
    def cost(width_in: int, width_out: int) -> float:
        return 4 * width_in * (-(-width_out // 16) * 16) / FULL**2

    both = measured(cost)
    twins = [replace(v, end_to_end=flat(cost(*v.widths["first"]) + 2 * cost(*v.widths["second"]))) for v in both]
    kinds = {"first": LayerKind("conv", 1.0), "second": LayerKind("conv", 2.0)}
    found = fit_whole(twins, kinds)
    assert max(errors(found, cost)) < 0.05
    assert found.layer_ms("second", (40, 40)) == pytest.approx(2 * found.layer_ms("first", (40, 40)))
    assert found.error < 0.05


def test_noise_shows_in_the_error() -> None:
    quiet, noisy = (fit(measured(padded, noise=noise), {}).error for noise in (0.001, 0.1))
    assert quiet < 0.02 < noisy < 0.3


def test_a_wider_layer_never_costs_less_beyond_what_was_measured() -> None:
    found = fit(measured(padded, noise=0.05), {})
    assert found.layer_ms("second", (128, 128)) > found.layer_ms("second", (64, 64)) > 0
    assert found.layer_ms("second", (4, 4)) >= 0


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_variants_still_give_a_fit(count: int) -> None:
    found = fit(measured(padded, count), {})
    assert found.layer_ms("first", (FULL, FULL)) == pytest.approx(padded(FULL, FULL), rel=0.05)
    assert found.error >= 0
