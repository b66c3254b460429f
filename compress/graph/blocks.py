"""Blocks: branches beside a skip connection that can be removed whole, with the constant they leave folded.

A branch goes to width 0 when all channels of coupled sets inside it are removed and what follows them in the branch
computes a constant then. MDP (Sun et al., CVPR 2025, arXiv 2504.02168) shows that high speedups need such removals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compress.graph.channels import ChannelGraph
from compress.graph.fold import RANDOM, read_by
from compress.graph.labels import BoolArray
from compress.graph.offsets import compute, shrunk
from compress.graph.trace import Consumption
from device_profiles.errors import BadInput

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Block:
    """A branch that can be removed.

    Attributes:
        name: What the names of its layers have in common, as a torch module's name; else its first decisive set.
        addition: Name of the Add that joins it with its skip connection.
        branch: Name of its result, the one operand of the addition.
        skip: Name of the other operand.
        layers: The layers that go with it, in topological order.
        decisive: The channel sets without which its result is constant: the last one in it, or the fewest together.
        sets: All channel sets that live only inside it, and go with it.
        constant: What its result is then; axes along which it is alike have size 1.
    """

    name: str
    addition: str
    branch: str
    skip: str
    layers: tuple[str, ...]
    decisive: tuple[str, ...]
    sets: tuple[str, ...]
    constant: Array = field(repr=False, compare=False)


def blocks(graph: ChannelGraph) -> tuple[Block, ...]:
    """Find the blocks of a network, in the order of their additions.

    Frozen sets decide on nothing: a branch whose inner channels may not be removed is no block. Neither is one whose
    constant would differ between the samples of a batch.
    """
    branches = _Branches(graph)
    found = [block for index in range(len(branches.nodes)) for block in branches.ending_in(index)]
    constants = branches.constants(found)
    alike = [
        replace(block, constant=constant)
        for block, constant in zip(found, constants, strict=True)
        if constant.ndim and constant.shape[0] == 1 and np.isfinite(constant.astype(np.float64)).all()
    ]
    return tuple(replace(block, name=name) for block, name in zip(alike, _names(alike), strict=True))


def chosen_blocks(graph: ChannelGraph, names: Sequence[str]) -> tuple[Block, ...]:
    """Return blocks by their names.

    Raises:
        BadInput: There is none of a name.
    """
    known = {block.name: block for block in blocks(graph)}
    for name in names:
        if name not in known:
            raise BadInput(f"block {name!r} does not exist; the blocks are {', '.join(known) or '(none)'}")
    return tuple(known[name] for name in dict.fromkeys(names))


class Consumers:
    """Knows which channels each operator combines."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self._notes: dict[int, list[Consumption]] = {}
        for note in graph.execution.trace.consumptions:
            self._notes.setdefault(note.node, []).append(note)

    def alive(self, removed: Collection[str]) -> BoolArray:
        """Return for every label whether it stays when all channels of some sets go."""
        stays = np.ones(len(self.graph.class_of), np.bool_)
        for name in removed:
            stays[self.graph.sets[name].classes] = False
        return stays[self.graph.class_of]

    def masks(self, index: int, alive: BoolArray) -> dict[int, BoolArray]:
        """Return which positions stay of every operand that an operator combines over removed channels.

        Args:
            index: The operator's.
            alive: Per label whether it stays.
        """
        found = {}
        for note in self._notes.get(index, ()):
            mask: BoolArray = np.logical_and.reduce(np.broadcast_arrays(*(alive[one.labels] for one in note.axes)))
            if not mask.all():
                found[note.operand] = mask
        return found

    def dtype(self, name: str) -> np.dtype[np.generic]:
        """Return the element type of a result."""
        whole = self.graph.network.model.graph
        types = {one.name: one.type.tensor_type.elem_type for one in (*whole.input, *whole.output, *whole.value_info)}
        return np.dtype(helper.tensor_dtype_to_np_dtype(types.get(name, onnx.TensorProto.FLOAT)))


