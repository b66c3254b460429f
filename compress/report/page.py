"""The report: one self-contained HTML file, a function of what a finished run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from compress.report import (
    captions,
    channel_figures,
    gate_captions,
    gate_figures,
    latency_figures,
    layer_table,
    points,
    training_figures,
    width_captions,
    width_figures,
    wording,
)
from compress.report.gates import GatedBlock, load_gates
from compress.report.layers import LayerResult
from compress.report.pictures import Images, gallery
from compress.report.results import NetworkResult, Results
from compress.report.store import load_results, load_samples
from compress.report.summary import save_summary
from device_profiles.profile import DeviceProfile
from device_profiles.store import load_profile, write_whole

REPORT_FILE = "report.html"
PROFILES_FOLDER = "profiles"
PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Tile:
    """One big number at the top: what it is, its value, and before and after as two bars."""

    label: str
    value: str
    detail: str
    before_share: float  # lengths of the bars, in [0, 1]
    after_share: float


@dataclass(frozen=True)
class Panel:
    """A small chart of one layer with its heading and a tag."""

    name: str
    detail: str
    figure: Markup
    tag: str = ""
    style: str = ""


@dataclass(frozen=True)
class GatePanel:
    """One block of gates: its mean gates by kind of sample, what those are worth, and both in words."""

    name: str
    by_kind: Markup
    worth: Markup
    caption: str


@dataclass(frozen=True)
class Run:
    """What a report is made from."""

    results: Results
    profiles: Sequence[DeviceProfile] = ()
    samples: Mapping[str, Images] = field(default_factory=dict)
    gates: Sequence[GatedBlock] = ()


def load_run(folder: Path) -> Run:
    """Read a finished run's folder.

    Raises:
        BadInput: The run is not finished, or one of its files is damaged.
        ProfileMismatch: A profile was written by a newer version.
    """
    profiles = [load_profile(path) for path in sorted((folder / PROFILES_FOLDER).glob("*.json"))]
    return Run(load_results(folder), profiles, load_samples(folder), load_gates(folder))


def fronts(results: Results) -> dict[str, Markup]:
    """Return each target's front of quality against latency; empty where the run had no sweep."""
    if not any(point.kind == "sweep" for point in results.points):
        return {}
    networks = points.swept_networks(results)
    return {
        target.name: latency_figures.quality_against_latency(
            networks, target, results.metric, [network.key for network in points.front(results, target, networks)]
        )
        for target in results.targets
    }


def save_report(folder: Path) -> Path:
    """Write `report.html` and `summary.json` into a finished run's folder and return the report's path.

    Raises:
        BadInput: As `load_run`, or the folder cannot be written.
        ProfileMismatch: A profile was written by a newer version.
    """
    run = load_run(folder)
    path = folder / REPORT_FILE
    write_whole(path, render(run))
    save_summary(run.results, folder)
    return path


