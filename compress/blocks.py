"""Remove whole blocks from a torch module, checked against the ONNX network without them.

The code that joins a branch with its skip connection stays. Of the branch's modules, the last one gives way to a stub
that returns the constant the branch is without its channels, which further training may change, and those before it
to stubs of zeros. A stub keeps the shape of what stood there; on export nothing of it is left but the constant.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.culprits import Search
from compress.graph.block_surgery import depends_on_input, remove_blocks, silenced, without_blocks
from compress.graph.blocks import Block, chosen_blocks
from compress.graph.channels import ChannelGraph
from compress.graph.fold import FOLDED, folded_name
from compress.graph.network import Network
from compress.graph.offsets import shrunk
from compress.graph.proof import SIMILAR, TOLERANCE
from compress.graph.run import Runnable, random_feeds
from compress.stubs import Stub, StubShape, Window, place_stubs_, stubs_of
from compress.surgery import RUN_ERRORS, check_same, failure, flat, named_tensors, plain, run_module, with_weights
from device_profiles.errors import BadInput, ParityFailed

Array = NDArray[np.generic]


def remove_module_blocks(
    module: nn.Module, graph: ChannelGraph, names: Sequence[str], *, prove: bool = True
) -> nn.Module:
    """Return a copy of a module without some blocks.

    Export it again and analyse the result to prune what remains, or to ship it.

    Args:
        module: The module that `graph.network` was exported from; its weights may have been trained since.
        graph: The channel graph of the exported network.
        names: Names of blocks, see `compress.graph.blocks.blocks`.
        prove: Compare the result with the exported network without these blocks.

    Raises:
        BadInput: A block does not exist, no output would depend on the input, or the module is another one.
        ParityFailed: The module's code does not let a block go, with the reason.
    """
    module = plain(module)
    check_same(module, graph.network)
    current = _with_current_weights(graph, module)
    chosen = chosen_blocks(current, names)
    removed = without_blocks(current, chosen)
    smaller = copy.deepcopy(module)
    kind = type(module).__name__
    try:
        place_stubs_(smaller, _stubs(module, current, chosen, removed))
        _drop_unused_constants_(smaller, module, current.network)
        _shrink_unused_(smaller, _gone(smaller, current.network, removed), current.network)
    except (*RUN_ERRORS, AttributeError) as err:
        raise ParityFailed(_refusal(kind, names, failure(err))) from err
    reason = _difference(smaller, module, current, chosen) if prove else None
    if reason is not None:
        raise ParityFailed(_refusal(kind, names, reason))
    return smaller


def refused_blocks(module: nn.Module, graph: ChannelGraph, names: Sequence[str]) -> dict[str, str]:
    """Try to remove blocks together; return those that cannot go with the others, each with the reason.

    The code of the module does not let them go, or no output would depend on the input any more. All others were
    seen to go together, from the module and from the network.

    Args:
        module: The module that `graph.network` was exported from, with the same weights.
        graph: The channel graph of the exported network.
        names: Names of blocks.

    Raises:
        BadInput: A block does not exist, or the module is another one.
    """
    chosen_blocks(graph, names)
    check_same(plain(module), graph.network)

    def fails(together: Sequence[str]) -> str | None:
        try:
            remove_blocks(graph, together)
            remove_module_blocks(module, graph, together)
        except (ParityFailed, BadInput) as err:
            return str(err)
        return None

    search = Search(fails)
    search.run_([[name] for name in names])
    return search.found


@dataclass
class _Seen:
    """What a module was seen to do with the branch's channels zeroed, on two different inputs."""

    takes: torch.Size | None
    makes: list[Tensor]
    results: list[Tensor]
    beside: int | None

    @property
    def once(self) -> bool:
        """Whether it ran once each time, on a tensor, and made one."""
        return len(self.makes) == 2 and self.takes is not None and self.takes[:1] == self.makes[0].shape[:1]

    @property
    def constant(self) -> Tensor | None:
        """What it makes, if that does not depend on the input; of size 1 along the axes where it is alike."""
        one, two = self.makes
        alike = torch.from_numpy(shrunk(one.cpu().numpy())).to(one)
        return alike if torch.equal(one, two) and alike.shape[0] == 1 else None

    @property
    def idle(self) -> bool:
        """Whether what it makes changes no output of the network."""
        return all(result.grad is None or not result.grad.any() for result in self.results)


