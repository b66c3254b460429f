"""DnCNN for denoising (Zhang et al., 2017, arXiv 1608.03981).

The network predicts the noise and subtracts it. Every convolution has a bias, those before a BatchNorm included, as in
the DHP paper's code: 557,057 parameters and 9.079 G MACs for one grey channel of 128x128 pixels, 9.13 G counted with
`compress.graph.count.DHP_RESTORATION`. Weights start after He et al. (2015), as in the paper, but those of
the last convolution near zero.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from compress.models.initialise import he_
from device_profiles.errors import BadInput

FIRST_NOISE = 1e-3  # the network begins by giving back its input: 24.2 in place of 18.2 dB after 200 steps (one run)


class DnCnn(nn.Module):
    """Remove the noise from an image.

    Args:
        width: Channels of every feature map.
        depth: Convolutions, the first and the last included; at least 2.
        in_channels: Channels of the image.

    Raises:
        BadInput: `depth` is below 2.
    """

    def __init__(self, width: int = 64, depth: int = 17, in_channels: int = 1) -> None:
        super().__init__()
        if depth < 2:
            raise BadInput(f"depth (={depth}) must be at least 2, the first and the last convolution; raise it")
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.Conv2d(width, in_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        he_(self)
        nn.init.normal_(self.layers[-1].weight, std=FIRST_NOISE)

    def forward(self, noisy: Float[Tensor, "n i h w"]) -> Float[Tensor, "n i h w"]:
        """Return the image without its noise."""
        return noisy - self.layers(noisy)