def render(run: Run) -> str:
    """Return the page; nothing in it is fetched from anywhere, and every name in it is escaped."""
    loader = jinja2.FileSystemLoader(PAGE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "ms": wording.ms,
        "count": wording.count,
        "mebibytes": wording.mebibytes,
        "small": wording.small,
        "significant": wording.significant,
        "runtime": captions.runtime,
    }
    results = run.results
    return environment.get_template("report.html.jinja").render(
        results=results,
        metric=results.metric,
        css=Markup((PAGE / "style.css").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        logo=Markup((PAGE / "logo.svg").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        tiles=tiles(results),
        gallery=gallery(run.samples, {network.key: network.label for network in results.networks}),
        layer_latency={
            target.name: latency_figures.layer_latency(results.layers, target.name)
            for target in results.targets
            if any(target.name in layer.latency_ms for layer in results.layers)
        },
        shape=channel_figures.network_shape(results.layers) if results.layers else None,
        curves=[curve_panel(layer, captions.own_choice(results)) for layer in results.layers if layer.curve_after],
        gates=[gate_panel(block) for block in run.gates],
        gate_summary=gate_captions.summary(run.gates) if run.gates else [],
        staircases=staircase_panels(results.layers, run.profiles),
        steps=step_panels(results.layers, run.profiles),
        profiles=run.profiles,
        channel_costs=width_captions.channel_costs(results.layers, run.profiles),
        scatter={
            target.name: latency_figures.quality_against_latency(results.own_networks, target, results.metric)
            for target in results.targets
        },
        fronts=fronts(results),
        points=points,
        parts=layer_table.layers_with_parts(results),
        totals=layer_table.totals(results),
        layer_table=layer_table,
        cut_error=results.pruning_error
        and channel_figures.error_around_the_cut(results.pruning_error, wording.with_unit(results.metric)),
        training=[
            figure
            for figure in (
                training_figures.held_out_curves(results.history, results.metric),
                training_figures.loss_curves(results.history),
            )
            if figure is not None
        ],
        tried_rates=captions.tried_rates(results),
        phase_style=latency_figures.style,
        quality_text=quality_text,
        change=wording.change,
        captions=captions,
        unit=wording.with_unit(results.metric),
        better=wording.better(results.metric),
        config=flattened(results.config),
        method_settings=flattened(results.method.settings),
        environment=flattened(results.environment),
        longest_seconds=max(results.seconds.values(), default=1.0),
    )


def tiles(results: Results) -> list[Tile]:
    """Return the numbers at the top: the speedup on each target, quality, parameters and MACs."""
    before, after, metric = results.baseline, results.pruned, results.metric
    found = [
        _tile(
            captions.runtime(target.name),
            f"{wording.significant(target.speedup, 3)}\u00d7",
            f"{wording.ms(target.baseline_ms)} → {wording.ms(target.pruned_ms)} ms",
            (target.baseline_ms, target.pruned_ms),
        )
        for target in results.targets
    ]
    qualities = f"{wording.significant(before.quality, 3)} → {wording.significant(after.quality, 3)} {metric.unit}"
    found.append(
        _tile(
            f"held-out {metric.name}",
            wording.change(metric, before.quality, after.quality),
            f"{qualities.rstrip()}, {wording.better(metric)}",
            (before.quality, after.quality),
        )
    )
    for name, old, new in (("parameters", before.parameters, after.parameters), ("MACs", before.macs, after.macs)):
        share = f"{100 * new / old:.0f}{wording.JOINED}%"
        found.append(_tile(name, share, f"{wording.count(old)} → {wording.count(new)}", (old, new)))
    return found


def _tile(label: str, value: str, detail: str, pair: tuple[float, float]) -> Tile:
    longest = max(*pair, 1e-12)
    return Tile(label, value, detail, max(pair[0], 0) / longest, max(pair[1], 0) / longest)


def curve_panel(layer: LayerResult, choice: str) -> Panel:
    """Return a layer's sorted curve, tagged with what cut it; `choice` names the method's own: "hinge"."""
    tag = {"hinge": choice, "nothing": "all kept"}.get(layer.cut_by, layer.cut_by)
    if layer.hinge is not None and layer.width_after != layer.hinge:
        tag += f" at {layer.hinge}, rounded up" if layer.cut_by == "hinge" else f" ({choice} at {layer.hinge})"
    if layer.dead:
        tag = "dead"
    detail = f"kept {layer.width_after} of {layer.width_before}"
    if layer.gap is not None:
        detail += f", largest gap {wording.significant(layer.gap, 2)}\u00d7"
    return Panel(layer.name, detail, channel_figures.sorted_curve(layer), tag, f"tag-{layer.cut_by}")


def gate_panel(block: GatedBlock) -> GatePanel:
    """Return what is shown of one block of gates."""
    by_kind, worth = gate_figures.gates_by_kind(block), gate_figures.worth_by_gate(block)
    return GatePanel(block.name, by_kind, worth, gate_captions.of_block(block))


def staircase_panels(layers: Sequence[LayerResult], profiles: Sequence[DeviceProfile]) -> list[Panel]:
    """Return l(i) by width for every layer that was measured at several widths."""
    panels = []
    for layer in layers:
        figure = width_figures.latency_by_width(layer, profiles)
        if figure is not None:
            panels.append(Panel(layer.name, f"kept {layer.width_after} of {layer.width_before}", figure))
    return panels


def step_panels(layers: Sequence[LayerResult], profiles: Sequence[DeviceProfile]) -> list[Panel]:
    """Return the probes of every layer that was measured from one channel to the next, its output's first."""
    groups = width_figures.probes_by_layer(profiles)
    names = captions.short_runtimes([profile.target.name for profile in profiles])
    panels = []
    for layer in layers:
        for axis, chosen in (("out", layer.width_after), ("in", layer.width_in_after)):
            if probes := groups.get((layer.name, axis)):
                figure = width_figures.latency_by_channel(probes, names, chosen)
                found = width_captions.steps_found({names[i]: probe for i, probe in probes.items()})
                panels.append(Panel(layer.name, found, figure, f"{layer.op}, {axis}"))
    return panels


def quality_text(network: NetworkResult) -> str:
    """Write a network's held-out quality with the range of its repeats."""
    text = wording.significant(network.quality, 4)
    if len(network.quality_repeats) < 2:
        return text
    low, high = min(network.quality_repeats), max(network.quality_repeats)
    return f"{text} ({wording.significant(low, 3)} to {wording.significant(high, 3)})"


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn nested settings into rows: {"train": {"steps": 3}} becomes {"train.steps": "3"}."""
    rows: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows |= flattened(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return rows
