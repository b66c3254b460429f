"""What a method's training step costs beside a plain one: processor time in turns, and bytes counted from tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.arguments import construct, find_callable
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.count import macs_by_node
from compress.methods import METHODS
from compress.methods.base import Context
from compress.models import import_callable
from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.train.extras import Extras, Teacher
from compress.train.run import Run
from compress.train.training import Training
from tools.benchmarks.method_costs_implied import FORMULAS, Studied, implied_steps

DISTILLATION = "distillation"  # of stage II: no method, but what DECIG's costs
WARM_UP = 3  # steps, or passes, that are not counted
LEAST_STEPS = 80  # AutoPruner wants 20 for the vote of each of its four groups
OUT_OF_REACH = 1e6  # a speedup at which no search ends early
SPEEDUP = 2.0  # that a selection is steered to
DIFFERENT = 4  # batches of each size that the steps go round
KINDS = ("parameters", "gradients", "optimiser", "buffers", "saved")


class Noise:
    """Pictures of noise; targets are random classes, or other pictures of noise, as the network makes them."""

    description = "noise"
    metric = Metric("error", "", higher_is_better=False)

    def __init__(self, shape: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        self.shape, self.outputs = shape, outputs
        self._drawn: dict[tuple[int, int], Batch] = {}

    def batch(self, step: int, size: int) -> Batch:
        """Return one of a few batches, drawn once."""
        key = (step % DIFFERENT, size)
        if key not in self._drawn:
            generator = torch.Generator().manual_seed(key[0])
            inputs = torch.randn(size, *self.shape, generator=generator)
            if len(self.outputs) == 1:
                targets = torch.randint(0, self.outputs[0], (size,), generator=generator)
            else:
                targets = torch.rand(size, *self.outputs, generator=generator)
            self._drawn[key] = Batch(inputs, targets)
        return self._drawn[key]

    def held_out(self) -> Batch:
        """Return one sample: judging it takes next to no time."""
        return self.batch(0, 1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean difference between pictures, or a teacher's outputs, else the cross-entropy of classes."""
        if targets.is_floating_point():
            return functional.l1_loss(outputs, targets)
        return functional.cross_entropy(outputs, targets)

    def quality(self, outputs: Tensor, _: Tensor) -> Tensor:
        """Return some number for each sample."""
        return outputs.flatten(1).abs().mean(1)


