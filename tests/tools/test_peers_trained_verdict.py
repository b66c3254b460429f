"""The table, the verdict and the figure of the trained comparison, on recorded numbers."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.benchmarks import peers
from tools.benchmarks.peers_arms import ARMS
from tools.benchmarks.peers_trained_figure import figure
from tools.benchmarks.peers_trained_verdict import table, verdict

Points = list[tuple[float, float]]


def entry(arms: dict[str, Points], seed: int = 0, *, higher: bool = True, failed: str = "") -> dict:
    """What is written of an original that takes 12 ms with quality 30."""
    rows = [row("original", None, 12.0, 30.0)]
    for name, points in arms.items():
        rows += [row(name, goal, ms, quality) for goal, (ms, quality) in zip((1.5, 4.0), points, strict=False)]
    if failed:
        rows.append({"arm": failed, "goal_speedup": 4.0, "reason": "it cannot"})
    metric = {"name": "PSNR", "unit": "dB", "higher_is_better": higher}
    return {
        "task": "denoising",
        "seed": seed,
        "budget_steps": 300,
        "speedups": [1.5, 4.0],
        "metric": metric,
        "rows": rows,
    }


def row(arm: str, goal: float | None, ms: float, quality: float) -> dict:
    targets = {"onnxruntime-cpu": {"ms": ms, "speedup": 12.0 / ms, "n": 20, "spread_percent": 2.0}}
    return {"arm": arm, "goal_speedup": goal, "quality": quality, "targets": targets}


def test_the_goal_is_reached_where_ours_is_fast_enough_on_average() -> None:
    entries = [entry({"fisher": [(ms, 29.0)], "uniform": [(8.0, 29.5)]}, seed) for seed, ms in enumerate((4.0, 5.0))]
    lines, reached = verdict(entries)
    assert reached
    assert lines[0] == (
        "denoising on onnxruntime-cpu: 1.79 times as fast as the best of the others at equal quality "
        "(1.60 to 2.00, n=2; fisher against uniform): reached"
    )


def test_a_missed_goal_says_by_how_much() -> None:
    lines, reached = verdict([entry({"decig": [(8.0, 29.0)], "scratch-uniform": [(8.0, 29.5)]})])
    assert not reached
    assert lines[0].endswith("(1.00 to 1.00, n=1; decig against scratch-uniform): missed by a factor of 1.50")


def test_an_error_is_better_when_it_is_lower() -> None:
    arms = {"fisher": [(8.0, 5.0), (3.0, 8.0)], "uniform": [(8.0, 8.0), (3.0, 9.0)]}
    whole = entry(arms, higher=False)
    whole["rows"][0]["quality"] = 6.0
    lines, reached = verdict([whole])
    assert "original" in lines[0]  # the best quality that both reach is 6, by the original alone
    assert reached
    head, first = table([whole]).splitlines()[:2]
    assert head.startswith("denoising on onnxruntime-cpu, dB (lower is better)")
    assert first.split()[:3] == ["fisher", "5.00", "8.00"]


def test_variants_count_on_no_side_and_siblings_in_one_line_only() -> None:
    arms = {"fisher": [(6.0, 29.0)], "decig-plain": [(1.0, 29.0)], "fisher-macs": [(6.0, 29.0)]}
    lines, reached = verdict([entry(arms)])
    assert not reached
    assert "fisher against fisher-macs" in lines[0]
    assert "2.00 times as fast" in lines[1]
    assert "fisher against original" in lines[1]


def test_found_widths_from_new_weights_count_on_either_side() -> None:
    arms = {"fisher": [(6.0, 29.0)], "scratch-found-whole": [(4.0, 29.0)], "uniform": [(8.0, 29.0)]}
    lines, reached = verdict([entry(arms)])
    assert not reached
    assert "0.67 times as fast" in lines[0]
    assert "1.33 times as fast" in lines[1]
    assert "2.00 times as fast" in lines[2]
    assert "scratch-found-whole against uniform" in lines[2]


def test_what_cannot_be_compared_or_made_is_said() -> None:
    lines, reached = verdict([entry({"uniform": [(8.0, 29.0)]}, failed="torch-pruning-magnitude-global")])
    assert not reached
    assert lines[0] == "denoising on onnxruntime-cpu: nothing to compare"
    assert lines[-1] == "not made: denoising, seed 0: torch-pruning-magnitude-global 4x: it cannot"


def test_the_question_of_the_penalty_is_answered_at_equal_latency() -> None:
    arms = {"decig": [(8.0, 29.0), (3.0, 28.0)], "decig-macs": [(8.0, 28.5), (3.0, 28.1)]}
    lines, _ = verdict([entry(arms, seed) for seed in range(2)])
    at = lines.index("l(i) in DECIG's penalty, against shares of the MACs (more is better):")
    assert lines[at + 1] == "  denoising on onnxruntime-cpu: +0.20 ±0.00 dB, better in 2 of 2 seeds"
    assert not any("the budget in ms" in line for line in lines)


def test_the_table_has_a_line_for_each_arm_with_gaps_where_it_does_not_reach() -> None:
    lines = table([entry({"fisher": [(8.0, 29.0), (3.0, 28.0)], "uniform": [(8.0, 28.5)]})]).splitlines()
    assert [line.split()[0] for line in lines] == ["denoising", "fisher", "uniform", "original"]
    assert lines[1].split() == ["fisher", "29.00", "28.00", "1.00", "(1.00", "to", "1.00)", "1"]
    ratio = 8.0 / (3.0 * (8.0 / 3.0) ** 0.5)
    assert lines[2].split() == ["uniform", "28.50", "-", f"{ratio:.2f}", f"({ratio:.2f}", "to", f"{ratio:.2f})", "1"]


def test_the_figure_draws_every_network_and_names_every_line() -> None:
    arms = {"fisher": [(8.0, 29.0), (3.0, 28.0)], "torch-pruning-bn-scale-global-16": [(8.0, 28.5)]}
    drawing = ElementTree.fromstring(figure([entry(arms, seed) for seed in range(2)]))
    tips = [title.text for title in drawing.iter("{http://www.w3.org/2000/svg}title")]
    assert len(tips) == 4
    assert all("n=2" in tip for tip in tips)
    texts = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"fisher", "original", "Torch-Pruning"} <= texts


def test_what_stands_in_the_file_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "peers.json"
    file.write_text(json.dumps([entry({"fisher": [(8.0, 29.0)], "uniform": [(8.0, 29.0)]})]))
    arguments = ["--trained", "--tasks", "denoising", "--seeds", "0", "--speedups", "1.5", "4", "--json", str(file)]
    assert peers.main([*arguments, "--arms", "uniform", "fisher"]) == 3
    assert "missed by a factor of 1.50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trained", "--speedups", "0.5"], "--speedups (=[0.5]) must be above 1"),
        (["--trained", "--steps", "1"], "--steps (=1) must be 2 or more"),
        (["--trained", "--side", "96"], "--side goes with --untrained"),
        (["--untrained", "--arms", "fisher"], "--arms goes with --trained"),
        (["--trained", "--arms", "best"], "invalid choice: 'best'"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(arguments)
    assert message in capsys.readouterr().err


def test_every_arm_of_the_issue_is_there() -> None:
    assert sum(name.startswith("torch-pruning") for name in ARMS) == 12
    assert {arm.role for arm in ARMS.values()} == {"ours", "retrained", "variant", "sibling", "other"}
