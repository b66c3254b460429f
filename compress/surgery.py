"""Remove channels from a torch module, checked against the pruned ONNX network."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Network
from compress.graph.proof import TOLERANCE, random_feeds, run
from compress.graph.surgery import prune, remove_channels
from device_profiles.errors import BadInput, ParityFailed

SIZES: dict[type[nn.Module], tuple[str, ...]] = {  # the attributes that repeat the weight's sizes, axis by axis
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.modules.batchnorm._NormBase: ("num_features",),
    nn.GroupNorm: ("num_channels",),
    nn.PReLU: ("num_parameters",),
}


def prune_module(module: nn.Module, graph: ChannelGraph, keep: Keep, *, prove: bool = True) -> nn.Module:
    """Return a smaller copy of a module.

    Parameters and buffers are sliced by their names in the network, and the attributes that repeat their sizes
    (`in_channels`, `num_features`, `groups`, ...) are mended.

    Args:
        module: The module that `graph.network` was exported from; its weights may have been trained since.
        graph: The channel graph of the exported network.
        keep: Channel set -> sorted indices of the channels that stay.
        prove: Prove the pruning on the exported network, and compare the pruned module with it.

    Raises:
        BadInput: `keep` does not fit the graph, or the module is not the one that was exported.
        ParityFailed: The pruned module computes something else than the pruned network.
    """
    _check_same(module, graph.network)
    pruned_network = prune(graph.network, keep) if prove else remove_channels(graph, keep)
    pruned = copy.deepcopy(module)
    alive = graph.alive(keep)
    for name, tensor in _named_tensors(pruned).items():
        labelled = graph.execution.tensors.get(name)
        if labelled is None or not labelled.axes:
            continue
        data = labelled.take(tensor.detach().cpu().numpy(), alive)
        if data.shape != tuple(tensor.shape):
            tensor.data = torch.from_numpy(np.ascontiguousarray(data)).to(tensor)
            if tensor.grad is not None:
                tensor.grad = None
    for part in pruned.modules():
        mend_attributes_(part)
    if prove:
        _compare(pruned, pruned_network)
    return pruned


def mend_attributes_(module: nn.Module) -> None:
    """Make the sizes that a module repeats as attributes agree with its weights, in place."""
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
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)


def _mend_convolution_(module: nn.modules.conv._ConvNd, shape: torch.Size) -> None:
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if module.groups > 1 and module.in_channels == module.groups:  # depthwise: groups go with their channels
        module.groups = shape[0] if transposed else shape[0] * module.groups // module.out_channels
    module.in_channels = shape[0] if transposed else shape[1] * module.groups
    module.out_channels = shape[1] * module.groups if transposed else shape[0]


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, under the name torch gives it first."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _check_same(module: nn.Module, network: Network) -> None:
    tensors = _named_tensors(module)
    shared = tensors.keys() & network.weights.keys()
    if not shared:
        raise BadInput(f"{type(module).__name__} shares no weight's name with the network; export this module")
    for name in sorted(shared):
        if tuple(tensors[name].shape) != network.weights[name].shape:
            raise BadInput(
                f"{name!r} is {tuple(tensors[name].shape)} in {type(module).__name__} and "
                f"{network.weights[name].shape} in the network; export this module again"
            )


def _compare(pruned: nn.Module, pruned_network: Network) -> None:
    """Run the pruned module and the pruned network, with the module's own weights in it, on one input."""
    feeds = random_feeds(pruned_network)
    wanted = run(with_weights(pruned_network, _named_tensors(pruned)).model, feeds)
    modes = {part: part.training for part in pruned.modules()}
    pruned.eval()
    device = next(iter(_named_tensors(pruned).values())).device
    try:
        with torch.no_grad():
            result = pruned(*(torch.from_numpy(feed).to(device) for feed in feeds.values()))
    except (RuntimeError, ValueError, TypeError, IndexError) as err:
        raise ParityFailed(
            f"{type(pruned).__name__} does not run once it is pruned ({str(err).splitlines()[0][:200]}); its code "
            "computes with sizes of its own, so prune the exported network in place of the module"
        ) from err
    finally:
        for part, training in modes.items():
            part.training = training
    for (name, one), two in zip(wanted.items(), _flat(result), strict=True):
        spread = float(one.max() - one.min()) or 1.0
        error = float(np.abs(one - two.cpu().numpy()).max()) / spread if one.shape == tuple(two.shape) else np.inf
        if not error <= TOLERANCE:
            raise ParityFailed(
                f"output {name!r} of the pruned {type(pruned).__name__} differs from the pruned network by {error:.1e} "
                f"of its spread (allowed: {TOLERANCE:.0e}); its code computes with sizes of its own, so prune the "
                "exported network in place of the module"
            )


def with_weights(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """Return the network with the weights that a module has now under the same names.

    Raises:
        BadInput: A weight has another shape.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for initializer in model.graph.initializer:
        if initializer.name in tensors:
            data = tensors[initializer.name].detach().cpu().numpy()
            if data.shape != tuple(initializer.dims):
                raise BadInput(f"{initializer.name!r} is {data.shape}, the network has {tuple(initializer.dims)}")
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(data), initializer.name))
    return Network(model)


def _flat(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [tensor for value in result.values() for tensor in _flat(value)]
    if isinstance(result, (tuple, list)):
        return [tensor for value in result for tensor in _flat(value)]
    return []
