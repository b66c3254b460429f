"""Greedy selection by Fisher information per saved millisecond, scored anew between small cuts.

The score is that of Theis et al. (2018, arXiv 1801.05787): the Fisher information of a gate on each channel. They
divide it by the operations that a channel costs; here a block of channels costs what the device profiles predict that
the network gains without it, which depends on the widths that its neighbours have by then. And the network is scored
again after every small cut, with its statistics recalibrated: how much a channel matters changes with what is left.

The same scores, taken once and fitted into the budget by the solver (`fisher`), ended ahead of this on all four tasks
of tools/benchmarks/methods.json. It is here to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from compress.balanced import keep_counts
from compress.gates import gate_scores
from compress.methods.base import Context
from compress.scores import Producer, Scores, by_output, makers_of, weight_name
from compress.select import Selection
from compress.surgery import named_tensors
from compress.train.judge import recalibrate_
from compress.train.loop import Extras
from runtimes.progress import progress_bar

BEYOND = 1.3  # the order of removal reaches past the goal by this factor, so that a measurement can correct it
FLOOR = 8  # a set keeps at least 1 of so many of its channels
NEARLY = 1e-9

Alive = Mapping[str, Bool[np.ndarray, " channels"]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Greedy:
    """Settings of the selection.

    Args:
        cuts: How many small cuts, at geometrically rising speedups; 1 scores once.
        samples: Training samples to score by, each time.
        device_aware: Whether a block costs its predicted latency; otherwise every channel costs the same.
    """

    title: ClassVar[str] = "Fisher per millisecond"
    source: ClassVar[str] = "after Theis et al., 2018, arXiv 1801.05787"
    score: ClassVar[str] = "place in the order of removal"
    trains: ClassVar[bool] = False
    selection: ClassVar[Selection] = "threshold"

    cuts: int = Field(12, ge=1)
    samples: int = Field(32, ge=1)
    device_aware: bool = True

    def prepare(self, context: Context) -> Removal:
        """Take the network as it is."""
        return Removal(self, context)


class Removal:
    """The order in which channels go, the weakest for its cost first.

    Args:
        settings: See `Greedy`.
        context: The network and what its widths cost.
    """

    def __init__(self, settings: Greedy, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.made_by = makers_of(context.graph)
        self._places: Scores = {}

    def extras(self) -> Extras:
        """Add nothing to training."""
        return Extras()

    def finish_(self) -> None:
        """Find the order of removal on the network itself, then put its weights back."""
        module, cuts = self.context.module, self.settings.cuts
        whole = {name: value.clone() for name, value in module.state_dict().items()}
        alive = {name: np.ones(self.context.graph.sets[name].width, bool) for name in self.made_by}
        places = {name: np.zeros(len(mask)) for name, mask in alive.items()}
        for number in progress_bar(range(cuts), "score and cut", "cuts"):
            scores = self._fisher()
            left = self._cut(alive, scores, (self.context.goal * BEYOND) ** ((number + 1) / cuts))
            for name, mask in left.items():
                gone = alive[name] & ~mask
                places[name][gone] = number + _ranks(scores[name][gone])
            alive = left
            silence_(self.made_by, module, alive)
            recalibrate_(module, self.context.task)
        scores = self._fisher()
        last = _ranks(np.concatenate([scores[name][mask] for name, mask in alive.items()]))
        for name, mask in alive.items():
            places[name][mask], last = cuts + last[: mask.sum()], last[mask.sum() :]
        module.load_state_dict(whole)
        self._places = places

    def scores(self) -> Scores:
        """Return each channel's place in the order of removal."""
        return self._places

    def keep(self) -> None:
        """Choose nothing: the order is followed until what is measured meets the goal."""

    def _fisher(self) -> Scores:
        context = self.context
        return gate_scores(context.graph, context.module, context.task, self.settings.samples, np.square)

    def _cut(self, alive: Alive, scores: Scores, goal: float) -> Alive:
        """Take blocks away, least score for the time they save first, until the predicted speedup is `goal`."""
        widths = {name: int(mask.sum()) for name, mask in alive.items()}
        ordered = {name: np.sort(scores[name][mask]) for name, mask in alive.items()}  # what goes first comes first
        full = dict(widths)
        speedup = self.context.speedup(widths)
        while speedup < goal:
            best, best_ratio = None, np.inf
            for narrower in self._narrowings(widths):
                lost = sum(
                    ordered[name][full[name] - widths[name] : full[name] - w].sum() for name, w in narrower.items()
                )
                saved = self._saved(widths, narrower, speedup)
                if saved > 0 and lost / saved < best_ratio:
                    best, best_ratio = narrower, lost / saved
            if best is None:  # every width is at its floor, or nothing that is left saves time
                break
            widths |= best
            speedup = self.context.speedup(widths)
        ranked = {name: np.where(mask, scores[name], -1.0) for name, mask in alive.items()}
        kept = keep_counts(self.context.graph, ranked, widths)
        return {name: np.isin(np.arange(len(mask)), kept[name]) & mask for name, mask in alive.items()}

    def _narrowings(self, widths: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """List the smaller widths of each family of sets, whose members keep the same share.

        All of them, not the next one only: within a runtime's step the next one may save nothing.
        """
        families: dict[str, list[str]] = {}
        for name in widths:
            families.setdefault(self.context.graph.sets[name].family, []).append(name)
        for members in families.values():
            full = {name: self.context.graph.sets[name].width for name in members}
            step = max(self.context.multiples.get(name, 1) / full[name] for name in members)
            largest = math.ceil(widths[members[0]] / full[members[0]] / step - NEARLY) - 1
            smallest = max(1, math.ceil(1 / FLOOR / step - NEARLY))
            for steps in range(largest, smallest - 1, -1):
                yield {name: max(1, round(steps * step * full[name])) for name in members}

    def _saved(self, widths: Mapping[str, int], narrower: Mapping[str, int], speedup: float) -> float:
        if not self.settings.device_aware:
            return float(sum(widths[name] - width for name, width in narrower.items()))
        return 1 / speedup - 1 / self.context.speedup({**widths, **narrower})


def silence_(made_by: Mapping[str, tuple[Producer, ...]], module: nn.Module, alive: Alive) -> None:
    """Make every channel that is not alive zero where it is made, after its normalisation.

    Without one its weights become zero; those that lie in groups of another shape, as a recurrent layer's gates do, are
    left as they are.
    """
    tensors = named_tensors(module)
    with torch.no_grad():
        for name, makers in made_by.items():
            for maker in makers:
                dead = torch.from_numpy(np.isin(maker.channels, np.flatnonzero(~alive[name])))
                norm = maker.layer.norm
                for vector in (maker.layer.bias, norm and norm.scale, norm and norm.bias):
                    if vector in tensors:
                        tensors[vector][dead] = 0.0
                weight = tensors[weight_name(maker.layer, tensors)]
                rows = by_output(weight, maker.layer.groups if maker.axis == 1 else 0)
                if (norm is None or norm.scale not in tensors) and rows.shape[:2].numel() == len(dead):
                    rows[dead.view(rows.shape[:2])] = 0.0


def _ranks(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return each score's rank among all, from 0 to just under 1."""
    return np.argsort(np.argsort(scores, kind="stable"), kind="stable") / max(1, len(scores))
