"""A network, a task with a companion and a training that take under a second, also in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.train import loop
from compress.train.loop import Extras, Training, train_
from compress.train.processes import on_first

ALONE = Training(
    steps=40,
    batch=4,
    warm_up=5,
    precision="32-true",
    average=0.9,
    clip_norm=1.0,
    seed=3,
    device="cpu",
    betas=(0.9, 0.99),
)
SHARED = replace(ALONE, steps=20, batch=8, optimizer="sgd", learning_rate=0.1)
# A fresh interpreter takes seconds to import torch; this server does so once and forks.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


class Smooth:
    """Noise to be blurred, by the mean squared error."""

    description = "noise to be blurred"
    metric = Metric("error", "", higher_is_better=False)

    def batch(self, step, size):
        inputs = torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(step + 1000))
        return Batch(inputs, functional.avg_pool2d(inputs, 3, 1, 1), tuple(f"noise-{i}.png" for i in range(size)))

    def held_out(self):
        return self.batch(-1000, 8)

    def loss(self, outputs, targets):
        return functional.mse_loss(outputs, targets)

    def quality(self, outputs, targets):
        return (outputs - targets).square().mean((1, 2, 3))


class Criticised(Smooth):
    """The same with a critic as its companion."""

    def companions(self):
        self.critic = Critic()
        return self.critic


class Critic:
    """Scores outputs, trained to score targets higher; remembers what it was."""

    def __init__(self):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3))
        self.modules = {"critic": module}
        self.optimizers = {"critic": torch.optim.Adam(module.parameters(), lr=1e-3)}
        self.memory = torch.zeros(())

    def loss(self, forward, batch, outputs):
        again = functional.mse_loss(forward(outputs), batch.targets)  # the network a second time, as a cycle loss does
        return 0.1 * again - 0.1 * self.modules["critic"](outputs).mean()

    def step_(self, batch, outputs):
        assert not outputs.requires_grad
        (optimizer,) = self.optimizers.values()
        optimizer.zero_grad()
        scores = self.modules["critic"](torch.cat([batch.targets, outputs + 0.1 * self.memory]))
        (scores[len(outputs) :].mean() - scores[: len(outputs)].mean() + scores.square().mean()).backward()
        optimizer.step()
        self.memory = 0.9 * self.memory + 0.1 * self.modules["critic"][0].bias.detach().mean()

    def state(self):
        return {"memory": self.memory}

    def restore_(self, state):
        self.memory = state["memory"]


def network(norm="group", dropout=0.0):
    torch.manual_seed(0)
    norms = {"group": lambda: nn.GroupNorm(2, 8), "batch": lambda: nn.BatchNorm2d(8)}
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norms[norm](), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(8, 3, 3, padding=1)
    )


def gated(module):
    """A penalty on a gate that stands beside the network and is trained with it."""
    gate = nn.Linear(8, 1)
    torch.nn.init.constant_(gate.weight, 0.5)

    def penalty(batch, outputs):
        return 0.1 * (gate(module[1].weight) - 1).square().sum() + 0.01 * torch.rand(()) * outputs.mean()

    groups = [{"params": list(module.parameters()), "lr": 1.0}, {"params": list(gate.parameters()), "lr": 3.0}]
    return Extras(penalty=penalty, modules={"gate": gate}, parameter_groups=groups)


def train_small(training, checkpoint=None, task=Criticised, **kind):
    """Train everything at once, network, gate and critic; return all weights and the looks on the way."""
    module, task = network(**kind), task()
    extras = gated(module)
    phase = train_(module, task, training, label="x", checkpoint=checkpoint, extras=extras)
    modules = {"network": module, "gate": extras.modules["gate"]}
    if isinstance(task, Criticised):
        modules |= task.critic.modules
    weights = {f"{key}.{name}": value for key, each in modules.items() for name, value in each.state_dict().items()}
    weights["looks"] = torch.tensor(phase.quality)
    return {name: value.detach().contiguous().clone() for name, value in weights.items()}


def in_process(training, folder, kind, rank=0, world=1, port=0):
    """Train in this process as torchrun would have it, checkpoint after each step, and leave the weights."""
    torch.set_num_threads(1)
    sys.stderr = open(Path(folder) / f"errors-{rank}", "w", buffering=1)  # noqa: SIM115 -- as long as it lives
    loop.CHECKPOINT_EVERY_S = 0.0
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
    weights = train_small(training, Path(folder) / "x.safetensors", **kind)
    weights["drawn by the first"] = on_first(lambda: torch.tensor(rank + 7))
    save_file(weights, Path(folder) / f"weights-{rank}")


def start(training, folder, world=1, **kind):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        CONTEXT.Process(target=in_process, args=(training, str(folder), kind, rank, world, port))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes, folder):
    """Wait for processes and return the first one's weights."""
    for rank, process in enumerate(processes):
        process.join(60)
        assert process.exitcode == 0, (folder / f"errors-{rank}").read_text()
    return load_file(folder / "weights-0")


def step_of(path):
    """How far a checkpoint is."""
    if not path.exists():
        return 0
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["values"])["step"]
