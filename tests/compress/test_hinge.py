from __future__ import annotations

import numpy as np
import pytest

from compress.hinge import find_hinge


def test_hinge_is_where_the_norms_fall_off_a_cliff():
    norms = np.concatenate([np.linspace(2, 0.5, 20), np.full(44, 1e-3)])
    assert find_hinge(np.random.default_rng(0).permutation(norms), 1.0).kept == 20


def test_a_cliff_that_is_spread_over_several_channels_is_a_hinge():
    norms = np.concatenate([np.linspace(2, 0.5, 100), np.geomspace(0.4, 0.01, 12), np.full(144, 0.004)])
    kept = find_hinge(norms, 1.0).kept
    assert kept is not None
    assert 100 <= kept <= 112


@pytest.mark.parametrize("norms", [np.linspace(2, 0.5, 64), np.geomspace(3, 0.01, 256), np.ones(16), np.ones(1)])
def test_a_smooth_slope_has_no_hinge(norms):
    assert find_hinge(norms, 1.0).kept is None


def test_a_fall_to_something_that_still_counts_is_no_hinge():
    assert find_hinge(np.array([1.0] * 8 + [0.3] * 8), 1.0).kept is None


def test_ratios_between_zeros_are_no_hinge():
    norms = np.concatenate([np.linspace(2, 1, 30), [1e-9, 1e-14]])
    assert find_hinge(norms, 1.0).kept == 30
    assert find_hinge(norms, 1.0).gap < 1e5


def test_a_layer_without_a_living_channel_is_dead_and_has_no_hinge():
    hinge = find_hinge(np.array([1e-3, 1e-7, 1e-7, 1e-8]), 1.0)
    assert hinge.dead
    assert hinge.kept is None
