from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compress.report.page import Run, curve_panel, flattened, load_run, quality_text, render, save_report, tiles
from compress.report.results import Results
from device_profiles.errors import BadInput
from tests.compress.report.example import example_profiles, example_results, example_samples, write_example_run

LARGEST_BYTES = 2_000_000
VOID = {"meta", "img"}
HOSTILE = '"><script>alert(1)</script>&amp;'
RESULTS = example_results()


class Outline(HTMLParser):
    """Collects tags, addresses and text, and complains about tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return render(Run(RESULTS, example_profiles(), example_samples()))


def rendered(**changes: object) -> str:
    return render(Run(dataclasses.replace(RESULTS, **changes)))


def test_the_page_is_well_formed_and_has_every_section(page: str) -> None:
    outline = Outline(page)
    assert outline.ids == ["images", "quality", "time", "channels", "widths", "numbers", "training", "run"]
    assert outline.tags.count("h1") == 1


def test_the_page_fetches_nothing(page: str) -> None:
    outline = Outline(page)
    assert outline.addresses
    assert all(address.startswith("data:image/png;base64,") for address in outline.addresses)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"data:image/png;base64,[^\"]*", "", page))


def test_the_page_is_small(page: str) -> None:
    assert len(page.encode()) < LARGEST_BYTES


def test_the_page_serves_dark_mode_print_and_narrow_screens(page: str) -> None:
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 640px", 'name="viewport"'):
        assert rule in page


def test_every_colour_of_the_light_theme_has_a_dark_one() -> None:
    css = (Path(__file__).parents[3] / "compress/report/page/style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[:2]
    assert re.findall(r"--\w+", light) == re.findall(r"--\w+", dark)
    assert set(re.findall(r"var\((--\w+)\)", css)) <= {*re.findall(r"--\w+", light), "--w"}


def test_every_class_of_the_figures_has_a_style(page: str) -> None:
    css = (Path(__file__).parents[3] / "compress/report/page/style.css").read_text()
    figures = "".join(re.findall(r"<svg viewBox.*?</svg>", page))
    used = {name for classes in re.findall(r'class="([^"]*)"', figures) for name in classes.split()}
    unstyled = {"name"}  # in the ink of the page
    assert {name for name in used - unstyled if f".{name}" not in css} == set()


def test_hostile_names_are_escaped_everywhere() -> None:
    metric = dataclasses.replace(RESULTS.metric, name=HOSTILE, unit=HOSTILE, repeats=HOSTILE)
    networks = tuple(dataclasses.replace(network, label=HOSTILE) for network in RESULTS.networks)
    layers = tuple(dataclasses.replace(layer, name=f"{i}{HOSTILE}") for i, layer in enumerate(RESULTS.layers))
    targets = tuple(dataclasses.replace(t, version=HOSTILE, precision=HOSTILE) for t in RESULTS.targets)
    goals = tuple(dataclasses.replace(g, what=HOSTILE, goal=HOSTILE, reached=HOSTILE) for g in RESULTS.goals)
    hostile = dataclasses.replace(
        RESULTS,
        name=HOSTILE,
        title=HOSTILE,
        task=HOSTILE,
        metric=metric,
        created=HOSTILE,
        command=HOSTILE,
        config={HOSTILE: {HOSTILE: HOSTILE}},
        environment={HOSTILE: [HOSTILE]},
        seconds={HOSTILE: 1.0},
        method=dataclasses.replace(RESULTS.method, name=HOSTILE, source=HOSTILE, settings={HOSTILE: HOSTILE}),
        networks=networks,
        targets=targets,
        layers=layers,
        goals=goals,
        history=tuple(dataclasses.replace(phase, label=HOSTILE) for phase in RESULTS.history),
    )
    outline = Outline(render(Run(hostile, example_profiles(), example_samples(n=1, side=16))))
    assert "script" not in outline.tags
    assert HOSTILE in outline.text


@pytest.mark.parametrize(
    ("changes", "gone"),
    [({"layers": ()}, {"time", "channels"}), ({"history": ()}, {"training"}), ({"pruning_error": None}, set())],
)
def test_a_run_with_less_to_show_has_a_shorter_page(changes: dict[str, object], gone: set[str]) -> None:
    everything = {"quality", "time", "channels", "numbers", "training", "run"}
    assert set(Outline(rendered(**changes)).ids) == everything - gone


def test_a_missed_goal_is_said_in_words() -> None:
    goals = (dataclasses.replace(RESULTS.goals[0], passed=False), *RESULTS.goals[1:])
    text = Outline(rendered(goals=goals)).text
    assert "1 of 6 goals missed" in text
    assert "at least 2.0x: missed" in text
    assert "All 6 goals reached" in Outline(rendered()).text
    assert "No goals were set" in Outline(rendered(goals=())).text


def test_a_failed_parity_is_said_in_words() -> None:
    target = RESULTS.targets[0]
    pruned = target.networks["pruned"]
    assert pruned.parity is not None
    failed = dataclasses.replace(pruned, parity=dataclasses.replace(pruned.parity, passed=False))
    targets = (dataclasses.replace(target, networks=target.networks | {"pruned": failed}), RESULTS.targets[1])
    assert "✗ FAILED" in rendered(targets=targets)


def test_the_tag_of_a_layer_says_what_cut_it(page: str) -> None:
    tags = re.findall(r'<h4>([^<]*)<span class="tag">([^<]*)</span>', page)
    assert ("down.4.conv", "hinge") in tags
    assert ("down.3.conv", "threshold") in tags
    assert ("down.6.conv", "dead") in tags
    assert ("down.0.conv", "all kept") in tags


def test_a_hinge_that_was_not_used_is_named() -> None:
    layers = tuple(
        dataclasses.replace(layer, hinge=50 if layer.hinge else None, threshold=0.1) for layer in RESULTS.layers
    )
    assert "threshold (hinge at 50)" in rendered(layers=layers)


def test_a_hinge_that_was_rounded_up_is_named_with_its_place() -> None:
    layer = RESULTS.layers[4]
    assert curve_panel(dataclasses.replace(layer, hinge=79), "hinge").tag == "hinge at 79, rounded up"
    whole = dataclasses.replace(layer, width_after=layer.width_before, hinge=250)
    assert curve_panel(whole, "hinge").tag == "all kept (hinge at 250)"


def test_nested_settings_become_rows() -> None:
    assert flattened({"train": {"steps": 3, "rates": [1, 2]}, "name": "a", "none": {}}) == {
        "train.steps": "3",
        "train.rates": "[1, 2]",
        "name": "a",
        "none": "{}",
    }


def test_quality_is_written_with_the_range_of_its_repeats() -> None:
    network = dataclasses.replace(RESULTS.baseline, quality=5.3, quality_repeats=(5.2, 5.4))
    assert quality_text(network) == "5.300 (5.20 to 5.40)"
    assert quality_text(dataclasses.replace(network, quality_repeats=())) == "5.300"


def test_save_report_is_a_function_of_the_folder(tmp_path: Path) -> None:
    folder = write_example_run(tmp_path / "a run")
    first = save_report(folder).read_bytes()
    run = load_run(folder)
    assert run.results == RESULTS
    assert [profile.target.name for profile in run.profiles] == ["onnxruntime-cpu", "openvino-cpu"]
    assert save_report(folder).read_bytes() == first
    assert json.loads((folder / "summary.json").read_text())["passed"] is True


def test_save_report_writes_nothing_for_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="finished run"):
        save_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_save_report_names_a_damaged_profile(tmp_path: Path) -> None:
    folder = write_example_run(tmp_path / "run")
    (folder / "profiles" / "openvino-cpu.json").write_text("{")
    with pytest.raises(BadInput, match=r"openvino-cpu\.json is damaged"):
        save_report(folder)


def test_a_metric_in_decibels_is_reported_as_a_difference() -> None:
    metric = dataclasses.replace(RESULTS.metric, name="PSNR", unit="dB", higher_is_better=True)
    results: Results = dataclasses.replace(RESULTS, metric=metric)
    assert "+0.14\u00a0dB" in render(Run(results))


def test_the_report_needs_no_torch() -> None:
    code = "import sys, compress.report.page; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_speedup_just_below_its_goal_is_not_rounded_up_to_it() -> None:
    target = RESULTS.targets[0]
    samples = tuple(sample / 1.97 for sample in target.networks["baseline"].latency.wall_ms)
    latency = dataclasses.replace(target.networks["pruned"].latency, wall_ms=samples, cpu_ms=samples, clock="wall")
    baseline = dataclasses.replace(target.networks["baseline"].latency, clock="wall")
    measured = {
        "baseline": dataclasses.replace(target.networks["baseline"], latency=baseline),
        "pruned": dataclasses.replace(target.networks["pruned"], latency=latency),
    }
    close = dataclasses.replace(target, networks=measured)
    assert tiles(dataclasses.replace(RESULTS, targets=(close,), layers=()))[0].value == "1.97×"
