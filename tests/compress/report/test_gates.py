"""Gates in a run's folder, in figures and in words: what is shut is said, and so is that nothing is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from compress import pipeline
from compress.report.gate_captions import of_block, summary
from compress.report.gate_figures import MOST_COLUMNS, gates_by_kind, kinds_that_differ, worth_by_gate
from compress.report.gates import GATES_FILE, GatedBlock, load_gates, save_gates
from compress.report.page import load_run, save_report
from device_profiles.errors import BadInput
from tests.compress.report.example import example_results, write_example_run

MEANS = np.array([[0.9, 0.01, 0.4, 0.02], [0.8, 0.02, 0.01, 0.03]])
BLOCK = GatedBlock(
    name="se.excite",
    kinds=("cats", "dogs"),
    means=MEANS,
    largest=np.array([0.95, 0.03, 0.5, 0.6]),
    activity=np.array([[0.1, 0.0, 0.5, 0.2], [0.3, 0.01, 0.0, 0.1]]),
    shut_below=0.05,
    samples=64,
    inserted=False,
)
OPEN = dataclasses.replace(BLOCK, means=MEANS + 0.5, largest=np.array([1.0, 0.6, 0.9, 0.71]))


def drawn(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(figure)


def tags(figure: str, tag: str) -> list[ElementTree.Element]:
    return [found for found in drawn(figure).iter() if found.tag.endswith(tag)]


def test_a_channel_that_no_sample_opens_is_dead_and_one_that_some_open_is_specific() -> None:
    assert BLOCK.dead.tolist() == [False, True, False, False]
    assert BLOCK.specific.tolist() == [False, False, True, True]


def test_saved_gates_equal_loaded_ones(tmp_path: Path) -> None:
    assert load_gates(tmp_path) == ()
    save_gates([BLOCK, OPEN], tmp_path)
    for found, wanted in zip(load_gates(tmp_path), (BLOCK, OPEN), strict=True):
        for field in dataclasses.fields(GatedBlock):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(wanted, field.name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-10], r"gates\.json is damaged"),
        (lambda text: "[]", r"gates\.json is damaged"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, this toolkit reads schema 1; update"),
        (lambda text: text.replace('"samples"', '"surprise"'), "is no run's gates"),
        (lambda text: text.replace('"kinds"', '"sorts"'), "is no run's gates"),
        (lambda text: text.replace('"cats",', ""), r"means \(2, 4\).*for 1 kinds"),
    ],
)
def test_a_damaged_or_newer_file_is_refused(tmp_path: Path, change, message) -> None:
    path = save_gates([BLOCK], tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInput, match=message):
        load_gates(tmp_path)


def test_the_file_rounds_to_more_digits_than_are_shown(tmp_path: Path) -> None:
    save_gates([dataclasses.replace(BLOCK, largest=np.full(4, 1 / 3))], tmp_path)
    assert json.loads((tmp_path / GATES_FILE).read_text())["blocks"][0]["largest"] == [0.33333] * 4


def test_the_figure_has_a_bar_for_every_gate_and_counts_what_is_shut() -> None:
    figure = gates_by_kind(BLOCK)
    bars = {path.get("class"): 0 for path in tags(figure, "path")}
    for path in tags(figure, "path"):
        bars[path.get("class")] += (path.get("d").count("L") + 1) // 4
    assert bars == {"f-removed": 2, "f-uniform": 4, "f-pruned": 2}
    texts = [text.text for text in tags(figure, "text")]
    assert {"cats", "dogs", "shut for every sample: 1", "open for some kinds of samples only: 2"} <= set(texts)
    assert drawn(figure).get("aria-label") == "Mean gates of se.excite by kind of sample"


def test_of_many_channels_and_kinds_some_are_drawn_and_all_are_counted() -> None:
    wide = np.random.default_rng(0).uniform(0.1, 1, (30, 2 * MOST_COLUMNS))
    block = dataclasses.replace(
        BLOCK, kinds=tuple(f"class {n}" for n in range(30)), means=wide, largest=wide.max(0), activity=wide
    )
    figure = gates_by_kind(block)
    assert sum((path.get("d").count("L") + 1) // 4 for path in tags(figure, "path")) == 10 * MOST_COLUMNS
    texts = [text.text for text in tags(figure, "text")]
    assert "mean gate, 0 to 1 in each row, 10 of 30 kinds" in texts
    assert "channel, most open first, one in 2" in texts
    assert f"open for all kinds of samples: {2 * MOST_COLUMNS}" in texts
    assert len(tags(worth_by_gate(block), "circle")) == MOST_COLUMNS


def test_the_kinds_that_are_drawn_are_those_that_differ() -> None:
    means = np.full((4, 3), 0.5)
    means[1], means[3] = 0.9, 0.2
    assert kinds_that_differ(means, most=2).tolist() == [1, 3]


def test_what_is_worth_most_lies_highest() -> None:
    dots = tags(worth_by_gate(BLOCK), "circle")
    assert min(range(4), key=lambda channel: float(dots[channel].get("cy"))) == 2
    assert dots[1].find("*").text == "channel 1: shut for every sample"


def test_the_words_say_what_can_go_and_what_must_stay() -> None:
    text = " ".join(summary([BLOCK, dataclasses.replace(OPEN, inserted=True)]))
    assert "2 blocks with 8 channels, over 64 training samples: 1 shut for every sample" in text
    assert "2 open for some kinds of samples only, 5 open for all kinds" in text
    assert "What is shut for every sample can go" in text
    assert "must stay" in text
    assert "absorbed afterwards, each by its mean gate" in text
    assert of_block(BLOCK) == (
        "Shut for every sample: channel 1. Open for some kinds only: 2 (cats) and 3 (a few samples)."
    )
    three = dataclasses.replace(
        BLOCK, kinds=("cats", "dogs", "hens"), means=np.vstack([MEANS, MEANS[0]]), activity=np.vstack([MEANS, MEANS[0]])
    )
    assert "2 (all but dogs)" in of_block(three)


def test_the_words_say_that_nothing_is_shut() -> None:
    text = " ".join(summary([OPEN]))
    assert "name nothing that could go for free" in text
    assert "still reaches 0.60 for some sample" in text
    assert "can go" not in text
    assert "put in while the method trained" not in text
    assert of_block(OPEN) == "No channel is shut for every sample; the least open one reaches 0.60."


def test_the_words_say_whether_the_gates_alone_would_rank_alike() -> None:
    alike = dataclasses.replace(BLOCK, activity=np.stack([BLOCK.largest, BLOCK.largest]))
    assert "rank correlation of 1.0: here the gates alone would rank nearly alike" in " ".join(summary([alike]))
    against = dataclasses.replace(BLOCK, activity=-np.stack([BLOCK.largest, BLOCK.largest]))
    assert f"rank correlation of {-1.0:.1f}." in " ".join(summary([against]))


def test_the_report_shows_the_gates_of_a_run_and_is_rebuilt_from_its_folder(tmp_path: Path) -> None:
    folder = write_example_run(tmp_path / "run")
    without = save_report(folder).read_text()
    assert 'id="gates"' not in without
    save_gates([dataclasses.replace(BLOCK, name=f"block {n} <i>") for n in range(6)], folder)
    page = save_report(folder).read_text()
    assert (
        page.count('aria-label="Mean gates of block') == page.count('aria-label="Gate times activation of block') == 6
    )
    assert "2 more blocks</summary>" in page
    assert "What is shut for every sample can go" in page
    assert "<i>" not in page.split('<section id="gates">')[1].split("</section>")[0]
    assert page.count("<details>") == without.count("<details>") + 1


def test_a_run_leaves_its_gates_beside_its_results(tmp_path: Path) -> None:
    job = SimpleNamespace(
        candidates={},
        point=SimpleNamespace(condensed=SimpleNamespace(gates=(BLOCK, OPEN))),
        recipe=SimpleNamespace(allow_slower=True, model=SimpleNamespace(factory="some.module:network")),
        start=SimpleNamespace(model_arguments={}),
    )
    pipeline._save(job, example_results(), {}, tmp_path)
    assert [block.name for block in load_run(tmp_path).gates] == ["se.excite"] * 2
