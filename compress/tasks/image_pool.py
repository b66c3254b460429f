"""The image pool of CycleGAN (after Shrivastava et al., 2017, arXiv 1612.07828): discriminators see older images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class ImagePool:
    """Keep some of the generated images, and give each new one or, as often, an older one in its place.

    Args:
        size: Images to keep; 0 gives every image back as it is.
        seed: Of the choices.
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        self.size = size
        self._images: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(seed)

    def exchange(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return one image for each that was given."""
        return torch.stack([self._exchange_one(image) for image in images]) if self.size else images

    def state(self) -> dict[str, Tensor]:
        """Return the images and where the choices are."""
        images = torch.stack([image.cpu() for image in self._images]) if self._images else torch.empty(0)
        return {"images": images, "generator": self._generator.get_state()}

    def restore_(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self._images = list(state["images"])
        self._generator.set_state(state["generator"].cpu())

    def _exchange_one(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        if len(self._images) < self.size:
            self._images.append(image.clone())
            return image
        if torch.rand((), generator=self._generator) < 0.5:
            return image
        chosen = int(torch.randint(0, self.size, (), generator=self._generator))
        older, self._images[chosen] = self._images[chosen], image.clone()
        return older.to(image.device)
