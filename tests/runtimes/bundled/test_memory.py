from __future__ import annotations

import ctypes

import pytest

from runtimes.bundled.memory import give_back


def test_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = []

    class Library:
        def __init__(self, name: object) -> None:
            assert name is None

        def malloc_trim(self, kept_bytes: int) -> None:
            trimmed.append(kept_bytes)

    monkeypatch.setattr(ctypes, "CDLL", Library)
    give_back()
    assert trimmed == [0]


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_elsewhere_nothing_happens(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> object:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    give_back()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()
