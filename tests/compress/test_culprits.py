from __future__ import annotations

from collections.abc import Sequence

import pytest

from compress.culprits import Search


def search(*broken: str, company: Sequence[str] = ()) -> Search:
    """Search where some things break by themselves, and one set of things only all together."""

    def fails(names: Sequence[str]) -> str | None:
        guilty = [name for name in names if name in broken]
        return "broken" if guilty or (company and set(company) <= set(names)) else None

    return Search(fails)


@pytest.mark.parametrize("broken", ["", "a", "d", "ad", "abcdef"])
def test_what_breaks_is_found_and_the_rest_works(broken: str) -> None:
    found = search(*broken)
    found.run_([[name] for name in "abcdef"])
    assert found.found == dict.fromkeys(broken, "broken")
    assert found.working == [name for name in "abcdef" if name not in broken]


def test_of_what_breaks_in_company_the_last_is_found() -> None:
    found = search(company="be")
    found.run_([[name] for name in "abcdef"])
    assert found.found == {"e": "broken"}


def test_a_unit_that_breaks_at_both_ends_breaks_as_a_whole() -> None:
    found = search(*"abc")
    found.run_([["a", "b", "c"], ["d", "e"]])
    assert found.found == dict.fromkeys("abc", "broken")
    assert found.working == ["d", "e"]


def test_a_unit_that_breaks_at_one_end_is_taken_apart() -> None:
    found = search("a")
    found.run_([["a", "b", "c"]])
    assert found.found == {"a": "broken"}
    assert found.working == ["b", "c"]
