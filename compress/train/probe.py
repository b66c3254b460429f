"""Which learning rate to train at: short trainings of copies of the network tell.

The rate of a fine-tuning is as large a lever as the method before it, and that of the baseline decides how good the
network is that everything is compared with: the U-Net of `tools/recipes/demo.toml` ends at an error of 3.98 % of the
range at a rate of 0.002, at 3.37 % at 0.008.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from torch import nn

from compress.tasks.base import Accompanied, Task
from compress.train.judge import CHUNK, run_in_chunks
from compress.train.loop import Extras, train_
from compress.train.run import Diverged
from compress.train.training import Training
from device_profiles.errors import BadInput

SHARE = 6  # a probe has 1 of so many of the training's steps
SAMPLES = 128  # that the networks are compared by
EVEN = 0.02  # of the least loss: what is higher by less is as good


@dataclass(frozen=True)
class Probed:
    """The learning rates that were tried.

    Attributes:
        losses: Rate -> loss of the network that was trained at it.
        diverged: Rates at which the loss became infinite.
    """

    losses: dict[float, float]
    diverged: tuple[float, ...] = ()

    @property
    def best(self) -> float:
        """The highest of the rates that are as good as the best one.

        A short training finds lower rates better than a long one does: a DnCNN whose loss was 1.6 % higher at three
        times the rate ended at 29.58 dB with that, at 29.24 dB without.
        """
        least = min(self.losses.values())
        return max(rate for rate, loss in self.losses.items() if loss <= least + EVEN * abs(least))

    @property
    def named_losses(self) -> dict[str, float]:
        """The losses by rates as they are written."""
        return {f"{rate:.3g}": loss for rate, loss in self.losses.items()}


def check_probe(task: Task, training: Training) -> None:
    """Make sure that a training can be probed, if it asks for that.

    Raises:
        BadInput: The task's loss is that of its companions for a good part: it says little by itself.
    """
    if training.probe and isinstance(task, Accompanied) and task.companions() is not None:
        raise BadInput(
            f"probe (={list(training.probe)}) compares networks by the task's own loss, and this task trains others "
            "beside them (discriminators), whose part in it is another one each time; leave probe out"
        )


def probe(
    module: nn.Module,
    task: Task,
    training: Training,
    *,
    label: str,
    checkpoint: Callable[[float], Path] | None = None,
    extras: Extras | None = None,
) -> Probed:
    """Train copies of a network at each rate that `training.probe` asks for, and compare them.

    They are compared by the task's loss on batches that are drawn from the training data for this alone; held-out
    samples stay unseen. Under torchrun all processes do this together.

    Args:
        module: It is not changed.
        task: Data and loss.
        training: As it would be trained.
        label: Names the probes in progress bars.
        checkpoint: Where the probe at a rate leaves its state; None for nowhere.
        extras: A teacher; nothing that holds on to the module's own parameters.

    Raises:
        BadInput: See `check_probe`.
        Diverged: At every rate the loss became infinite or not a number.
    """
    check_probe(task, training)
    steps = max(1, training.steps // SHARE)
    short = replace(
        training,
        probe=(),
        steps=steps,
        warm_up=training.warm_up * steps // training.steps,
        minutes=training.minutes and training.minutes / SHARE,
        log="none",
    )
    losses: dict[float, float] = {}
    diverged: list[float] = []
    for rate in (factor * training.learning_rate for factor in training.probe):
        tried, place = copy.deepcopy(module), checkpoint and checkpoint(rate)
        try:
            named = f"{label} at {rate:.3g}"
            train_(tried, task, replace(short, learning_rate=rate), label=named, checkpoint=place, extras=extras)
            losses[rate] = _loss(tried, task)
        except Diverged:
            if len(diverged) + 1 == len(training.probe):
                raise
            diverged.append(rate)
    return Probed(losses, tuple(diverged))


def _loss(module: nn.Module, task: Task) -> float:
    """Judge a network by the task's loss.

    Raises:
        Diverged: It is infinite or not a number.
    """
    batches = (task.batch(-1 - start, CHUNK) for start in range(0, SAMPLES, CHUNK))  # training asks for none below 0
    loss = fmean(task.loss(run_in_chunks(module, batch.inputs), batch.targets).item() for batch in batches)
    if not math.isfinite(loss):
        raise Diverged(f"the loss became {loss} after a short training; lower learning_rate")
    return loss
