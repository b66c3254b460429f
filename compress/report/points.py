"""The networks for further budgets and those trained anew: what is best at what time, in tables and in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from compress.report import wording
from compress.report.captions import paired_difference, runtime, short_runtimes
from compress.report.results import NetworkResult, PointResult, Results, TargetResult


@dataclass(frozen=True)
class Row:
    """One network of a table of budgets.

    Attributes:
        name: Its budget, or what it is.
        network: None where the budget is out of reach.
        folder: Where its model lies in the run's folder; empty where none was written.
        remark: What a reader must know: that the budget was missed.
        targets: What it was made for, by name.
    """

    name: str
    network: NetworkResult | None
    folder: str
    remark: str
    targets: tuple[str, ...]


def sweep_rows(results: Results) -> list[Row]:
    """Return the baseline, the run's own network and those of the sweep, slowest first; what was missed at the end."""
    rows = [_baseline_row(results), _own_row(results, f"{results.budget}, the run's own")]
    rows += [_row(results, point, point.budget) for point in results.points if point.kind == "sweep"]
    target = results.targets[0]

    def place(row: Row) -> float:
        return -target.networks[row.network.key].latency.ms if row.network else 0.0

    return sorted(rows, key=place)


def target_rows(results: Results) -> list[Row]:
    """Return the baseline, the network that fits all targets and each target's own."""
    own = [point for point in results.points if point.kind == "target"]
    names = [f"made for {runtime(point.targets[0])} alone" for point in own]
    rows = [_row(results, point, name) for point, name in zip(own, names, strict=True)]
    return [_baseline_row(results), _own_row(results, "one for all targets"), *rows]


def _baseline_row(results: Results) -> Row:
    return Row("baseline", results.baseline, "", "", ())


def _own_row(results: Results, name: str) -> Row:
    names = tuple(target.name for target in results.targets)
    return Row(name, results.pruned, "." if results.never_slower else "", "", names)


def _row(results: Results, point: PointResult, name: str) -> Row:
    remark = "" if point.kept else "missed"
    if not point.key:
        remark = "out of reach"
    elif point.key == "baseline":
        remark = "the baseline keeps it"
    elif not point.folder:
        remark = "slower than the baseline: not written"
    return Row(name, results.network(point.key), point.folder, remark, point.targets)


def swept_networks(results: Results) -> list[NetworkResult]:
    """Return the networks that a sweep compares, with labels short enough for a figure."""
    swept = {point.key: point.budget for point in results.points if point.kind == "sweep" and point.key != "baseline"}
    labels = swept | {"baseline": results.baseline.label, "pruned": results.budget}
    return [
        dataclasses.replace(network, label=labels[network.key]) for network in results.networks if network.key in labels
    ]


def front(results: Results, target: TargetResult, networks: Sequence[NetworkResult]) -> list[NetworkResult]:
    """Return the networks that no other one beats in both latency and quality, fastest first."""
    sign = 1 if results.metric.higher_is_better else -1

    def place(network: NetworkResult) -> tuple[float, float]:
        return target.networks[network.key].latency.ms, -sign * network.quality

    found: list[NetworkResult] = []
    for network in sorted(networks, key=place):
        if not found or sign * network.quality > sign * found[-1].quality:
            found.append(network)
    return found


def on_the_front(results: Results, target: TargetResult) -> str:
    """Say which networks of a sweep are beaten in both latency and quality by another one."""
    networks = swept_networks(results)
    best = {network.key for network in front(results, target, networks)}
    beaten = [f"“{network.label}”" for network in networks if network.key not in best]
    if not beaten:
        return "No network is beaten by another one in both time and quality: every one of them is on the front."
    verb = "is" if len(beaten) == 1 else "are"
    return f"{wording.listed(beaten)} {verb} slower than another network that is as good; the line joins the rest."


def sweep_notes(results: Results) -> list[str]:
    """Say what was missed, and what the networks have in common."""
    swept = [point for point in results.points if point.kind == "sweep"]
    notes = [f"{point.budget.capitalize()}: {point.note}." for point in swept if not point.key]
    notes += [
        f"{point.budget.capitalize()} was reached when the cut was chosen and missed in the last measurement."
        for point in swept
        if point.key and not point.kept
    ]
    notes.append(
        "All start from one baseline and one profile, each fine-tuned for as many steps. Differences of quality within "
        "the bars may be chance."
    )
    if steered := results.steered_to or next((point.steered_to for point in swept if point.steered_to), ""):
        notes.append(
            f"All are cut from one condensed network, steered to the most demanding budget within reach: {steered}. A "
            'network for a lesser budget may do better with stage I steered to its own (condense = "per budget").'
        )
    return notes


def against_one_for_all(results: Results) -> list[str]:
    """Compare each target's own network with the one that fits all, on that target."""
    sentences = []
    for target in results.targets:
        for point in results.points:
            if point.kind == "target" and target.name in point.targets:
                sentences.append(_own_against_all(results, target, point))
    return sentences


def _own_against_all(results: Results, target: TargetResult, point: PointResult) -> str:
    name, own = short_runtimes([target.name])[0], results.network(point.key)
    if own is None:
        return f"{name}: {point.note}."
    if own is results.baseline:
        return f"{name}: the network as it is keeps the budget."
    ours, theirs = wording.ms(target.networks[own.key].latency.ms), wording.ms(target.pruned_ms)
    return (
        f"{name}: its own network takes {ours} ms where the one for all takes {theirs} ms, at "
        f"{_qualities(own, results.pruned, results)}; {_verdict(own, results.pruned, results)}."
    )


def retrained(results: Results) -> str:
    """Compare the found widths trained from new weights with the fine-tuned network; empty where that was not done."""
    anew = results.network("retrained")
    if anew is None:
        return ""
    both = wording.listed(
        [
            f"{wording.ms(t.networks['retrained'].latency.ms)} and {wording.ms(t.pruned_ms)} ms on {runtime(t.name)}"
            for t in results.targets
        ]
    )
    return (
        f"The same widths, trained from new weights for the {anew.steps_trained:,} steps that the pruned network has "
        f"behind it, came to {_qualities(anew, results.pruned, results)}; {_verdict(anew, results.pruned, results)}. "
        f"Both have the same widths and therefore the same latency, up to what the timing repeats to: {both}. The "
        "pruned network is the fine-tuned one whichever is better here, as a choice by held-out data would make these "
        "numbers too good; the other lies in retrained/."
    )


def _qualities(network: NetworkResult, other: NetworkResult, results: Results) -> str:
    ours, theirs = (wording.significant(each.quality, 4) for each in (network, other))
    return f"{ours} against {theirs} {results.metric.unit}".rstrip()


def _verdict(network: NetworkResult, other: NetworkResult, results: Results) -> str:
    """Say which of two networks is better, where it is more than chance."""
    found = paired_difference(network, other)
    if network.quality == other.quality or (found is not None and found.could_be_chance):
        return "the difference could be chance"
    gain = network.quality > other.quality
    better = "better" if gain == results.metric.higher_is_better else "worse"
    return f"{better}, by more than chance explains" if found is not None else f"{better}, judged once"
