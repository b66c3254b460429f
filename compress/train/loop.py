"""The one training loop: any task, any network, with an extra loss, a teacher or companions; resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from compress.report.results import Phase
from compress.tasks.base import Accompanied, Batch, Task, Teachable
from compress.train.checkpoint import Kept, Trained, load_checkpoint, save_checkpoint
from compress.train.judge import judge
from device_profiles.errors import BadInput
from runtimes.environment import read_environment
from runtimes.progress import progress_bar

CHECKPOINT_EVERY_S = 15.0  # a checkpoint of the 10 M parameter U-Net takes 0.3 s: 2 % of the time
LOOKS = 8  # how often a run is judged on the way
LOOK_SAMPLES = 32  # on how much of the held-out data
LOG_EVERY = 10


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class Training:
    """How to train.

    Args:
        steps: Optimizer steps.
        batch: Samples a step.
        learning_rate: Adam's, at its highest.
        warm_up: Steps in which the learning rate rises linearly.
        schedule: "cosine" falls to zero; "flat" stays until the last 30 % and falls linearly there, so that a
            penalty that grows on the way finds the same learning rate all along.
        precision: As Lightning Fabric names it; "auto" is bf16 autocast where the CPU has bf16 arithmetic.
    """

    steps: int = Field(gt=0)
    batch: int = Field(8, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    warm_up: int = Field(40, ge=0)
    schedule: Literal["cosine", "flat"] = "cosine"
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, as a share of the highest."""
        rise = min(1.0, (step + 1) / max(1, self.warm_up))
        if self.schedule == "flat":
            return rise * min(1.0, (self.steps - step) / (0.3 * self.steps))
        return rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Teacher:
    """A network whose outputs the student should also match.

    The distance is the task's `distillation` where it is `Teachable`, else its loss; it is added times `weight`.
    """

    module: nn.Module
    weight: float


@dataclass(frozen=True)
class Extras:
    """What a method adds to plain training.

    Attributes:
        penalty: Called once a step with the batch and the network's outputs; its value is added to the loss.
        after_step: Called with the number of steps done and the learning rate of the last one.
        finished: Asked after each step whether the run may end before its last one.
        modules: Trained or kept beside the network, so that a checkpoint holds them: gates, auxiliary heads. Their
            parameters are trained where `parameter_groups` lists them.
        parameter_groups: The optimizer's groups where learning rates differ; each group's "lr" is a factor.
        state: What `after_step` changes and a resumed run needs back: read and written by name.
        teacher: For distillation.
    """

    penalty: Callable[[Batch, Tensor], Tensor] | None = None
    after_step: Callable[[int, float], None] | None = None
    finished: Callable[[], bool] | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    parameter_groups: list[dict[str, object]] | None = None
    state: dict[str, float] | None = None
    teacher: Teacher | None = None


def train_(
    module: nn.Module,
    task: Task,
    training: Training,
    *,
    label: str,
    checkpoint: Path | None = None,
    extras: Extras | None = None,
) -> Phase:
    """Train a module in place.

    Args:
        module: Changed in place; ends in eval mode.
        task: Data and loss; where it is `Accompanied`, its companions are trained beside the network.
        training: Steps, rates and precision.
        label: Names the run in the progress bar and in the returned curve.
        checkpoint: Where to leave the state every few seconds; a run that finds one there goes on from it. It is
            removed by nobody: a finished run's checkpoint returns at once.
        extras: What a method adds.

    Returns:
        The curve of the loss and of the held-out quality.

    Raises:
        BadInput: The loss became infinite or not a number, or the checkpoint belongs to another run.
    """
    run = _Run(module, task, training, extras or Extras())
    if checkpoint is not None and checkpoint.exists():
        run.restore_(checkpoint)
    saved = time.monotonic()
    with progress_bar(training.steps, label, "steps") as bar:
        bar.update(run.step)
        while not run.over:
            run.advance_()
            bar.update()
            late = time.monotonic() - saved > CHECKPOINT_EVERY_S or run.over
            if checkpoint is not None and late:
                run.save(checkpoint)
                saved = time.monotonic()
    module.eval()
    return run.phase(label)


def fabric_precision(wanted: str) -> str:
    """Resolve "auto": bf16 autocast where the CPU computes in bf16, otherwise float32."""
    if wanted != "auto":
        return wanted
    flags = read_environment().cpu_flags
    return "bf16-mixed" if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags) else "32-true"