class _Branches(Consumers):
    """Finds branches: operators whose results go nowhere but into one operand of an addition."""

    def __init__(self, graph: ChannelGraph) -> None:
        super().__init__(graph)
        self.nodes = graph.network.model.graph.node
        self._users: dict[str, set[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in read_by(node):
                self._users.setdefault(name, set()).add(index)
        for name in graph.network.outputs:
            self._users.setdefault(name, set()).add(len(self.nodes))
        self._homes = self._nodes_of_sets()
        everything = range(len(self.nodes))
        self._varying = set(graph.network.inputs) | self._dependent(everything, ())

    def ending_in(self, index: int) -> Iterator[Block]:
        """Yield the blocks that end in an operator; they have neither their name nor their constant yet."""
        node, shapes = self.nodes[index], self.graph.network.shapes
        if node.op_type != "Add" or node.input[0] == node.input[1]:
            return
        for branch, skip in (tuple(node.input), tuple(reversed(node.input))):
            cone = self._cone(branch, index)
            if not cone or skip not in self._varying or shapes.get(skip) != shapes.get(node.output[0], ()):
                continue
            inside = tuple(name for name, home in self._homes.items() if home <= set(cone))
            decisive = self._decisive(cone, branch, inside)
            if decisive:
                names = {self.nodes[one].name for one in cone}
                layers = tuple(layer.name for layer in self.graph.layers if layer.node in names)
                yield Block("", node.name, branch, skip, layers, decisive, inside, np.zeros(0))

    def constants(self, found: Sequence[Block]) -> list[Array]:
        """Compute what branches are once their decisive channels are gone; once where it is alike along an axis."""
        nodes: list[onnx.NodeProto] = []
        values = dict(self.graph.network.weights)
        for number, block in enumerate(found):
            nodes.extend(self._constant_part(block, f"{number}:", values))
        wanted = [f"{number}:{block.branch}" for number, block in enumerate(found)]
        results = compute(self.graph.network, nodes, values, wanted) if found else {}
        return [shrunk(np.asarray(results[name])) for name in wanted]

    def _constant_part(self, block: Block, prefix: str, values: dict[str, Array]) -> Iterator[onnx.NodeProto]:
        """Yield the operators that make a branch's constant; add the zeros they take to the values."""
        (end,) = self._users[block.branch]
        cone = self._cone(block.branch, end)
        own = {name for index in cone for name in self.nodes[index].output}
        varying, alive = self._dependent(cone, block.decisive), self.alive(block.decisive)
        for index in cone:
            if varying & set(self.nodes[index].output):
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(self.nodes[index])
            copy.name = prefix + copy.name
            copy.input[:] = [prefix + name if name in own else name for name in copy.input]
            copy.output[:] = [prefix + name if name else name for name in copy.output]
            for place, mask in self.masks(index, alive).items():
                source = self.nodes[index].input[place]
                if not mask.any():
                    copy.input[place] = f"{prefix}{source}.zeros"
                    values[copy.input[place]] = np.zeros(self.graph.network.shapes[source], self.dtype(source))
            yield copy

    def _cone(self, branch: str, end: int) -> list[int]:
        """Return the indices of the operators that only a branch needs, in order.

        Args:
            branch: The branch's result.
            end: Index of the addition that it goes into.
        """
        found: set[int] = set()
        if self._users.get(branch) == {end}:
            for index in range(end - 1, -1, -1):
                results = self.nodes[index].output
                users = set().union(*(self._users.get(name, set()) for name in results))
                if users <= found or (branch in results and users == {end}):
                    found.add(index)
        return sorted(found)

    def _dependent(self, indices: Collection[int], removed: Collection[str]) -> set[str]:
        """Name the results of some operators that depend on more than constants once some sets are removed.

        Args:
            indices: The operators, in order; the results of others count as dependent.
            removed: Names of the sets.
        """
        alive = self.alive(removed)
        constant, results = {*self.graph.network.weights, ""}, set[str]()
        for index in indices:
            node = self.nodes[index]
            gone = {place for place, mask in self.masks(index, alive).items() if not mask.any()} if removed else ()
            read = {name for place, name in enumerate(node.input) if place not in gone}
            captured = set(read_by(node)) - set(node.input)
            results.update(node.output)
            if node.op_type not in RANDOM and read | captured <= constant:
                constant.update(node.output)
        return results - constant

    def _decisive(self, cone: Sequence[int], branch: str, inside: Sequence[str]) -> tuple[str, ...]:
        """Return the last set that alone makes a branch constant; else a smallest group of them; else none."""

        def constant(removed: Collection[str]) -> bool:
            return bool(removed) and branch not in self._dependent(cone, removed)

        if not constant(inside):
            return ()
        for name in reversed(inside):
            if constant([name]):
                return (name,)
        group = list(inside)
        for name in inside:
            fewer = [other for other in group if other != name]
            group = fewer if constant(fewer) else group
        return tuple(group)

    def _nodes_of_sets(self) -> dict[str, set[int]]:
        """Return for each set that may shrink the operators whose results hold channels of it."""
        graph = self.graph
        sets = [one for one in graph.sets.values() if one.frozen is None]
        number_of = np.full(len(graph.class_of), len(sets), np.int64)
        for number, one in enumerate(sets):
            number_of[one.classes] = number
        homes: list[set[int]] = [set() for _ in (*sets, None)]
        for index, node in enumerate(self.nodes):
            for name in filter(None, node.output):
                for entry in graph.execution.tensors[name].axes:
                    for number in np.unique(number_of[graph.class_of[entry.labels]]):
                        homes[number].add(index)
        return {one.name: home for one, home in zip(sets, homes, strict=False)}


def _names(found: Sequence[Block]) -> list[str]:
    """Name blocks after what their layers' names have in common; where that is nothing or not unique, after a set."""
    common = [_common_part(block.layers) for block in found]
    return [
        name if name and common.count(name) == 1 else block.decisive[0]
        for name, block in zip(common, found, strict=True)
    ]


def _common_part(names: Sequence[str]) -> str:
    parts = []
    for column in zip(*(name.split(".") for name in names), strict=False):
        if len(set(column)) > 1:
            break
        parts.append(column[0])
    return ".".join(parts)
