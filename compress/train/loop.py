"""The one training loop: any task, any network, with an extra loss, a teacher or companions; resumable."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from compress.report.results import Phase
from compress.tasks.base import Task
from compress.train.extras import Extras, Teacher
from compress.train.log import make_logger
from compress.train.run import Run
from compress.train.threads import threads_set
from compress.train.training import Training
from runtimes.progress import progress_bar

__all__ = ["Extras", "Teacher", "Training", "train_"]

CHECKPOINT_EVERY_S = 15.0  # a checkpoint of the 10 M parameter U-Net takes 0.3 s: 2 % of the time


def train_(
    module: nn.Module,
    task: Task,
    training: Training,
    *,
    label: str,
    checkpoint: Path | None = None,
    extras: Extras | None = None,
) -> Phase:
    """Train a module in place, on one process or on all that torchrun started.

    Every process draws the whole batch and trains on its share of the rows; the first one keeps checkpoints and logs.
    Normalisations over the batch then see a share each, and resumed companions all take the first process' state.
    With the same settings, number of threads and number of processes a run repeats to the bit on one machine, however
    often it is killed and started again.

    Args:
        module: Changed in place; ends in eval mode, on the device where it was.
        task: Data and loss; where it is `Accompanied`, its companions are trained beside the network.
        training: Steps, rates and precision.
        label: Names the run in the progress bar and in the returned curve.
        checkpoint: Where to leave the state every few seconds, with logs beside it; a run that finds one there goes on
            from it. It is removed by nobody: a finished run's checkpoint returns at once.
        extras: What a method adds.

    Returns:
        The curve of the loss and of the held-out quality.

    Raises:
        BadInput: The checkpoint belongs to another run, the batch cannot be shared out evenly, or there is no such
            device.
        Diverged: The loss became infinite or not a number.
        RuntimeUnavailable: The logger that is asked for is not installed.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # the run seeds them in every step
        run = Run(module, task, training, extras or Extras())
        if checkpoint is not None and checkpoint.exists():
            run.restore_(checkpoint)
        if not run.over:
            with threads_set(run.settle_threads_()):
                _go_on_(run, label, checkpoint if run.fabric.is_global_zero else None)
        run.end_()
    return run.phase(label)


def _go_on_(run: Run, label: str, checkpoint: Path | None) -> None:
    """Do the steps that are left."""
    steps, kind = run.training.steps, run.training.log
    logger = make_logger(kind, checkpoint) if checkpoint is not None and kind != "none" else None
    saved = time.monotonic()
    with progress_bar(steps, label, "steps") if run.fabric.is_global_zero else tqdm(disable=True) as bar:
        bar.update(run.progress * steps)
        while not run.over:
            row = run.advance_()
            bar.update(run.progress * steps - bar.n)
            if logger is not None and row:
                logger.log_metrics(row, run.step)
            if run.over:
                run.check_losses_()
            due = run.over or time.monotonic() - saved > CHECKPOINT_EVERY_S
            if checkpoint is not None and due and run.checked:
                run.save(checkpoint)
                if logger is not None:
                    logger.save()
                saved = time.monotonic()
