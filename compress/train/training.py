"""How to train: the settings of a run, and the learning rate that follows from them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Training:
    """How to train.

    Args:
        steps: Optimizer steps; with `minutes`, at most.
        batch: Samples a step, of all processes together.
        learning_rate: At its highest.
        probe: Multiples of the learning rate that are tried before, for a sixth of the steps each, on copies of the
            network; the best one is then used, the highest of those next to even. Empty for none. See
            `compress.train.probe`: recipes do this, `train_` by itself does not.
        warm_up: Steps in which the learning rate rises linearly.
        schedule: "cosine" falls to zero; "flat" stays and falls linearly at the end, so that a penalty that grows on
            the way finds the same learning rate all along; "multistep" is multiplied by `factor` at each milestone;
            "constant" stays.
        fall: Share of the run in which "flat" falls; CycleGAN has 0.5.
        milestones: Of "multistep", as shares of the run.
        factor: Of "multistep".
        precision: As Lightning Fabric names it; "auto" is bf16 autocast where the device has bf16 arithmetic.
        optimizer: "sgd" has `momentum`, and Nesterov's with `nesterov`; "adam" adds the decay to the gradient,
            "adamw" takes it from the weights.
        betas: Of Adam.
        momentum: Of SGD.
        nesterov: Of SGD.
        weight_decay: Of what `decayed` says.
        decayed: "weights" spares biases and the parameters of normalisations (every tensor of one dimension), as He
            et al. (arXiv 1812.01187) advise: a scale that decay shrinks looks prunable without being so. "all" is what
            the published CIFAR recipes do.
        clip_norm: Gradients of a larger norm are scaled down to it.
        average: Decay of an exponential moving average of weights and of the statistics of normalisations; the
            average is what is judged, and what the network holds at the end.
        minutes: The run ends after this time, and its schedule with it: the learning rate follows the larger of the
            share of steps and the share of time. A resumed run counts the time that it had already taken. Such a run
            does not repeat to the bit.
        seed: Of everything drawn in training from torch's own generators: dropout, companions' weights, noise.
        device: "auto" is CUDA where there is one.
        log: Where the loss, its terms, the learning rate and the held-out quality go beside the checkpoints.
    """

    steps: int = Field(gt=0)
    batch: int = Field(8, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    probe: tuple[Annotated[float, Field(gt=0)], ...] = ()
    warm_up: int = Field(40, ge=0)
    schedule: Literal["cosine", "flat", "multistep", "constant"] = "cosine"
    fall: float = Field(0.3, gt=0, le=1)
    milestones: tuple[Share, ...] = (0.5, 0.75)  # as in He et al., arXiv 1512.03385, section 4.2
    factor: float = Field(0.1, gt=0, lt=1)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    betas: tuple[Share, Share] = (0.9, 0.99)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)
    decayed: Literal["weights", "all"] = "weights"
    clip_norm: float | None = Field(None, gt=0)
    average: float | None = Field(None, gt=0, lt=1)
    minutes: float | None = Field(None, gt=0)
    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log: Literal["csv", "tensorboard", "none"] = "csv"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones (={self.milestones}) must rise; put them in order")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov (=True) needs a momentum above 0; set momentum")
        return self

    def rate_at(self, step: int, time_share: float = 0.0) -> float:
        """Return the learning rate of a step, as a share of the highest.

        Args:
            step: Counted from 0.
            time_share: Of `minutes`, how much has passed.
        """
        rise = min(1.0, (step + 1) / max(1, self.warm_up))
        at = max(step, time_share * self.steps)
        if self.schedule == "constant":
            return rise
        if self.schedule == "multistep":
            return rise * self.factor ** sum(at >= milestone * self.steps for milestone in self.milestones)
        if self.schedule == "flat":
            return rise * min(1.0, (self.steps - at) / (self.fall * self.steps))
        return rise * 0.5 * (1 + math.cos(math.pi * at / self.steps))
