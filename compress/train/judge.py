"""How good a network is on data that no training step sees, and the statistics it needs for that."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from compress.tasks.base import Batch, Task
from device_profiles.errors import BadInput

CHUNK = 16  # samples at once: the activations of a 128 x 128 U-Net stay in tens of megabytes
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
RECALIBRATION_SAMPLES = 128  # the statistics of a pruned U-Net moved by under 1 % beyond that


def run_in_chunks(module: nn.Module, inputs: Tensor) -> Tensor:
    """Run a module in eval mode without gradients and return its outputs on the CPU; its mode is restored."""
    was_training, device = module.training, device_of(module)
    module.eval()
    with torch.inference_mode():
        outputs = torch.cat([module(chunk.to(device)).cpu() for chunk in inputs.split(CHUNK)]).contiguous()
    module.train(was_training)
    return outputs


def judge(module: nn.Module, task: Task, batch: Batch) -> Float[Tensor, " n"]:
    """Return the task's metric of each sample of a batch."""
    return task.quality(run_in_chunks(module, batch.inputs), batch.targets)


def mean_quality(task: Task, outputs: Tensor, batch: Batch) -> float:
    """Return the task's metric over a batch, one number.

    Raises:
        BadInput: It is infinite or not a number.
    """
    found = task.quality(outputs, batch.targets)
    if not math.isfinite(mean := found.mean().item()):
        broken = int((~found.isfinite()).sum())
        raise BadInput(
            f"task.quality is {mean} over {len(batch)} held-out samples, {broken} of its {found.numel()} values are no "
            "finite numbers; let it return a finite one for every sample, such as a bound for what is perfect"
        )
    return mean


def recalibrate_(module: nn.Module, task: Task, samples: int = RECALIBRATION_SAMPLES) -> None:
    """Replace the running statistics of every normalisation by their mean over training batches.

    After channels were removed or weights were condensed, the statistics gathered in training belong to another
    network. Weights stay as they are.
    """
    norms = [part for part in module.modules() if isinstance(part, NORMS) and part.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    was_training = module.training
    module.eval()  # without dropout: as the network will be used, and the same whenever it is repeated
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for start in itertools.count(0, CHUNK):
            if start >= samples:
                break
            module(
                task.batch(-1 - start, CHUNK).inputs.to(device_of(module))
            )  # negative steps: batches that training never asks for
    module.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are; those without any are on the CPU."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