class _Run:
    """The state of a training run between two steps."""

    def __init__(self, module: nn.Module, task: Task, training: Training, extras: Extras) -> None:
        self.module, self.task, self.training, self.extras = module, task, training, extras
        self.step = 0
        self.losses: dict[int, float] = {}
        self.looks: dict[int, float] = {}
        fabric = Fabric(accelerator="cpu", devices=1, precision=fabric_precision(training.precision))
        groups = extras.parameter_groups or [{"params": list(module.parameters()), "lr": 1.0}]
        self.factors = [group["lr"] for group in groups]
        optimizer = torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.99))
        module.to(memory_format=torch.channels_last)  # 1.5 times as fast as NCHW for convolutions on a CPU
        self.fabric = fabric
        self.forward, self.optimizer = fabric.setup(module, optimizer)
        modules: dict[str, nn.Module] = {"network": module, **extras.modules}
        optimizers: dict[str, torch.optim.Optimizer] = {"network": optimizer}
        self.companions = task.companions() if isinstance(task, Accompanied) else None
        if self.companions is not None:
            modules |= {f"companion {name}": each.train() for name, each in self.companions.modules.items()}
            optimizers |= {f"companion {name}": each for name, each in self.companions.optimizers.items()}
        self.trained = Trained(modules, optimizers)
        if extras.teacher is not None:
            extras.teacher.module.eval()

    @property
    def over(self) -> bool:
        """Whether the last step was done, or the method has what it wants."""
        finished = self.extras.finished
        return self.step >= self.training.steps or (finished is not None and self.step > 0 and finished())

    def advance_(self) -> None:
        """Do one step."""
        self.module.train()
        rate = self.training.learning_rate * self.training.rate_at(self.step)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        drawn = self.task.batch(self.step, self.training.batch)
        batch = Batch(drawn.inputs.contiguous(memory_format=torch.channels_last), drawn.targets)
        self.optimizer.zero_grad()
        outputs = self.forward(batch.inputs)
        loss = self._loss(batch, outputs)
        if not math.isfinite(loss.item()):
            raise BadInput(
                f"the loss became {loss.item()} at step {self.step} of {self.training.steps}; lower learning_rate "
                f"(={self.training.learning_rate}) or look for broken samples in the data"
            )
        self.fabric.backward(loss)
        self.optimizer.step()
        if self.companions is not None:
            self.companions.step_(batch, outputs.detach())
        self.step += 1
        if self.extras.after_step is not None:
            self.extras.after_step(self.step, rate)
        if self.step % LOG_EVERY == 0:
            self.losses[self.step] = loss.item()
        if self.step % math.ceil(self.training.steps / LOOKS) == 0 or self.step == self.training.steps:
            held_out = self.task.held_out().chunks(LOOK_SAMPLES)[0]
            self.looks[self.step] = judge(self.module, self.task, held_out).mean().item()

    def _loss(self, batch: Batch, outputs: Tensor) -> Tensor:
        loss = self.task.loss(outputs, batch.targets)
        if self.extras.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                taught = self.extras.teacher.module(batch.inputs)
            distance = self.task.distillation if isinstance(self.task, Teachable) else self.task.loss
            loss = loss + self.extras.teacher.weight * distance(outputs, taught.float())
        if self.companions is not None:
            loss = loss + self.companions.loss(self.forward, batch, outputs)
        if self.extras.penalty is not None:
            loss = loss + self.extras.penalty(batch, outputs)
        return loss

    def save(self, path: Path) -> None:
        """Write everything that the rest of the run depends on."""
        values = {
            "step": self.step,
            "losses": list(self.losses.items()),
            "looks": list(self.looks.items()),
            "extras": self.extras.state or {},
        }
        tensors = self.companions.state() if self.companions is not None else {}
        save_checkpoint(path, self.trained, Kept(values, tensors))

    def restore_(self, path: Path) -> None:
        """Go on where a checkpoint was written."""
        kept = load_checkpoint(path, self.trained)
        self.step = kept.values["step"]
        self.losses, self.looks = dict(kept.values["losses"]), dict(kept.values["looks"])
        if self.extras.state is not None:
            self.extras.state.update(kept.values["extras"])
        if self.companions is not None:
            self.companions.restore_(kept.tensors)

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
