from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from compress.tasks.frechet import ColourGradientStatistics, FrechetDistance
from device_profiles.errors import BadInput, RuntimeUnavailable


def images(count, seed, brightness=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(count, 3, 16, 16, generator=generator) + brightness).clamp(-1, 1)


def test_the_distance_is_that_of_the_definition():
    made, real = images(60, 0), images(50, 1, brightness=0.3)
    one, two = (ColourGradientStatistics()((each + 1) * 127.5).double().numpy() for each in (made, real))
    covariances = [np.cov(each, rowvar=False) for each in (one, two)]
    expected = np.square(one.mean(0) - two.mean(0)).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * np.real(sqrtm(covariances[0] @ covariances[1]))
    )
    distance = FrechetDistance()
    assert distance(made, real).item() == pytest.approx(expected, rel=0.01)
    assert distance(made, real) == distance(made, real)  # nothing is left of an earlier measurement


def test_the_distance_grows_with_the_difference():
    distance, real = FrechetDistance(), images(60, 1)
    found = [distance(images(60, 0, brightness), real).item() for brightness in (0.0, 0.1, 0.3)]
    assert found == sorted(found)
    assert found[2] > 10 * found[0]


def test_features_are_means_deviations_and_gradients():
    ramp = torch.arange(16.0).expand(1, 3, 16, 16)
    features = ColourGradientStatistics()(ramp)
    assert features.shape == (1, ColourGradientStatistics.num_features)
    mean, deviation, across, down = features[0, :12].reshape(4, 3)[:, 0].tolist()
    assert (mean, across, down) == (7.5, 1.0, 0.0)
    assert deviation == pytest.approx(4.62, abs=0.01)


def test_it_is_never_called_fid_without_inception_and_needs_two_images():
    assert "FID" not in FrechetDistance().metric.name
    with pytest.raises(BadInput, match="of 1 and 4 images is undefined"):
        FrechetDistance()(images(1, 0), images(4, 1))


def test_a_weights_file_needs_torch_fidelity(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="there is no file"):
        FrechetDistance(tmp_path / "inception.pth")
    (tmp_path / "inception.pth").write_bytes(b"no weights")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailable, match="pip install torch-fidelity"):
        FrechetDistance(tmp_path / "inception.pth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "found")
    with pytest.raises(BadInput, match=r"inception\.pth does not hold the Inception weights"):
        FrechetDistance(tmp_path / "inception.pth")


def test_a_weights_file_that_would_run_code_is_refused_before_anything_runs(tmp_path, monkeypatch):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save(Code(), tmp_path / "inception.pth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "found")
    with pytest.raises(BadInput, match="does not hold the Inception weights"):
        FrechetDistance(tmp_path / "inception.pth")
    assert not (tmp_path / "ran").exists()
