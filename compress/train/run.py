"""One training run: its state between two steps, and what a step is."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.report.results import Phase
from compress.tasks.base import Accompanied, Batch, Task, Teachable
from compress.train.average import Average
from compress.train.checkpoint import Kept, Trained, below, load_checkpoint, save_checkpoint
from compress.train.extras import Extras
from compress.train.judge import device_of, judge, run_in_chunks
from compress.train.optimizer import make_optimizer
from compress.train.processes import (
    agree_,
    average_,
    average_gradients_,
    gradients,
    make_fabric,
    seed_,
    share_of,
    statistics,
)
from compress.train.threads import choose_threads
from compress.train.training import Training
from device_profiles.errors import BadInput

LOOKS = 8  # how often a run is judged on the way
LOOK_SAMPLES = 32  # on how much of the held-out data
LOG_EVERY = 10
SEED_STRIDE = 1_000_003  # a prime beyond the steps of a run: no two seeds share a step's numbers


class Diverged(BadInput):
    """The loss became infinite or not a number."""


class Run:
    """The state of a training run.

    Args:
        module: Moved to the run's device and trained in place.
        task: Data and loss.
        training: The settings.
        extras: What a method adds.
    """

    def __init__(self, module: nn.Module, task: Task, training: Training, extras: Extras) -> None:
        self.module, self.task, self.training, self.extras = module, task, training, extras
        self.step = 0
        self.over = False
        self.threads: int | None = None
        self.losses: dict[int, float] = {}
        self.looks: dict[int, float] = {}
        self.unchecked: dict[int, Tensor] = {}
        self.seconds_before, self.started, self.time_share = 0.0, time.monotonic(), 0.0
        self.fabric = make_fabric(training.device, training.precision)
        seed_(self.fabric.device, training.seed)
        self.companions = task.companions() if isinstance(task, Accompanied) else None
        self.home = device_of(module)
        self.layout = _layout_of_(module, task.batch(0, training.batch).inputs[:1])
        self._move_(self.fabric.device)
        groups = extras.parameter_groups or [{"params": list(module.parameters()), "lr": 1.0}]
        self.optimizer = make_optimizer(training, groups)
        self.factors = [group["lr"] for group in self.optimizer.param_groups]
        self.trained = self._trained()
        agree_(self.fabric, self.trained.modules.values())
        self.average = Average(module, training.average) if training.average else None

    @property
    def progress(self) -> float:
        """The share of the run that is done, by steps or by time."""
        return min(1.0, max(self.step / self.training.steps, self.time_share))

    def advance_(self) -> dict[str, float]:
        """Do one step; return what there is to log about it."""
        before = self.progress
        # A resumed run draws the same. The CPU's generator takes 32 bits.
        seed_(self.fabric.device, (self.training.seed * SEED_STRIDE + self.step) % 2**32)
        rate = self.training.learning_rate * self.training.rate_at(self.step, self.time_share)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        batch = self._draw()
        self.module.train()
        outputs = self._forward(batch.inputs)
        terms = self._terms(batch, outputs)
        loss = sum(terms.values())
        terms = {name: value.detach().clone() for name, value in ({"loss": loss} | terms).items()}
        self._descend_(loss, terms)
        if self.companions is not None:
            self.companions.step_(batch, outputs.detach())
            average_(self.fabric, statistics(self.companions.modules.values()))
        self.step += 1
        if self.extras.after_step is not None:
            self.extras.after_step(self.step, rate)
        if self.average is not None:
            self.average.update_(self.module, self.step)
        self._look_at_the_clock_()
        return self._row(terms, rate, before)

    @property
    def checked(self) -> bool:
        """Whether all losses so far are known to be finite."""
        return not self.unchecked

    def settle_threads_(self) -> int:
        """Choose how many threads of a CPU to use, once for the whole run: sums depend on it."""
        if self.threads is None:
            self.threads = torch.get_num_threads()
            if self.fabric.device.type == "cpu" and self.fabric.world_size == 1:
                inputs = self.task.batch(self.step, self.training.batch).inputs
                self.threads = choose_threads(lambda: run_in_chunks(self.module, inputs))
        return self.threads

    def save(self, path: Path) -> None:
        """Write everything that the rest of the run depends on, once its losses are known to be finite."""
        values = {
            "step": self.step,
            "seconds": self._seconds(),
            "threads": self.threads,
            "losses": list(self.losses.items()),
            "looks": list(self.looks.items()),
            "extras": self.extras.state or {},
        }
        tensors: dict[str, Tensor] = {}
        if self.companions is not None:
            tensors |= {f"companions/{name}": value for name, value in self.companions.state().items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.tensors.items()}
        save_checkpoint(path, self.trained, Kept(values, tensors))

    def restore_(self, path: Path) -> None:
        """Go on where a checkpoint was written."""
        kept = load_checkpoint(path, self.trained)
        self.step, self.seconds_before = kept.values["step"], kept.values["seconds"]
        self.threads = kept.values["threads"]
        self.losses, self.looks = dict(kept.values["losses"]), dict(kept.values["looks"])
        if self.extras.state is not None:
            self.extras.state.update(kept.values["extras"])
        if self.companions is not None:
            self.companions.restore_(below(kept.tensors, "companions/"))
        if self.average is not None:
            self.average.restore_(below(kept.tensors, "average/"))
        self._look_at_the_clock_()

    def end_(self) -> None:
        """Leave the trained network where it was, in eval mode."""
        if self.average is not None:
            self.average.leave_in_(self.module)
        self._move_(self.home)
        self.module.eval()

    def phase(self, label: str) -> Phase:
        """Return the curve so far."""
        return Phase(
            key=label,
            label=label,
            steps=tuple(self.losses),
            loss=tuple(self.losses.values()),
            quality_steps=tuple(self.looks),
            quality=tuple(self.looks.values()),
        )

    def _trained(self) -> Trained:
        """Gather what is trained; companions' optimizers are made to average their gradients by themselves."""
        modules: dict[str, nn.Module] = {"network": self.module, **self.extras.modules}
        optimizers = {"network": self.optimizer}
        if self.companions is not None:
            modules |= {f"companion {name}": each.train() for name, each in self.companions.modules.items()}
            for name, optimizer in self.companions.optimizers.items():
                average_gradients_(self.fabric, optimizer)
                optimizers[f"companion {name}"] = optimizer
        return Trained(modules, optimizers)

    def _move_(self, device: torch.device) -> None:
        self.module.to(device, memory_format=self.layout)
        for each in self.extras.modules.values():
            each.to(device)
        if self.extras.teacher is not None:
            self.extras.teacher.module.eval().to(device)
        for each in self.companions.modules.values() if self.companions is not None else ():
            each.to(device)

    def _draw(self) -> Batch:
        batch = share_of(self.fabric, self.task.batch(self.step, self.training.batch))
        inputs = batch.inputs.contiguous(memory_format=self.layout)
        return replace(batch, inputs=inputs.to(self.fabric.device), targets=batch.targets.to(self.fabric.device))

    def _forward(self, inputs: Tensor) -> Tensor:
        with self.fabric.autocast():
            return self.module(inputs).float()

    def _terms(self, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        """Return what adds up to the loss."""
        terms = {"task_loss": self.task.loss(outputs, batch.targets)}
        if self.extras.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                taught = self.extras.teacher.module(batch.inputs).float()
            distance = self.task.distillation if isinstance(self.task, Teachable) else self.task.loss
            terms["distillation"] = self.extras.teacher.weight * distance(outputs, taught)
        if self.companions is not None:
            terms["companions"] = self.companions.loss(self._forward, batch, outputs)
        if self.extras.penalty is not None:
            terms["penalty"] = self.extras.penalty(batch, outputs)
        return terms

    def _descend_(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Move the weights; afterwards the terms are means over all processes."""
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.fabric.world_size > 1:
            own = [self.module, *self.extras.modules.values()]
            average_(self.fabric, [*gradients(self.optimizer), *statistics(own), *terms.values()])
        self.unchecked[self.step] = terms["loss"]
        if self.fabric.device.type == "cpu" or (self.step + 1) % LOG_EVERY == 0:  # each check waits for a GPU
            self.check_losses_()
        if self.training.clip_norm is not None:
            parameters = (p for group in self.optimizer.param_groups for p in group["params"])
            torch.nn.utils.clip_grad_norm_(parameters, self.training.clip_norm)
        self.optimizer.step()

    def check_losses_(self) -> None:
        """Make sure that all losses so far are finite; all processes do so at the same step, or one would end alone.

        Raises:
            Diverged: One is not.
        """
        for step, tensor in self.unchecked.items():
            if not math.isfinite(loss := tensor.item()):
                raise Diverged(
                    f"the loss became {loss} at step {step} of {self.training.steps}{self._samples(step)}; lower "
                    f"learning_rate (={self.training.learning_rate}) or look for broken samples in the data"
                )
        self.unchecked.clear()

    def _samples(self, step: int) -> str:
        """Name the samples of a step that hold something else than numbers, or all of them."""
        batch = self.task.batch(step, self.training.batch)
        names = batch.names or [f"number {i + 1} of its batch" for i in range(len(batch))]
        finite = [i.isfinite().all() and t.isfinite().all() for i, t in zip(batch.inputs, batch.targets, strict=True)]
        broken = [name for name, fine in zip(names, finite, strict=True) if not fine]
        if broken:
            return f", where a sample holds values that are no numbers ({', '.join(broken)})"
        return f" (samples {', '.join(batch.names)})" if batch.names else ""

    def _row(self, terms: dict[str, Tensor], rate: float, before: float) -> dict[str, float]:
        row: dict[str, float] = {}
        if self.step % LOG_EVERY == 0:
            row = {name: value.item() for name, value in terms.items()}
            row |= {"learning_rate": rate, "seconds": self._seconds()}
            self.losses[self.step] = row["loss"]
        due = self.over or int(self.progress * LOOKS) > int(before * LOOKS)
        if due and math.isfinite(quality := self._look()):  # else the next loss tells, or who judges the network last
            self.looks[self.step] = row["quality"] = quality
        return row

    def _look(self) -> float:
        """Judge the network, as it would be if the run ended now, on some of the held-out data."""
        quality = 0.0
        if self.fabric.is_global_zero:
            held_out = self.task.held_out().chunks(LOOK_SAMPLES)[0]
            with self.average.inside(self.module) if self.average is not None else contextlib.nullcontext():
                quality = judge(self.module, self.task, held_out).mean().item()
        return self.fabric.broadcast(quality)

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _look_at_the_clock_(self) -> None:
        """Decide whether the run is over; the first process' clock counts for all."""
        if self.training.minutes is not None:
            self.time_share = self.fabric.broadcast(self._seconds() / (60 * self.training.minutes))
        finished = self.extras.finished
        self.over = self.progress == 1.0 or (finished is not None and self.step > 0 and finished())


def _layout_of_(module: nn.Module, sample: Tensor) -> torch.memory_format:
    """Choose how weights and feature maps lie in memory, channels last where a network can do it, and lay weights so.

    That is 1.5 times as fast on a CPU.

    Three-dimensional convolutions have another layout, and a `view` asks for the one that it was written for.
    """
    if sample.dim() != 4 or any(parameter.dim() > 4 for parameter in module.parameters()):
        return torch.contiguous_format
    module.to(memory_format=torch.channels_last)
    try:
        run_in_chunks(module, sample.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        module.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last
