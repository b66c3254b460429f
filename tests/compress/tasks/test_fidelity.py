from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from compress.tasks.fidelity import levels, luma, psnr, ssim, without_border


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(2, 3, 40, 50, generator=generator)
    return levels(true + 0.1 * torch.randn(true.shape, generator=generator)), levels(true)


def numpy_of(pictures):
    return pictures.permute(0, 2, 3, 1).numpy().astype(np.float64)


def test_luma_is_that_of_scikit_image(pair):
    expected = rgb2ycbcr(numpy_of(pair[0]) / 255)[..., 0]
    assert np.allclose(luma(pair[0])[:, 0].numpy(), expected, atol=1e-3)


def test_psnr_is_that_of_scikit_image(pair):
    expected = [
        peak_signal_noise_ratio(one, two, data_range=255) for one, two in zip(*map(numpy_of, pair), strict=True)
    ]
    assert psnr(*pair).tolist() == pytest.approx(expected, abs=1e-3)


def test_ssim_is_that_of_scikit_image_with_the_published_window(pair):
    restored, true = (luma(each)[:, 0].numpy().astype(np.float64) for each in pair)
    expected = [
        structural_similarity(one, two, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for one, two in zip(restored, true, strict=True)
    ]
    assert ssim(*map(luma, pair)).tolist() == pytest.approx(expected, abs=1e-4)


def test_equal_pictures_have_a_finite_psnr_and_one_picture_one_ssim(pair):
    assert psnr(pair[0], pair[0]).tolist() == pytest.approx([108.13, 108.13], abs=0.01)
    assert ssim(pair[0][:1], pair[0][:1]).tolist() == pytest.approx([1.0])


def test_levels_clip_and_round_and_a_border_is_cut_on_all_sides():
    assert levels(torch.tensor([[[[-1.0, 0.5, 2.0]]]])).tolist() == [[[[0.0, 128.0, 255.0]]]]
    picture = torch.arange(30.0).reshape(1, 1, 5, 6)
    assert torch.equal(without_border(picture, 2), picture[:, :, 2:3, 2:4])
