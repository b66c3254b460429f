"""The Frechet distance between two sets of images, on features that are always named (Heusel et al., 2017).

Only with the Inception network and the weights it was published with (arXiv 1706.08500) it is the FID. Those weights
are the user's own file; without one, the features are statistics of colours and gradients, and the distance has their
name. Either way it is computed by torchmetrics.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.image.fid import FrechetInceptionDistance

from compress.report.results import Metric
from device_profiles.errors import BadInput, RuntimeUnavailable

CHUNK = 32  # images at once
SCALES = 3
INCEPTION_FEATURES = 2048


class ColourGradientStatistics(nn.Module):
    """Describe an image by 36 numbers.

    At three scales they are the mean and the deviation of each colour, and how much it changes from one pixel to the
    next, across and down.
    """

    num_features = SCALES * 4 * 3

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 36"]:
        """Return the features, in grey levels, of images from 0 to 255."""
        features = []
        for _ in range(SCALES):
            deviation, mean = torch.std_mean(images, dim=(2, 3))
            across, down = (images.diff(dim=axis).abs().mean(dim=(2, 3)) for axis in (3, 2))
            features += [mean, deviation, across, down]
            images = functional.avg_pool2d(images, 2)
        return torch.cat(features, dim=1)


class FrechetDistance:
    """Measure how far a set of images is from another one; of several processes, each measures its own images.

    Args:
        inception: The file with the Inception weights that torch-fidelity publishes, `weights-inception-2015-12-05-
            6726825d.pth`; without it, colours and gradients are compared.

    Raises:
        BadInput: The file is missing or holds something else.
        RuntimeUnavailable: torch-fidelity, which knows the network, is not installed.
    """

    def __init__(self, inception: Path | None = None) -> None:
        if inception is None:
            self.metric = Metric("Frechet distance on colours and gradients", "grey levels²", higher_is_better=False)
            self._distance = FrechetInceptionDistance(ColourGradientStatistics(), sync_on_compute=False)
            self._range = 255.0
        else:
            self.metric = Metric("FID", "", higher_is_better=False)
            self._distance = _inception_distance(inception)
            self._range = 1.0

    def __call__(self, made: Float[Tensor, "n 3 h w"], real: Float[Tensor, "m 3 h w"]) -> Float[Tensor, ""]:
        """Return the distance between two sets of images from -1 to 1.

        Raises:
            BadInput: A set holds fewer than two images.
        """
        if min(len(made), len(real)) < 2:
            raise BadInput(
                f"a Frechet distance of {len(made)} and {len(real)} images is undefined; hold out two or more"
            )
        distance = self._distance.to(made.device)
        distance.reset()
        for images, are_real in ((made, False), (real, True)):
            for chunk in images.split(CHUNK):
                distance.update((chunk.clamp(-1, 1) + 1) * (self._range / 2), real=are_real)
        return distance.compute()


def _inception_distance(weights: Path) -> FrechetInceptionDistance:
    if not weights.is_file():
        raise BadInput(f"there is no file {weights}; give the Inception weights that torch-fidelity publishes, or none")
    if importlib.util.find_spec("torch_fidelity") is None:
        raise RuntimeUnavailable("the FID needs torch-fidelity, which is not installed; pip install torch-fidelity")
    try:
        torch.load(weights, weights_only=True, mmap=True)  # torch-fidelity would run any code that a pickle holds
        return FrechetInceptionDistance(
            INCEPTION_FEATURES, normalize=True, feature_extractor_weights_path=str(weights), sync_on_compute=False
        )
    except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{weights} does not hold the Inception weights of torch-fidelity ({reason})") from error
