from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from device_profiles.errors import BadInput
from device_profiles.terms import dictionaries, evaluate


@pytest.mark.parametrize(
    ("term", "value"),
    [
        ("1", 1),
        ("in", 0.5),
        ("out", 10 / 32),
        ("in*out", 0.5 * 10 / 32),
        ("out4", 12 / 32),
        ("in16*out16", 0.25),
        ("out%4", 1),
        ("out|4", 0),
        ("in|8", 1),
        ("in*out*in%8", 0),
    ],
)
def test_a_term_is_the_product_of_its_factors(term: str, value: float) -> None:
    assert evaluate([term], np.asarray([[32, 10]]), (64, 32)).item() == pytest.approx(value)


@pytest.mark.parametrize("term", ["inn", "in%", "in0", "in*", "", "1*in", "out%0", "in|-4"])
def test_what_is_no_term_is_refused(term: str) -> None:
    with pytest.raises(BadInput, match="of a latency must be like in, out16, "):
        evaluate([term], np.asarray([[1, 1]]), (1, 1))


def test_each_set_of_terms_holds_the_one_before_and_no_term_twice() -> None:
    sets = dictionaries()
    assert [len(set(terms)) for terms in sets] == [len(terms) for terms in sets]
    for smaller, larger in pairwise(sets):
        assert larger[: len(smaller)] == smaller
    widths = np.asarray([[5, 7], [64, 64]])
    assert evaluate(sets[-1], widths, (64, 64)).min() >= 0
