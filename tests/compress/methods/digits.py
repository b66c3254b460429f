"""The small experiment that the methods' separating tests share: four convolutions that read scikit-learn's digits."""

from __future__ import annotations

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.train.judge import judge
from compress.train.loop import Training, train_

TRAIN = 1200
STEP_STRIDE = 1_000_003
WIDTHS = (32, 32, 64, 64)


class Digits:
    """1200 digits of 8 x 8 pixels to train on, 597 to judge by; cross-entropy, judged by the accuracy."""

    description = "scikit-learn's handwritten digits"
    metric = Metric("accuracy", "%", higher_is_better=True)

    def __init__(self, seed: int = 0) -> None:
        found = load_digits()
        order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
        images = torch.from_numpy(found.images).float()[order, None] / 8 - 1
        labels = torch.from_numpy(found.target).long()[order]
        self.seed = seed
        self.train = Batch(images[:TRAIN], labels[:TRAIN])
        self.test = Batch(images[TRAIN:], labels[TRAIN:])

    def batch(self, step: int, size: int) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * STEP_STRIDE + step + 10_000)
        chosen = torch.randint(0, TRAIN, (size,), generator=generator)
        return Batch(self.train.inputs[chosen], self.train.targets[chosen])

    def held_out(self) -> Batch:
        return self.test

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    def distillation(self, outputs: Tensor, taught: Tensor) -> Tensor:
        return functional.kl_div(outputs.log_softmax(1), taught.softmax(1), reduction="batchmean")

    def quality(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 100.0 * (outputs.argmax(1) == targets).float()


def network(seed: int = 0, widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """Conv-BN-ReLU four times with one pooling between, then a mean over the picture and a linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 1
    for index, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if index == 1 else []
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def graph_of(module: nn.Module) -> ChannelGraph:
    """Export a digit network and find its coupled channels."""
    return analyse(export_module(module, torch.zeros(1, 1, 8, 8)))


@functools.cache
def trained_weights(seed: int = 0, steps: int = 300) -> dict[str, Tensor]:
    """Train `network(seed)` once for all tests of a file; a few seconds."""
    module = network(seed)
    training = Training(steps=steps, batch=64, learning_rate=4e-3, precision="32-true")
    train_(module, Digits(seed), training, label="digits")
    return {name: value.clone() for name, value in module.state_dict().items()}


def trained_network(seed: int = 0, steps: int = 300) -> nn.Sequential:
    """Return a fresh copy of the trained network."""
    module = network(seed)
    module.load_state_dict(trained_weights(seed, steps))
    return module.eval()


def accuracy(module: nn.Module, task: Digits) -> float:
    """Return the held-out accuracy, percent."""
    return judge(module, task, task.held_out()).mean().item()
