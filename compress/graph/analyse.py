"""Read the channel graph off a network by executing it on labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import gcd

import numpy as np
from numpy.typing import NDArray

from compress.graph.channels import BalanceRule, ChannelGraph, ChannelSet
from compress.graph.classes import coupled
from compress.graph.execute import Execution, execute
from compress.graph.labels import FROZEN, BoolArray, IntArray
from compress.graph.layers import Seen, Wiring, describe, ends, find_layers
from compress.graph.network import Network
from device_profiles.errors import BadInput

SIGNATURE_SEED = 0  # channels with the same occurrences get the same random sum; any seed does


def analyse(network: Network, frozen: Mapping[str, str] | None = None) -> ChannelGraph:
    """Find the layers of a network, their coupled channels and what must be balanced.

    Args:
        network: The network.
        frozen: Channel set -> why it must keep all its channels, beyond what the network itself demands.

    Raises:
        BadInput: `frozen` names a set that does not exist.
    """
    execution, class_of = _settle(network)
    wiring = Wiring.of(network)
    found, nodes = find_layers(network), wiring.made_by
    layers = [Seen(one, *ends(execution, class_of, one, nodes[one.output])) for one in found]
    class_of = _freeze_unbalanced(execution, class_of, layers)
    layers = [Seen(one, *ends(execution, class_of, one, nodes[one.output])) for one in found]
    sets, balances = _sets_and_rules(execution, class_of, layers)
    if len(remainder := _remainder(sets, balances, len(class_of))):
        execution.trace.freeze(
            remainder, "it is what is left over when rows that must keep equally many share a set out"
        )
        class_of = coupled(execution.trace)
        layers = [Seen(one, *ends(execution, class_of, one, nodes[one.output])) for one in found]
        sets, balances = _sets_and_rules(execution, class_of, layers)
    for name in frozen or {}:
        if name not in sets:
            raise BadInput(f"channel set {name!r} does not exist; the sets are {', '.join(sets) or '(none)'}")
    sets = {name: replace(one, frozen=(frozen or {}).get(name)) for name, one in sets.items()}
    sets = _frozen_families(sets)
    number_of = _set_numbers(sets, len(class_of))
    described = tuple(describe(wiring, one, sets, number_of) for one in layers)
    return ChannelGraph(network, described, sets, balances, execution, class_of)


def _settle(network: Network) -> tuple[Execution, IntArray]:
    """Execute; where splitting an axis the default way leaves it frozen, try the other ways."""
    execution = execute(network)
    class_of = coupled(execution.trace)
    wishes: dict[str, int] = {}
    for attempt in range(2):
        stuck = _stuck(execution, class_of)
        options = {key: axes for key, axes in stuck.items() if attempt < len(axes) - 1}
        if not options:
            break
        trial = execute(network, wishes | {key: axes[attempt] for key, axes in options.items()})
        trial_classes = coupled(trial.trace)
        helped = {key: options[key][attempt] for key in options.keys() - _stuck(trial, trial_classes).keys()}
        if helped:
            wishes |= helped
            execution = execute(network, wishes)
            class_of = coupled(execution.trace)
    return execution, class_of


def _stuck(execution: Execution, class_of: IntArray) -> dict[str, tuple[int, ...]]:
    trace = execution.trace
    return {key: axes for key, (axes, labels) in trace.alternatives.items() if not class_of[labels].any()}


def _sets_and_rules(
    execution: Execution, class_of: IntArray, layers: Sequence[Seen]
) -> tuple[dict[str, ChannelSet], tuple[BalanceRule, ...]]:
    sets = _find_sets(execution, class_of, layers)
    removable = np.zeros(len(class_of), np.bool_)
    for one in sets.values():
        removable[one.classes] = True
    balances = _balance_rules(execution, class_of, removable)
    return _with_families(sets, balances, len(class_of)), balances


def _find_sets(execution: Execution, class_of: IntArray, layers: Sequence[Seen]) -> dict[str, ChannelSet]:
    """Group classes that occur equally often in the same places: each group can take any width by itself."""
    generator = np.random.default_rng(SIGNATURE_SEED)
    signature = np.zeros(len(class_of), np.uint64)
    done = np.ones(len(class_of), np.bool_)
    for seen in layers:
        for side in (seen.inner, seen.outer):
            np.add.at(signature, side, generator.integers(1, 2**63, dtype=np.uint64))
        done[seen.outer] = False
    for piece in execution.trace.pieces:
        np.add.at(signature, np.unique(class_of[piece]), generator.integers(1, 2**63, dtype=np.uint64))
    done[FROZEN] = True
    sets: dict[str, ChannelSet] = {}
    for seen in layers:
        fresh = seen.outer[~done[seen.outer]]
        _, start = np.unique(fresh, return_index=True)
        fresh = fresh[np.sort(start)]
        done[fresh] = True
        kinds = signature[fresh]
        for kind in kinds[np.sort(np.unique(kinds, return_index=True)[1])]:
            classes = fresh[kinds == kind]
            name = _free_name(seen.layer.name, sets)
            sets[name] = ChannelSet(name, len(classes), 1, name, (), (), None, classes)
    return _with_users(sets, layers, len(class_of))


def _with_users(sets: Mapping[str, ChannelSet], layers: Sequence[Seen], labels: int) -> dict[str, ChannelSet]:
    """Note which layers make and use each set."""
    number_of = _set_numbers(sets, labels)
    names = list(sets)
    producers: dict[str, list[str]] = {name: [] for name in names}
    consumers: dict[str, list[str]] = {name: [] for name in names}
    for seen in layers:
        for side, users in ((seen.outer, producers), (seen.inner, consumers)):
            for number in np.unique(number_of[side]):
                if number >= 0:
                    users[names[number]].append(seen.layer.name)
    return {
        name: replace(one, producers=tuple(producers[name]), consumers=tuple(consumers[name]))
        for name, one in sets.items()
    }


def _set_numbers(sets: Mapping[str, ChannelSet], labels: int) -> IntArray:
    """Return the number of each class's set, -1 for classes in none."""
    number_of = np.full(labels, -1, np.int64)
    for number, one in enumerate(sets.values()):
        number_of[one.classes] = number
    return number_of