@dataclass(frozen=True)
class Subject:
    """A network whose training is studied.

    Attributes:
        factory: "package.module:callable" of what builds it.
        arguments: Its arguments.
        shape: Of one sample.
        batch: Samples of a step.
    """

    factory: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    batch: int

    def build(self) -> nn.Module:
        """Build the network, always with the same weights."""
        torch.manual_seed(0)
        return import_callable(self.factory)(**self.arguments)

    @cached_property
    def graph(self) -> ChannelGraph:
        """Its channel graph."""
        return analyse(export_module(self.build(), torch.zeros(1, *self.shape)))

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiplications of one sample, by the result of the layer that does them."""
        return macs_by_node(self.graph.network)

    def task(self) -> Noise:
        """Return the noise that it trains on."""
        return Noise(self.shape, next(iter(self.graph.network.outputs.values()))[1:])

    def speedup(self, widths: dict[str, int]) -> float:
        """Predict a speedup as cheaply as a device profile does: by the MACs."""
        ends, left = self.graph.layer_widths(widths), 0.0
        for layer in self.graph.layers:
            inner, outer = ends[layer.name]
            left += self.macs.get(layer.output, 0) * inner / layer.in_channels * outer / layer.out_channels
        return sum(self.macs.values()) / left

    def context(self, module: nn.Module, training: Training, goal: float) -> Context:
        """Return what a method is given; all layers are equally slow."""
        names = [layer.name for layer in self.graph.layers]
        shares = dict.fromkeys(names, 1 / len(names))
        return Context(module, self.graph, self.task(), training, shares, goal, self.speedup)


def measure_step(subject: Subject, method: str, settings: dict[str, Any], turns: int) -> dict[str, Any]:
    """Time a method's training steps and plain ones in turns, and count what both keep.

    The held-out sample is judged eight times in a run, which falls into one turn in ten and out of the median.

    Args:
        subject: The network.
        method: Of `METHODS`, or "distillation".
        settings: Of the method.
        turns: Steps of each that are counted.

    Returns:
        A row, as JSON.
    """
    training = Training(
        steps=max(LEAST_STEPS, turns + WARM_UP) + 2, batch=subject.batch, precision="32-true", device="cpu", log="none"
    )
    module, chosen = subject.build(), None
    if method == DISTILLATION:
        extras = Extras(teacher=Teacher(subject.build(), 1.0))
    else:
        chosen = construct(find_callable(method, METHODS, "method"), settings, "method")
        extras = chosen.prepare(subject.context(module, training, OUT_OF_REACH)).extras()
    plain = Run(subject.build(), subject.task(), training, Extras())
    shaped = Run(module, subject.task(), training, extras)
    timed = time_in_turns(plain.advance_, shaped.advance_, turns)
    plain_bytes, shaped_bytes = bytes_of(plain), bytes_of(shaped)
    studied = Studied(subject.build(), subject.graph, chosen, subject.batch)
    implied = FORMULAS[method](studied)
    return {
        **timed,
        "plain_bytes": plain_bytes,
        "bytes": shaped_bytes,
        "extra_bytes": {kind: shaped_bytes[kind] - plain_bytes[kind] for kind in KINDS},
        "implied": {
            "formula": implied.formula,
            "parameters": implied.parameters,
            "buffers": implied.buffers,
            "step_ratio": implied.step_ratio(studied),
        },
    }


def measure_pass(subject: Subject, method: str, passes: int) -> dict[str, Any]:
    """Time the passes in which a method scores the channels, and plain training steps in turns with them."""
    training = Training(steps=passes + WARM_UP + 2, batch=subject.batch, precision="32-true", device="cpu", log="none")
    plain = Run(subject.build(), subject.task(), training, Extras())
    chosen = construct(find_callable(method, METHODS, "method"), {}, "method")
    module = subject.build()

    def score() -> None:
        prepared = chosen.prepare(subject.context(module, training, SPEEDUP))
        prepared.finish_()
        prepared.scores()

    timed = time_in_turns(plain.advance_, score, passes, warm_up=1)
    return timed | {"implied_steps": implied_steps(method, chosen, subject.batch)}


def time_in_turns(
    plain: Callable[[], object], other: Callable[[], object], turns: int, warm_up: int = WARM_UP
) -> dict[str, Any]:
    """Return the processor time of both, ms, turn by turn, and the ratio of the medians with its spread."""
    milliseconds: dict[str, list[float]] = {"plain": [], "method": []}
    for turn in range(warm_up + turns):
        start = time.process_time()
        plain()
        between = time.process_time()
        other()
        end = time.process_time()
        if turn >= warm_up:
            milliseconds["plain"].append(round(1e3 * (between - start), 3))
            milliseconds["method"].append(round(1e3 * (end - between), 3))
    pairs = [ours / theirs for theirs, ours in zip(milliseconds["plain"], milliseconds["method"], strict=True)]
    return {
        "n": turns,
        "ms": milliseconds,
        "ratio": statistics.median(milliseconds["method"]) / statistics.median(milliseconds["plain"]),
        "ratio_quartiles": statistics.quantiles(pairs, n=4)[::2],
    }


def bytes_of(run: Run) -> dict[str, int]:
    """Count the bytes that a training run holds, after at least one step, and what one more step saves for backward."""
    parts = [run.module, *run.extras.modules.values()]
    if run.extras.teacher is not None:
        parts.append(run.extras.teacher.module)
    parameters = {id(one): one for part in parts for one in part.parameters()}
    buffers = {id(one): one for part in parts for one in part.buffers()}
    own = [*parameters.values(), *buffers.values()]
    saved = saved_bytes(run.advance_, own)
    moments = [one for state in run.optimizer.state.values() for one in state.values() if isinstance(one, Tensor)]
    counted = {
        "parameters": parameters.values(),
        "gradients": [one.grad for one in parameters.values() if one.grad is not None],
        "optimiser": moments,
        "buffers": buffers.values(),
    }
    return {kind: sum(map(_size, tensors)) for kind, tensors in counted.items()} | {"saved": saved}


def saved_bytes(compute: Callable[[], object], known: Iterable[Tensor]) -> int:
    """Count the memory that autograd keeps for the backward pass of what is computed, each storage once.

    Args:
        compute: Goes forward, and may go backward.
        known: Tensors that are there anyway, parameters and buffers.
    """
    own = {one.untyped_storage().data_ptr() for one in known}
    held: dict[int, Tensor] = {}  # keeps them all, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor.detach())
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return sum(one.untyped_storage().nbytes() for address, one in held.items() if address not in own)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