def _stubs(module: nn.Module, graph: ChannelGraph, chosen: Sequence[Block], removed: Network) -> dict[str, Stub]:
    """Find the largest modules whose weights go with the blocks, and what is to stand in their places."""
    gone = _gone(module, graph.network, removed)
    silent = _silent(module, graph, chosen)
    seen, usual = _watch(silent, graph.network), _watch(copy.deepcopy(module), graph.network)
    stubs: dict[str, Stub] = {}
    for name, part in silent.named_modules():
        own = {f"{name}.{inner}" for inner in named_tensors(part) if _held(f"{name}.{inner}", graph.network)}
        inside = any(name.startswith(f"{outer}.") for outer in stubs)
        if not name or inside or not own <= gone or name not in seen or not seen[name].once:
            continue
        if own or (seen[name].constant is not None and usual[name].constant is None):
            stub = _stub(part, seen[name])
            if stub is not None:
                stubs[name] = stub
    return stubs


def _silent(module: nn.Module, graph: ChannelGraph, chosen: Sequence[Block]) -> nn.Module:
    """Return a copy of a module in which all weights of the decisive channels are zero."""
    silent = copy.deepcopy(module)
    tensors = named_tensors(silent)
    with torch.no_grad():
        for name in {name for block in chosen for name in block.decisive}:
            for part in graph.slices(name):
                tensor = tensors.get(part.initializer, tensors.get(part.initializer.replace(FOLDED, ".weight")))
                if tensor is not None:
                    tensor.masked_fill_(torch.from_numpy(part.channels >= 0).to(tensor.device), 0)
    return silent


def _gone(module: nn.Module, network: Network, removed: Network) -> set[str]:
    """Name the tensors of a module that went with the blocks."""
    return {name for name in named_tensors(module) if _held(name, network) and not _held(name, removed)}


def _held(name: str, network: Network) -> bool:
    return name in network.weights or folded_name(name) in network.weights


def _watch(module: nn.Module, network: Network) -> dict[str, _Seen]:
    """Run a module on two inputs and note what every part of it takes, makes and is good for."""
    seen: dict[str, _Seen] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            first, rest = (output[0], output[1:]) if isinstance(output, tuple) and output else (output, None)
            if not isinstance(first, Tensor) or any(one is not None for one in rest or ()):
                return
            taken = inputs[0].shape if inputs and isinstance(inputs[0], Tensor) else None
            found = seen.setdefault(name, _Seen(taken, [], [], None if rest is None else len(rest)))
            found.makes.append(first.detach().clone())
            if first.requires_grad:
                first.retain_grad()
                found.results.append(first)

        return hook

    handles = [part.register_forward_hook(note(name)) for name, part in module.named_modules() if name]
    module.eval()
    device = next(iter(named_tensors(module).values())).device
    for seed in (0, 1):
        feeds = [torch.from_numpy(feed).to(device) for feed in random_feeds(network, seed).values()]
        with torch.enable_grad():
            _total(module(*feeds)).backward()
    for handle in handles:
        handle.remove()
    return seen


def _total(result: object) -> Tensor:
    """Add up all outputs, each number with a weight of its own, so that a normalisation at the end hides nothing."""
    weights = [(one, torch.linspace(0.5, 1.5, one.numel())) for one in flat(result)]
    return torch.stack([(one * weight.to(one).reshape(one.shape)).sum() for one, weight in weights]).sum()


def _stub(part: nn.Module, seen: _Seen) -> Stub | None:
    """Make the stub for a part, if it can have one."""
    constant = seen.constant
    shape = _shape(part, seen)
    if shape is None or (constant is None and not seen.idle):
        return None
    return Stub(shape, constant if constant is not None and constant.any() else None)


def _shape(part: nn.Module, seen: _Seen) -> StubShape | None:
    """Tell how a part's shape follows from its input's; None where no simple rule does."""
    taken, made = seen.takes, seen.makes[0].shape
    assert taken is not None, "a part that ran once takes a tensor"
    if len(taken) != len(made):
        return None
    differ = [axis for axis in range(1, len(made)) if taken[axis] != made[axis]]
    windows = {}
    if isinstance(part, nn.modules.conv._ConvNd) and not part.transposed:
        spatial = range(len(made) - len(part.kernel_size), len(made))
        for axis, kernel, stride, dilation, padding in zip(
            spatial, part.kernel_size, part.stride, part.dilation, _paddings(part), strict=True
        ):
            windows[axis] = Window(reach=dilation * (kernel - 1) + 1 - padding, stride=stride)
        windows = {axis: one for axis, one in windows.items() if one != Window(reach=1, stride=1)}
        differ = [axis for axis in differ if axis not in windows]
    shape = StubShape(sizes={axis: made[axis] for axis in differ}, windows=windows, beside=seen.beside)
    return shape if len(differ) <= 1 and shape.of(taken) == list(made) else None


