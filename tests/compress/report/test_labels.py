from __future__ import annotations

import dataclasses
import itertools
from xml.etree import ElementTree

import numpy as np
import pytest

from compress.report.labels import HIGH, Box, box_around, place_label
from compress.report.latency_figures import quality_against_latency
from compress.report.results import NetworkResult, TargetResult
from compress.report.svg import text_width
from tests.compress.report.example import example_results, measured

RESULTS = example_results()
INSIDE = Box(0, 0, 300, 200)


def test_a_label_stands_right_of_a_mark_that_is_alone() -> None:
    own = Box(50, 50, 12, 12)
    found = place_label("a network", own, [own], [], INSIDE)
    assert found.x == pytest.approx(66)
    assert found.y + found.height / 2 == pytest.approx(56)


def test_a_label_leaves_a_line_alone_where_it_can() -> None:
    own = Box(50, 50, 12, 12)
    line = box_around((0, 56), (300, 56), 1)
    assert not place_label("a network", own, [own], [line], INSIDE).meets(line)
    everywhere = [box_around((0, y), (300, y), 1) for y in range(0, 200, 10)]
    assert place_label("a network", own, [own], everywhere, INSIDE).x == pytest.approx(66)


def test_a_label_that_fits_nowhere_is_still_placed() -> None:
    own = Box(0, 0, 20, 20)
    assert place_label("longer than there is room", own, [own], [], own).height == HIGH


def boxes_drawn(networks: tuple[NetworkResult, ...], target: TargetResult) -> tuple[list[Box], list[Box]]:
    """The labels and everything that is drawn for the networks, read back from the figure."""
    root = ElementTree.fromstring(str(quality_against_latency(networks, target, RESULTS.metric)))
    labels, marks = [], []
    for element in root.iter():
        kind = element.get("class", "")
        if kind == "value halo":
            x, y = float(element.attrib["x"]), float(element.attrib["y"])
            labels.append(Box(x, y - 11, text_width(element.text or ""), HIGH - 0.1))  # drawn to 0.1 pixels
        elif kind.startswith("whisker"):
            x1, y1, x2, y2 = (float(element.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
            marks.append(box_around((x1, y1), (x2, y2), 0))
        elif element.tag == "circle":
            marks.append(box_around(*[(float(element.attrib["cx"]), float(element.attrib["cy"]))] * 2, 5.5))
        elif element.tag == "polygon":
            points = [tuple(map(float, point.split(","))) for point in element.attrib["points"].split()]
            xs, ys = zip(*points, strict=True)
            marks.append(box_around((min(xs), min(ys)), (max(xs), max(ys)), 0))
    return labels, marks


@pytest.mark.parametrize("seed", range(40))
def test_labels_meet_neither_marks_nor_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    apart = (0.0, 0.05, 0.3, 1.0)[seed % 4]  # from all networks in one place to anywhere
    networks, latencies = [], {}
    for network in RESULTS.networks:
        quality = 5.0 + apart * rng.normal()
        repeats = tuple((quality + 0.2 * rng.normal(size=4)).tolist())
        networks.append(dataclasses.replace(network, quality=quality, quality_repeats=repeats))
        latency = measured(10.0 * float(np.exp(apart * rng.normal())), seed=seed)
        latencies[network.key] = dataclasses.replace(RESULTS.targets[0].networks[network.key], latency=latency)
    target = dataclasses.replace(RESULTS.targets[0], networks=latencies)
    labels, marks = boxes_drawn(tuple(networks), target)
    assert len(labels) == 4
    assert len(marks) == 12
    assert not any(a.meets(b) for a, b in itertools.combinations(labels, 2))
    assert not any(label.meets(mark) for label, mark in itertools.product(labels, marks))
