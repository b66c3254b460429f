"""What CycleGAN (Zhu et al., 2017, arXiv 1703.10593) trains beside a generator: its inverse and two discriminators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from compress.models.patchgan import PatchGan
from compress.tasks.base import Batch
from compress.tasks.image_pool import ImagePool

POOLED_IMAGES = 50
BETAS = (0.5, 0.999)  # of Adam, as published


@dataclass(frozen=True)
class CycleWeights:
    """Of the terms of the loss; the defaults are those of the published code."""

    adversary: float = 1.0
    cycle: float = 10.0
    identity: float = 5.0


class Cycle:
    """Least-squares adversaries, cycle consistency and identity; `Companions` of an unpaired translation.

    A batch's inputs are images of kind A, its targets other images of kind B. The inverse generator follows the same
    loss as the network: its gradients come from the network's backward pass, and `step_` only takes the step.

    Args:
        inverse: Translates B to A.
        weights: Of the loss's terms.
        width: Channels of the first layer of each discriminator; 64 as published.
        learning_rate: Of the three companions' Adam, as published.
    """

    def __init__(self, inverse: nn.Module, weights: CycleWeights, width: int = 64, learning_rate: float = 2e-4) -> None:
        self.weights = weights
        self.inverse = inverse
        self.tells_a, self.tells_b = PatchGan(width, in_channels=3), PatchGan(width, in_channels=3)
        self.pool_a, self.pool_b = ImagePool(POOLED_IMAGES, seed=0), ImagePool(POOLED_IMAGES, seed=1)
        self.modules = {"inverse": inverse, "discriminator_a": self.tells_a, "discriminator_b": self.tells_b}
        self.discriminating = [*self.tells_a.parameters(), *self.tells_b.parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "inverse": torch.optim.Adam(inverse.parameters(), lr=learning_rate, betas=BETAS),
            "discriminators": torch.optim.Adam(self.discriminating, lr=learning_rate, betas=BETAS),
        }
        self._made_a = torch.empty(0)

    def loss(self, forward: Callable[[Tensor], Tensor], batch: Batch, outputs: Tensor) -> Float[Tensor, ""]:
        """Return the loss of both generators."""
        a, b, made_b = batch.inputs, batch.targets, outputs
        self._discriminators_learn_(learn=False)
        made_a = self.inverse(b)
        self._made_a = made_a.detach()
        adversary = _distance_from(1.0, self.tells_b, made_b) + _distance_from(1.0, self.tells_a, made_a)
        cycle = l1_loss(self.inverse(made_b), a) + l1_loss(forward(made_a), b)
        identity = l1_loss(forward(b), b) + l1_loss(self.inverse(a), a)
        return self.weights.adversary * adversary + self.weights.cycle * cycle + self.weights.identity * identity

    def step_(self, batch: Batch, outputs: Tensor) -> None:
        """Train the inverse generator and both discriminators by one step."""
        self.optimizers["inverse"].step()
        self.optimizers["inverse"].zero_grad()
        self._discriminators_learn_(learn=True)
        self.optimizers["discriminators"].zero_grad()
        for tells, real, made in (
            (self.tells_a, batch.inputs, self.pool_a.exchange(self._made_a)),
            (self.tells_b, batch.targets, self.pool_b.exchange(outputs)),
        ):
            (0.5 * (_distance_from(1.0, tells, real) + _distance_from(0.0, tells, made))).backward()
        self.optimizers["discriminators"].step()

    def state(self) -> dict[str, Tensor]:
        """Return both image pools."""
        pools = {"a": self.pool_a.state(), "b": self.pool_b.state()}
        return {f"{name}/{key}": value for name, state in pools.items() for key, value in state.items()}

    def restore_(self, state: Mapping[str, Tensor]) -> None:
        """Take back both image pools."""
        for name, pool in (("a", self.pool_a), ("b", self.pool_b)):
            pool.restore_({key: state[f"{name}/{key}"] for key in ("images", "generator")})

    def _discriminators_learn_(self, *, learn: bool) -> None:
        for parameter in self.discriminating:
            parameter.requires_grad_(learn)


def _distance_from(wanted: float, tells: PatchGan, images: Tensor) -> Float[Tensor, ""]:
    """Return the least-squares loss of a discriminator, which sees the image alone and no condition."""
    return (tells(images[:, :0], images) - wanted).square().mean()
