"""Remove channels from a torch module, checked against the pruned ONNX network."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from compress.gathered import GatheredConv2d
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.fold import FOLDED, folded_name
from compress.graph.labels import BoolArray, Labelled
from compress.graph.network import Network
from compress.graph.proof import TOLERANCE
from compress.graph.proof import prove as prove_pruned
from compress.graph.reference import zeroed
from compress.graph.run import Runnable, random_feeds
from compress.graph.surgery import kept_indices, remove_channels
from device_profiles.errors import BadInput, ParityFailed

Array = NDArray[np.generic]

SIZES: dict[type[nn.Module], tuple[str, ...]] = {  # the attributes that repeat the weight's sizes, axis by axis
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.modules.batchnorm._NormBase: ("num_features",),
    nn.GroupNorm: ("num_channels",),
    nn.PReLU: ("num_parameters",),
}
RUN_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ZeroDivisionError, KeyError)


def prune_module(module: nn.Module, graph: ChannelGraph, keep: Keep, *, prove: bool = True) -> nn.Module:
    """Return a smaller copy of a module.

    Parameters and buffers are sliced by their names in the network, indices pick what they picked before, and the
    attributes that repeat sizes (`in_channels`, `num_features`, `groups`, ...) are mended. Parametrised weights become
    plain ones.

    Args:
        module: The module that `graph.network` was exported from; its weights may have been trained since.
        graph: The channel graph of the exported network.
        keep: Channel set -> sorted indices of the channels that stay.
        prove: Prove the pruning on the exported network, and compare the pruned module with it.

    Raises:
        BadInput: `keep` does not fit the graph, or the module is not the one that was exported.
        ParityFailed: A proof failed, or the pruned module computes something else than the original with the same
            channels zeroed; `compress.rigid.prune_where_flexible` finds out which channels its code does not let go.
    """
    pruned = slice_module(module, graph, keep)
    if prove:
        prove_pruned(graph, keep, remove_channels(graph, keep), remove_channels)
        reason = difference(module, pruned, graph, keep)
        if reason is not None:
            raise ParityFailed(
                f"{type(module).__name__} {reason} once it is pruned; its code computes with sizes of its own, so use "
                "compress.rigid.prune_where_flexible, or prune the exported network in place of the module"
            )
    return pruned


def slice_module(module: nn.Module, graph: ChannelGraph, keep: Keep, *, share: bool = False) -> nn.Module:
    """Return a smaller copy of a module, unproven.

    Args:
        module: The module that `graph.network` was exported from.
        graph: The channel graph of the exported network.
        keep: Channel set -> sorted indices of the channels that stay.
        share: Let the copy use the module's own tensors where nothing is removed from them; it may only be looked at.

    Raises:
        BadInput: `keep` does not fit the graph, or the module is not the one that was exported.
    """
    alive = graph.alive(keep)
    original = plain(module)
    check_same(original, graph.network)
    tensors: dict[int, object] = {}
    indices = kept_indices(graph, alive)
    for name, tensor in named_tensors(original).items():
        labelled = labels_of(name, graph)
        if name in indices:
            tensors[id(tensor)] = torch.from_numpy(indices[name]).to(tensor)
        elif labelled is not None and labelled.shape_after(alive) != labelled.shape:
            tensors[id(tensor)] = _sliced(tensor, labelled, alive)
        elif share:
            tensors[id(tensor)] = tensor
    pruned = copy.deepcopy(original, tensors)  # takes what it finds there in place of copies
    for part in pruned.modules():
        mend_attributes_(part)
    _mend_unweighted_(pruned, graph.network)
    return pruned


def difference(module: nn.Module, pruned: nn.Module, graph: ChannelGraph, keep: Keep) -> str | None:
    """Tell how a pruned module differs from the original with the removed channels zeroed; None if it does not."""
    try:
        results = run_module(pruned, graph.network)
    except RUN_ERRORS as err:
        return failure(err)
    reference = zeroed(graph, keep)
    computed = any(name.endswith(FOLDED) for name in reference.weights)
    current = {} if computed else _arrays(plain(module), reference.weights)
    wanted = Runnable(reference.model, {**reference.weights, **current}).run(random_feeds(graph.network))
    for (name, one), two in zip(wanted.items(), results, strict=True):
        if one.shape != tuple(two.shape):
            return f"makes output {name!r} of shape {tuple(two.shape)} in place of {one.shape}"
        spread = float(one.max() - one.min()) or 1.0
        error = float(np.abs(one - two.cpu().numpy()).max()) / spread
        if not error <= TOLERANCE:
            return f"computes output {name!r} {error:.1e} of its spread away from the original with channels zeroed"
    return None


def plain(module: nn.Module) -> nn.Module:
    """Return a module whose weights are stored as they are used, without weight_norm or spectral_norm.

    Returns:
        A copy, or the module itself if it has no parametrised weights.
    """
    if not any(parametrize.is_parametrized(part) for part in module.modules()):
        return module
    copied = copy.deepcopy(module)
    for part in list(copied.modules()):
        if parametrize.is_parametrized(part):
            training = part.training
            part.eval()  # spectral_norm would take another step in training mode
            values = {name: getattr(part, name).detach().clone() for name in part.parametrizations}
            del part.parametrizations
            part.__class__ = type(part).__bases__[0]  # torch makes the parametrised class from the module's own
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
            part.train(training)
    return copied


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer once, under the name torch gives it first."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def mend_attributes_(module: nn.Module) -> None:
    """Make the sizes that a module repeats as attributes agree with its weights, in place."""
    if isinstance(module, nn.RNNBase):
        module.input_size, module.hidden_size = module.weight_ih_l0.shape[1], module.weight_hh_l0.shape[1]
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.modules.conv._ConvNd):  # torch has no public base class
        _mend_convolution_(module, weight.shape)
        return
    for kind, names in SIZES.items():
        if isinstance(module, kind):
            for name, size in zip(names, weight.shape, strict=False):
                setattr(module, name, size)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(weight.shape)


def with_weights(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """Return the network with the weights that a module has now under the same names.

    Raises:
        BadInput: A weight has another shape, or the network holds weights that were computed from others.
    """
    stale = [name for name in tensors if folded_name(name) in network.weights]
    if stale:
        raise BadInput(f"the network holds what was computed from {stale[0]!r} on export; export the module again")
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for initializer in model.graph.initializer:
        if initializer.name in tensors:
            data = tensors[initializer.name].detach().cpu().numpy()
            if data.shape != tuple(initializer.dims):
                raise BadInput(f"{initializer.name!r} is {data.shape}, the network has {tuple(initializer.dims)}")
            initializer.CopyFrom(numpy_helper.from_array(np.asarray(data, order="C"), initializer.name))
    return Network(model, batch=network.batch)


def labels_of(name: str, graph: ChannelGraph) -> Labelled | None:
    """Find a tensor's labels; a weight that the network holds standardised is sliced like the standardised one."""
    tensors, weights = graph.execution.tensors, graph.network.weights
    return next((tensors[known] for known in (name, folded_name(name)) if known in weights), None)


