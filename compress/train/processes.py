"""The processes and the device of a training run: one process, or those that torchrun started.

Gradients are averaged here rather than by DistributedDataParallel, which sees only one module's parameters and one
forward pass a step: gates beside the network, penalties on its weights, cycle losses and unused heads are all averaged
alike, in one message a step, at the price of none of it overlapping with the backward pass.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compress.tasks.base import Batch
from device_profiles.errors import BadInput
from runtimes.environment import read_environment

T = TypeVar("T")


def make_fabric(device: str = "auto", precision: str = "32-true") -> Fabric:
    """Join the processes that torchrun started, or stay alone.

    Args:
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        precision: As Lightning Fabric names it, or "auto".

    Raises:
        BadInput: CUDA is asked for and not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device (='cuda') needs a CUDA device and a torch built for it; choose 'cpu' or 'auto'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = fabric_precision(precision, device)
    if not torch.distributed.is_torchelastic_launched():
        return Fabric(accelerator=device, devices=1, precision=precision)
    here, all_together = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])  # torchrun's
    fabric = Fabric(
        accelerator=device, devices=here, num_nodes=all_together // here, strategy="ddp", precision=precision
    )
    if not torch.distributed.is_initialized():
        atexit.register(torch.distributed.destroy_process_group)  # else gloo's threads abort some exits
    fabric.launch()
    return fabric


def fabric_precision(wanted: str, device: str = "cpu") -> str:
    """Resolve "auto": bf16 autocast where the device computes in bf16, otherwise float32."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    flags = read_environment().cpu_flags
    return "bf16-mixed" if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags) else "32-true"


def seed_(device: torch.device, seed: int) -> None:
    """Seed torch's generators of the CPU and of a device; `torch.manual_seed` takes 0.3 ms where CUDA is asleep."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def on_first(compute: Callable[[], T]) -> T:
    """Compute something on the first process only and return it on all: what is measured, and choices made by it."""
    fabric = make_fabric()
    return fabric.broadcast(compute() if fabric.is_global_zero else None)


def share_of(fabric: Fabric, batch: Batch) -> Batch:
    """Return this process's rows of a batch: every n-th of n processes.

    Raises:
        BadInput: The rows cannot be shared out evenly, so that the mean of the shares is not the mean of the batch.
    """
    if len(batch) % fabric.world_size:
        raise BadInput(
            f"batch (={len(batch)}) must be a multiple of the number of processes (={fabric.world_size}); "
            "change the one or the other"
        )
    if fabric.world_size == 1:
        return batch
    rows = slice(fabric.global_rank, None, fabric.world_size)
    return replace(batch, inputs=batch.inputs[rows], targets=batch.targets[rows], names=batch.names[rows])


def average_(fabric: Fabric, tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over all processes, the same to the bit on each."""
    tensors = list(tensors) if fabric.world_size > 1 else []
    if not tensors:
        return
    flat = torch.cat([each.detach().reshape(-1).float() for each in tensors])
    torch.distributed.all_reduce(flat)
    flat /= fabric.world_size
    for each, mean in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        each.detach().copy_(mean.view(each.shape))


def average_gradients_(fabric: Fabric, optimizer: torch.optim.Optimizer) -> None:
    """Have an optimizer average its gradients over all processes before each of its steps."""
    if fabric.world_size > 1:
        optimizer.register_step_pre_hook(lambda *_: average_(fabric, gradients(optimizer)))


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """List the gradients that an optimizer is about to follow."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def statistics(modules: Iterable[nn.Module]) -> list[Tensor]:
    """List what normalisations gather: the mean over processes of their batches' means is the whole batch's mean.

    The mean of their variances leaves out how the processes' means differ, and each process normalises its own rows:
    torch synchronises neither on a CPU. Networks without batch statistics train as in one process.
    """
    return [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]


def agree_(fabric: Fabric, modules: Iterable[nn.Module]) -> None:
    """Give all processes the first one's weights and buffers."""
    if fabric.world_size > 1:
        for module in modules:
            module.load_state_dict(fabric.broadcast(module.state_dict()))