def _paddings(part: nn.modules.conv._ConvNd) -> list[int]:
    """Return how many positions padding adds along each axis, on both sides together."""
    if part.padding == "same":
        return [dilation * (kernel - 1) for kernel, dilation in zip(part.kernel_size, part.dilation, strict=True)]
    return [0] * len(part.kernel_size) if part.padding == "valid" else [2 * int(one) for one in part.padding]


def _drop_unused_constants_(smaller: nn.Module, module: nn.Module, network: Network) -> None:
    """Leave a constant only where the outputs depend on it, in place; parts without weights come back elsewhere."""
    training = {part: part.training for part in smaller.modules()}
    smaller.eval()
    device = next(iter(named_tensors(smaller).values())).device
    with torch.enable_grad():
        _total(smaller(*[torch.from_numpy(feed).to(device) for feed in random_feeds(network).values()])).backward()
    for name in stubs_of(smaller):
        stub = smaller.get_submodule(name)
        if stub.constant is not None and stub.constant.grad is None:
            stub.constant, stub.shape = None, stub.shape.model_copy(update={"constant": None})
        was = module.get_submodule(name)
        if stub.constant is None and not named_tensors(was):
            smaller.set_submodule(name, copy.deepcopy(was))
    for part, mode in training.items():
        part.training = mode
    smaller.zero_grad()


def _shrink_unused_(module: nn.Module, gone: set[str], network: Network) -> None:
    """Make tensors that went with the blocks, but that the code still reads, single numbers if that is all the same."""
    tensors = {name: tensor for name, tensor in named_tensors(module).items() if name in gone}
    before, whole = run_module(module, network), {name: tensor.data for name, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.data = tensor.new_ones([1] * tensor.ndim)
    try:
        same = all(torch.equal(one, two) for one, two in zip(before, run_module(module, network), strict=True))
    except RUN_ERRORS:
        same = False
    if not same:
        for name, tensor in tensors.items():
            tensor.data = whole[name]


def _difference(smaller: nn.Module, module: nn.Module, graph: ChannelGraph, chosen: Sequence[Block]) -> str | None:
    """Tell how a module without blocks differs from the original with their channels zeroed; None if it does not.

    An instance normalisation divides what rounding leaves of a constant by the root of its epsilon, and runtimes round
    the mean in ways of their own. Where the original in torch differs from the one in ONNX Runtime by that, the module
    has to agree with the one in torch.
    """
    reference = silenced(graph, chosen)
    if depends_on_input(Runnable.of(graph.network), graph.network) and not depends_on_input(reference, graph.network):
        names = ", ".join(repr(block.name) for block in chosen)
        raise BadInput(f"without the blocks {names} no output depends on the input any more; remove fewer blocks")
    wanted, found = reference.run(random_feeds(graph.network)), run_module(smaller, graph.network)
    for (name, one), two in zip(wanted.items(), found, strict=True):
        if one.shape != tuple(two.shape):
            return f"makes output {name!r} of shape {tuple(two.shape)} in place of {one.shape}"
    errors = _errors(wanted, found)
    worst = max(errors, key=errors.__getitem__)
    if errors[worst] <= TOLERANCE:
        return None
    silent = run_module(_silent(module, graph, chosen), graph.network)
    in_torch = dict(zip(wanted, (one.cpu().numpy() for one in silent), strict=True))
    if max(_errors(wanted, silent).values()) <= SIMILAR and max(_errors(in_torch, found).values()) <= TOLERANCE:
        return None
    return f"computes output {worst!r} {errors[worst]:.1e} of its spread away from the original with channels zeroed"


def _errors(wanted: Mapping[str, Array], found: Sequence[Tensor]) -> dict[str, float]:
    """Return the largest error of every output over its spread, infinite where it is no number."""
    errors = {}
    for (name, one), two in zip(wanted.items(), found, strict=True):
        error = float(np.abs(one - two.cpu().numpy()).max()) / (float(np.ptp(one)) or 1.0)
        errors[name] = error if np.isfinite(error) else np.inf
    return errors


def _with_current_weights(graph: ChannelGraph, module: nn.Module) -> ChannelGraph:
    """Return the graph with the module's weights; what was computed from weights on export stays as it was."""
    if any(name.endswith(FOLDED) for name in graph.network.weights):
        return graph
    return replace(graph, network=with_weights(graph.network, named_tensors(module)))


def _refusal(kind: str, names: Sequence[str], reason: str) -> str:
    return (
        f"{kind} {reason} without the blocks {', '.join(names)}; its code computes with them in a way of its own, so "
        "keep them, or remove them from the exported network in place of the module"
    )
