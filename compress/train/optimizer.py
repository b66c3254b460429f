"""The optimizer of a training run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from compress.train.training import Training

Group = Mapping[str, Any]


def make_optimizer(training: Training, groups: Iterable[Group]) -> torch.optim.Optimizer:
    """Make the optimizer that the settings name.

    Args:
        training: The settings.
        groups: As torch's optimizers take them; a group with a "weight_decay" of its own keeps it. Not changed.
    """
    split = [part for group in groups for part in _by_decay(group, training)]
    if training.optimizer == "sgd":
        return torch.optim.SGD(split, lr=1.0, momentum=training.momentum, nesterov=training.nesterov)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(split, lr=1.0, betas=training.betas)


def _by_decay(group: Group, training: Training) -> Iterator[dict[str, Any]]:
    """Split a group into what decays and what does not."""
    parameters = list(group["params"])
    if "weight_decay" in group or training.weight_decay == 0 or training.decayed == "all":
        yield {"weight_decay": training.weight_decay, **group, "params": parameters}
        return
    for weight_decay, chosen in (
        (training.weight_decay, [each for each in parameters if each.dim() > 1]),
        (0.0, [each for each in parameters if each.dim() <= 1]),
    ):
        if chosen:
            yield {**group, "params": chosen, "weight_decay": weight_decay}
