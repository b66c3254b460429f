"""An exponential moving average of a network in training (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a network's weights and buffers over its steps.

    The running statistics of normalisations are averaged like the weights that they belong to. In the first steps the
    decay is (1 + n) / (10 + n), as in TensorFlow, so that the random start does not weigh on a short run.

    Args:
        module: The network.
        decay: Of one step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = _copied(module)

    @torch.no_grad()
    def update_(self, module: nn.Module, steps: int) -> None:
        """Take the network in as it is after `steps` steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)

    def restore_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` was."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])

    def leave_in_(self, module: nn.Module) -> None:
        """Replace the network's weights and buffers by their averages."""
        _copy_(module, self.tensors)

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """Have the network hold the averages for a while."""
        kept = _copied(module)
        self.leave_in_(module)
        try:
            yield
        finally:
            _copy_(module, kept)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def _copy_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        value.copy_(tensors[name])
