"""Find the channels whose removal a module's code does not take, by the shapes alone.

The module runs once without any data (on torch's meta device) with all the channels removed. Where a part of it does
not run, the channel sets inside that part are put back until it does: the smallest part that can be mended so tells
which sets are rigid, and the rest of the module runs on.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.culprits import Search
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.run import random_feeds
from compress.graph.surgery import kept_indices
from compress.surgery import (
    RUN_ERRORS,
    failure,
    flat,
    hook_unweighted_,
    labels_of,
    mend_attributes_,
    named_tensors,
    plain,
)

Forward = Callable[..., Any]


def rigid_by_shape(module: nn.Module, graph: ChannelGraph, families: Mapping[str, Keep]) -> dict[str, str]:
    """Return the families that the module's code does not let go, with the reasons.

    Args:
        module: The module that `graph.network` was exported from.
        graph: Its channel graph.
        families: Family -> what its sets keep.

    Returns:
        Nothing where the module does not run without data at all: it computes what it does from its input.
    """
    skeleton = _Skeleton(module, graph, families)
    if not skeleton.runs():
        return {}
    skeleton.guard_()
    skeleton.remove_(families)
    skeleton.runs()
    return skeleton.rigid


class _Skeleton:
    """A module without data whose sizes follow which families are pruned."""

    def __init__(self, module: nn.Module, graph: ChannelGraph, families: Mapping[str, Keep]) -> None:
        original = plain(module)
        tensors: dict[int, object] = {id(one): _empty(one) for one in named_tensors(original).values()}
        self.module = copy.deepcopy(original, tensors).eval()
        hook_unweighted_(self.module)
        self.rigid: dict[str, str] = {}
        self._graph, self._keeps = graph, families
        self._pruned: set[str] = set()
        self._inputs = [torch.from_numpy(feed) for feed in random_feeds(graph.network).values()]
        self._shapes = list(graph.network.outputs.values())
        self._labelled = [
            (tensor, labelled)
            for name, tensor in named_tensors(self.module).items()
            if (labelled := labels_of(name, graph)) is not None and labelled.axes
        ]
        self._buffers = dict(self.module.named_buffers())

    def runs(self) -> bool:
        """Whether the module runs and makes outputs of the network's shapes."""
        feeds = [torch.empty_like(feed, device="meta") for feed in self._inputs]
        try:
            with torch.no_grad(), torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return [tuple(one.shape) for one in flat(self.module(*feeds))] == self._shapes
        except RUN_ERRORS:
            return False

    def remove_(self, families: Iterable[str]) -> None:
        """Prune families too."""
        self._resize_(self._pruned | set(families))

    def guard_(self) -> None:
        """Make every part of the module look for the rigid families inside it where it does not run."""
        users: dict[str, set[str]] = {family: set() for family in self._keeps}
        for family, keep in self._keeps.items():
            for name in keep:
                one = self._graph.sets[name]
                users[family].update((*one.producers, *one.consumers))
        for name, part in self.module.named_modules():
            inside = [f for f, layers in users.items() if all(layer.startswith(f"{name}.") for layer in layers)]
            families = inside if name else list(users)
            if families:
                part.forward = self._guarded(part.forward, families)

    def _guarded(self, forward: Forward, families: Sequence[str]) -> Forward:
        def guarded(*arguments: Any, **named: Any) -> Any:
            try:
                return forward(*arguments, **named)
            except RUN_ERRORS as err:
                pruned = [family for family in families if family in self._pruned]
                self._resize_(self._pruned - set(pruned))
                try:
                    result = forward(*arguments, **named)
                except RUN_ERRORS:
                    self._resize_(self._pruned | set(pruned))
                    raise err from None  # what causes it reaches further than this part
                others = frozenset(self._pruned)

                def fails(names: Sequence[str]) -> str | None:
                    self._resize_(others | set(names))
                    try:
                        forward(*arguments, **named)
                    except RUN_ERRORS as found:
                        return failure(found)
                    return None

                search = Search(fails)
                search.run_([[family] for family in pruned])
                self.rigid.update(search.found)
                self._resize_(others | set(search.working))
                return forward(*arguments, **named) if search.working else result

        return guarded

    def _resize_(self, pruned: set[str]) -> None:
        pruned = pruned - self.rigid.keys()
        if pruned == self._pruned:
            return
        self._pruned = pruned
        alive = self._graph.alive({name: kept for family in pruned for name, kept in self._keeps[family].items()})
        for tensor, labelled in self._labelled:
            shape = labelled.shape_after(alive)
            if shape != tuple(tensor.shape):
                tensor.data = torch.empty(shape, dtype=tensor.dtype, device="meta")
        for name, index in kept_indices(self._graph, alive).items():
            if name in self._buffers:
                self._buffers[name].data = self._buffers[name].new_empty(index.shape)
        for part in self.module.modules():
            mend_attributes_(part)


def _empty(tensor: Tensor) -> Tensor:
    data = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
