from __future__ import annotations

import pytest

from runtimes.progress import progress_bar


def test_a_bar_goes_over_its_steps_and_writes_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), "count", "steps")) == [0, 1, 2]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "count: 100%" in printed.err
    assert "3/3 steps" in printed.err


def test_a_bar_can_be_moved_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(2.5, "measure", "s") as bar:
        bar.update(2.5)
    assert "measure: 100%" in capsys.readouterr().err


def test_a_file_gets_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress_bar(range(10_000), "count"):
        pass
    assert capsys.readouterr().err.count("count:") == 2


def test_more_steps_than_were_said_move_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(6, "cut", "cuts measured") as bar:
        for _ in range(7):
            bar.update()
    assert "100%" in capsys.readouterr().err.rpartition("\r")[2]
    assert bar.n == 7
