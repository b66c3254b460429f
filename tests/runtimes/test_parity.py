from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_profiles.errors import BadInput, ParityFailed
from runtimes.parity import compare

REFERENCE = {"a": np.linspace(-1, 3, 12).reshape(3, 4), "b": np.ones((2, 2), np.float32)}


def moved(name: str, by: float) -> dict[str, np.ndarray]:
    """The reference with one number of an output changed."""
    actual = {key: array.copy() for key, array in REFERENCE.items()}
    actual[name].flat[1] += by
    return actual


def test_equal_outputs_agree() -> None:
    parity = compare(REFERENCE, REFERENCE, 1e-9)
    assert (parity.max_abs_error, parity.relative_to_spread, parity.passed) == (0.0, 0.0, True)
    parity.check("equal")


def test_the_error_is_relative_to_the_spread_of_the_output_it_is_in() -> None:
    parity = compare(REFERENCE, moved("a", 0.4), 0.11)
    assert (parity.output, parity.passed) == ("a", True)
    assert (parity.max_abs_error, parity.relative_to_spread) == pytest.approx((0.4, 0.1))


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
@settings(deadline=None)  # a busy machine may take its time
def test_exactly_what_is_within_the_tolerance_passes(error: float, tolerance: float) -> None:
    parity = compare(REFERENCE, moved("a", 4 * error), tolerance)
    if abs(parity.relative_to_spread / tolerance - 1) > 1e-9:
        assert parity.passed == (parity.relative_to_spread < tolerance)


def test_a_constant_output_is_judged_by_its_size() -> None:
    parity = compare(REFERENCE, moved("b", 0.25), 0.2)
    assert (parity.output, parity.relative_to_spread, parity.passed) == ("b", 0.25, False)
    assert compare({"z": np.zeros(3)}, {"z": np.zeros(3)}, 1e-9).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_never_agrees(value: float) -> None:
    for one, other in ((REFERENCE, moved("a", value)), (moved("a", value), REFERENCE)):
        assert not compare(one, other, 1e9).passed


def test_whole_numbers_and_truth_values_are_compared_too() -> None:
    labels = {"label": np.array([1, 2, 3]), "valid": np.array([True, False])}
    assert compare(labels, labels, 1e-9).passed
    assert not compare(labels, labels | {"valid": np.array([True, True])}, 1e-9).passed


def test_a_failed_comparison_says_by_how_much() -> None:
    with pytest.raises(ParityFailed, match=r"pruned on openvino: output 'a' differs by 0.4, 1.0e-01 of its spread"):
        compare(REFERENCE, moved("a", 0.4), 0.01).check("pruned on openvino")


@pytest.mark.parametrize("actual", [{"a": REFERENCE["a"]}, REFERENCE | {"b": np.ones((2, 3))}])
def test_outputs_of_other_names_or_shapes_fail(actual: dict[str, np.ndarray]) -> None:
    with pytest.raises(ParityFailed, match="compare exports of one network"):
        compare(REFERENCE, actual, 0.1)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(BadInput, match=r"reference \(=\[\]\) must hold an output"):
        compare({}, {}, 0.1)
    with pytest.raises(BadInput, match=r"tolerance \(=0\) be above 0"):
        compare(REFERENCE, REFERENCE, 0)
