from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from skimage import io as images

from compress.report import pictures
from tests.compress.report.example import example_samples

LABELS = {"baseline": "as trained", "pruned": "ours", "uniform": "uniform widths", "quarter": "a quarter"}


def decoded(uri: str) -> np.ndarray:
    return images.imread(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_png_decodes_to_the_same_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(decoded(pictures.data_uri(image)), image)


def test_gallery_shows_input_target_drawings_and_their_errors() -> None:
    made = pictures.gallery(example_samples(n=2, side=24), LABELS)
    assert made is not None
    headings = [column.heading for column in made.columns]
    assert headings == ["input", "target", "baseline", "pruned", "error of baseline", "error of pruned"]
    assert [column.heading for column in made.others] == [
        "uniform widths",
        "a quarter",
        "error of uniform",
        "error of quarter",
    ]
    assert all(len(column.uris) == 2 for column in made.columns)


def test_a_perfect_drawing_has_a_black_error() -> None:
    samples = example_samples(n=1, side=16)
    samples["pruned"] = samples["target"]
    made = pictures.gallery(samples, LABELS)
    assert made is not None
    assert np.array_equal(np.unique(decoded(made.columns[-1].uris[0])), np.unique(pictures.HEAT[0].astype(np.uint8)))


@pytest.mark.parametrize("missing", ["target", "baseline", "pruned"])
def test_there_is_no_gallery_without_target_baseline_or_pruned(missing: str) -> None:
    samples = example_samples(n=1, side=16)
    del samples[missing]
    assert pictures.gallery(samples, LABELS) is None


def test_large_noisy_images_leave_the_page_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 400, 400, 3), dtype=np.uint8)
    made = pictures.gallery(dict.fromkeys(("input", "target", "baseline", "pruned"), noise), LABELS)
    assert made is not None
    assert 1 <= len(made.columns[0].uris) <= pictures.MOST_ROWS
    assert sum(len(uri) for column in made.columns for uri in column.uris) <= pictures.MOST_BYTES
    assert max(decoded(made.columns[0].uris[0]).shape) <= pictures.LARGEST_SIDE


def test_shrinking_averages_blocks() -> None:
    large = np.zeros((1, 384, 384, 3), np.uint8)
    large[:, ::2] = 100
    assert np.array_equal(pictures.shrink(large), np.full((1, 192, 192, 3), 50, np.uint8))


def test_heat_gets_lighter_with_the_error() -> None:
    colours = pictures.heat(np.linspace(0, 1.5, 20)).astype(int)
    assert np.all(np.diff(colours @ (2, 7, 1)) >= 0)