def _free_name(name: str, taken: Mapping[str, object]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}[{number}]" in taken:
        number += 1
    return f"{name}[{number}]"


def _freeze_unbalanced(execution: Execution, class_of: IntArray, layers: Sequence[Seen]) -> IntArray:
    """Freeze rows that must keep equally many but cannot, since unequally many of them are frozen."""
    trace = execution.trace
    offered = np.zeros(len(class_of), np.bool_)
    while True:
        offered[:] = False
        for seen in layers:
            offered[class_of[seen.outer]] = True
        offered[FROZEN] = False
        before = trace.node
        broken = []
        for note in trace.balances:
            counts = offered[class_of[note.rows]].sum(1)
            if counts.min() != counts.max():
                broken.append(note)
        if not broken:
            return class_of
        for note in broken:
            trace.node = note.node
            trace.freeze(note.rows, "its rows must keep equally many, and one of them cannot shrink")
        trace.node = before
        class_of = coupled(trace)


def _balance_rules(execution: Execution, class_of: IntArray, removable: BoolArray) -> tuple[BalanceRule, ...]:
    nodes = execution.network.model.graph.node
    rules: dict[tuple[int, bytes], BalanceRule] = {}
    for note in execution.trace.balances:
        rows = class_of[note.rows]
        new = np.append(True, (rows[1:] != rows[:-1]).any(1))  # neighbours are mostly alike: sort few rows, not all
        rows = np.ascontiguousarray(rows[new])
        whole = rows.view(np.dtype((np.void, rows.strides[0])))[:, 0]  # as one number each, however long they are
        rows = rows[np.unique(whole, return_index=True)[1]]
        if len(rows) > 1 and removable[rows].any():
            rules.setdefault((len(rows), rows.tobytes()), BalanceRule(nodes[note.node].name, rows))
    return tuple(rules.values())


