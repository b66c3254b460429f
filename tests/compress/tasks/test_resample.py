from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from compress.tasks.fidelity import psnr
from compress.tasks.pictures import to_tensor
from compress.tasks.resample import blur, enlarge, shrink


def matlab_cubic(x):
    """MATLAB's kernel: Keys (1981) with a = -0.5."""
    x = np.abs(x)
    return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def matlab_imresize(line, scale):
    """Resize along the first axis as MATLAB's imresize does: a wider kernel for shrinking, a mirrored border."""
    count, size = len(line), round(len(line) * scale)
    stretch = min(scale, 1.0)
    centres = (np.arange(size) + 0.5) / scale - 0.5
    taps = np.floor(centres - 2 / stretch).astype(int)[:, None] + np.arange(int(np.ceil(4 / stretch)) + 2)
    weights = matlab_cubic((centres[:, None] - taps) * stretch)
    weights /= weights.sum(1, keepdims=True)
    mirrored = np.concatenate([np.arange(count), np.arange(count)[::-1]])[taps % (2 * count)]
    return np.einsum("st,st...->s...", weights, line[mirrored])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrinking_and_enlarging_are_matlabs_imresize_inside_the_border(scale):
    pixels = skimage.data.camera()[100:196, 200:344].astype(np.float64)
    small = matlab_imresize(matlab_imresize(pixels, 1 / scale).T, 1 / scale).T
    ours = shrink(torch.from_numpy(pixels.astype(np.uint8))[None], scale)[0].numpy()
    inner = slice(4, -4)
    assert np.abs(ours - np.clip(small, 0, 255).round())[inner, inner].max() <= 1  # a tie rounded the other way
    large = matlab_imresize(matlab_imresize(ours.astype(np.float64), scale).T, scale).T
    found = enlarge(torch.from_numpy(ours)[None, None].float(), scale)[0, 0].numpy()
    inner = slice(4 * scale, -4 * scale)
    assert np.abs(found - large)[inner, inner].max() < 1e-3


def test_a_picture_that_scale_does_not_divide_is_cropped_at_its_lower_right():
    picture = to_tensor(Image.fromarray(skimage.data.chelsea()[:50, :71]))
    assert torch.equal(shrink(picture, 4), shrink(picture[:, :48, :68], 4))


def test_enlarging_what_was_shrunk_comes_close_to_the_picture():
    picture = torch.from_numpy(skimage.data.moon())[None]
    again = enlarge(shrink(picture, 2)[None].float(), 2)
    assert psnr(again, picture[None].float()).item() > 38


def test_blur_is_a_gaussian_filter():
    picture = torch.rand(1, 2, 30, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(picture[0, 1].numpy(), 1.5, mode="mirror", radius=4)
    assert np.allclose(blur(picture, 1.5)[0, 1].numpy(), expected, atol=2e-3)
