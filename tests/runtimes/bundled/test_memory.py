from __future__ import annotations

import ctypes

import pytest

from runtimes.bundled.memory import MMAP_THRESHOLD, OWN_BYTES, TRIM_THRESHOLD, give_back, own_memory


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


def test_large_blocks_get_memory_of_their_own_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to = []

    class Library:
        def __init__(self, _: object) -> None:
            pass

        def mallopt(self, which: int, threshold_bytes: int) -> None:
            set_to.append((which, threshold_bytes))

    monkeypatch.setattr(ctypes, "CDLL", Library)
    with own_memory():
        assert set_to == [(MMAP_THRESHOLD, OWN_BYTES)]
    assert set_to[1:] == [(TRIM_THRESHOLD, 2**26), (MMAP_THRESHOLD, 2**25)]  # glibc's own most


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_elsewhere_nothing_happens(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> object:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    give_back()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()
    with own_memory():
        pass