def _with_families(
    sets: Mapping[str, ChannelSet], balances: Sequence[BalanceRule], labels: int
) -> dict[str, ChannelSet]:
    """Find which sets share balance rules and the widths these allow.

    Keeping the same share of every atom (channels of one set in the same rows) satisfies every rule, so the greatest
    common divisor of the atoms' sizes tells how finely a family can be cut.
    """
    family = {name: name for name in sets}
    names = list(sets)
    number_of = _set_numbers(sets, labels)
    for rule in balances:
        numbers = number_of[rule.rows]
        members = [names[number] for number in np.flatnonzero(np.bincount(numbers[numbers >= 0]))]
        oldest = min((family[name] for name in members), key=names.index)
        merged = {family[name] for name in members}
        family = {name: oldest if root in merged else root for name, root in family.items()}
    atoms = atom_of(sets, balances, labels)
    divisor: dict[str, int] = {}
    for name, one in sets.items():
        for size in np.unique(atoms[one.classes], return_counts=True)[1].tolist():
            divisor[family[name]] = gcd(divisor.get(family[name], 0), size)
    return {
        name: replace(one, family=family[name], step=one.width // divisor[family[name]]) for name, one in sets.items()
    }


def atom_of(sets: Mapping[str, ChannelSet], balances: Sequence[BalanceRule], labels: int) -> NDArray[np.uint64]:
    """Return a number per class that is equal for channels of one set that lie in the same rows of every rule."""
    generator = np.random.default_rng(SIGNATURE_SEED)
    signature = np.zeros(labels, np.uint64)
    for one in sets.values():
        signature[one.classes] += generator.integers(1, 2**63, dtype=np.uint64)
    for rule in balances:
        for row in rule.rows:
            np.add.at(signature, row, generator.integers(1, 2**63, dtype=np.uint64))
    return signature


def _remainder(sets: Mapping[str, ChannelSet], balances: Sequence[BalanceRule], labels: int) -> IntArray:
    """Find the few classes without which a set that could only keep all or nothing can be cut.

    A channel shuffle may deal a group's channels out so that some lie across two rows, and rows hold unequally many
    of the others. Where equally many of each larger atom leave every row with equally many, the rest may stay whole.
    """
    atoms = atom_of(sets, balances, labels)
    families = [one.family for one in sets.values()]
    left = [np.zeros(0, np.int64)]
    for one in sets.values():
        if 1 < one.step == one.width and families.count(one.family) == 1:
            free = _shared_out(one.classes, atoms[one.classes], balances, labels)
            if free.any():
                left.append(one.classes[~free])
    return np.concatenate(left)


def _shared_out(classes: IntArray, own: NDArray[np.uint64], balances: Sequence[BalanceRule], labels: int) -> BoolArray:
    """Mark the most classes of a set such that every marked atom has equally many and every row is balanced."""
    kinds, sizes = np.unique(own, return_counts=True)
    best = np.zeros(len(classes), np.bool_)
    for size in np.unique(sizes[sizes > 1]):
        members = [np.flatnonzero(own == kind)[:size] for kind in kinds[sizes >= size]]
        marked = np.zeros(labels, np.bool_)
        marked[classes[np.concatenate(members)]] = True
        counts = [marked[rule.rows].sum(1) for rule in balances]
        if all(count.min() == count.max() for count in counts) and marked.sum() > best.sum():
            best = marked[classes]
    return best


def _frozen_families(sets: Mapping[str, ChannelSet]) -> dict[str, ChannelSet]:
    reasons = {one.family: f"its family has {one.name!r}: {one.frozen}" for one in sets.values() if one.frozen}
    return {
        name: one if one.frozen or one.family not in reasons else replace(one, frozen=reasons[one.family])
        for name, one in sets.items()
    }