def _sliced(tensor: Tensor, labelled: Labelled, alive: BoolArray) -> Tensor:
    data = np.asarray(labelled.take(tensor.detach().cpu().numpy(), alive), order="C")
    left = torch.from_numpy(data).to(tensor)
    if isinstance(tensor, nn.Parameter):
        left = nn.Parameter(left, tensor.requires_grad)
    vars(left).update(vars(tensor))
    return left


def _mend_convolution_(module: nn.modules.conv._ConvNd, shape: torch.Size) -> None:
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if isinstance(module, GatheredConv2d) and module.index is not None:
        module.groups = len(module.index) // shape[1]
    elif module.groups > 1 and module.in_channels == module.groups:  # depthwise: groups go with their channels
        module.groups = shape[0] if transposed else shape[0] * module.groups // module.out_channels
    module.in_channels = shape[0] if transposed else shape[1] * module.groups
    module.out_channels = shape[1] * module.groups if transposed else shape[0]


def _mend_unweighted_(module: nn.Module, network: Network) -> None:
    """Mend normalisations without weights, whose sizes show only when the module runs, in place."""
    hooks = hook_unweighted_(module)
    if hooks:
        with contextlib.suppress(*RUN_ERRORS):  # a module that cannot run is found out by the comparison
            run_module(module, network)
    for hook in hooks:
        hook.remove()


def hook_unweighted_(module: nn.Module) -> list[RemovableHandle]:
    """Make normalisations without weights take the sizes of what comes in, until the hooks are removed."""

    def mend(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(part, nn.LayerNorm | nn.RMSNorm):
            part.normalized_shape = tuple(inputs[0].shape[-len(part.normalized_shape) :])
        else:
            part.num_features = inputs[0].shape[1]

    kinds = (nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    unweighted = [p for p in module.modules() if isinstance(p, kinds) and not named_tensors(p)]
    return [part.register_forward_pre_hook(mend) for part in unweighted]


def check_same(module: nn.Module, network: Network) -> None:
    """Make sure that a module is the one a network was exported from.

    Raises:
        BadInput: They share no weight's name, or a weight's shape differs.
    """
    tensors = named_tensors(module)
    shared = tensors.keys() & network.weights.keys()
    if not shared:
        raise BadInput(f"{type(module).__name__} shares no weight's name with the network; export this module")
    for name in sorted(shared):
        if tuple(tensors[name].shape) != network.weights[name].shape:
            raise BadInput(
                f"{name!r} is {tuple(tensors[name].shape)} in {type(module).__name__} and "
                f"{network.weights[name].shape} in the network; export this module again"
            )


def _arrays(module: nn.Module, wanted: Mapping[str, object]) -> dict[str, Array]:
    """Return a module's tensors of the wanted names as arrays that share their memory where that is possible."""
    tensors = named_tensors(module)
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if name in wanted}


def failure(err: Exception) -> str:
    """Say why a module does not run."""
    return f"does not run ({(str(err) or type(err).__name__).splitlines()[0][:120]})"


def run_module(module: nn.Module, network: Network) -> list[Tensor]:
    """Run a module in eval mode on the random input of the proof, and return its outputs in their order."""
    modes = {part: part.training for part in module.modules()}
    device = next(iter(named_tensors(module).values())).device
    feeds = [torch.from_numpy(feed).to(device) for feed in random_feeds(network).values()]
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return flat(module(*feeds))
    finally:
        for part, training in modes.items():
            part.training = training


def flat(result: object) -> list[Tensor]:
    """Return the tensors that a module returned, however they are nested, in their order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [tensor for value in result.values() for tensor in flat(value)]
    if isinstance(result, tuple | list):
        return [tensor for value in result for tensor in flat(value)]
    return []
