"""The adversarial half of pix2pix (Isola et al., 2017, arXiv 1611.07004): a discriminator and its two losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from compress.models.patchgan import PatchGan
from compress.tasks.base import Batch


class Adversary:
    """A PatchGAN with its optimizer, trained one step for each step of the generator; `Companions` of a task.

    Args:
        weight: Of the adversarial term in the generator's loss; pix2pix has 1 beside 100 times the L1 loss, so 0.01
            here, where the L1 loss has weight 1.
        channels: Of the condition and the image together.
        learning_rate: Of the discriminator's Adam, as in pix2pix.
    """

    def __init__(self, weight: float = 0.01, channels: int = 6, learning_rate: float = 2e-4) -> None:
        self.weight = weight
        self.module = PatchGan(in_channels=channels)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=learning_rate, betas=(0.5, 0.999))
        self.modules: dict[str, nn.Module] = {"discriminator": self.module}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"discriminator": self.optimizer}

    def loss(self, _forward: Callable[[Tensor], Tensor], batch: Batch, outputs: Tensor) -> Float[Tensor, ""]:
        """Return how clearly the discriminator tells the outputs from real images, times the weight."""
        self.module.requires_grad_(False)  # its own gradients are of no use here
        logits = self.module(batch.inputs, outputs)
        return self.weight * functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

    def step_(self, batch: Batch, outputs: Tensor) -> None:
        """Train the discriminator on one batch."""
        self.module.requires_grad_(True)
        self.optimizer.zero_grad()
        real, fake = self.module(batch.inputs, batch.targets), self.module(batch.inputs, outputs)
        loss = 0.5 * (
            functional.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        )
        loss.backward()
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return nothing: weights and optimizer are all there is."""
        return {}

    def restore_(self, state: Mapping[str, Tensor]) -> None:
        """Take back nothing."""
