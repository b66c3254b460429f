"""How much each channel matters by its weights alone, with its normalisation folded in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph, Layer
from compress.surgery import named_tensors


def folded_norm(layer: Layer, tensors: Mapping[str, Tensor]) -> Float[Tensor, " channels"]:
    """Return the magnitude of each output channel of a layer, differentiable in its parameters.

    With a normalisation after the layer the L1 norm of the raw weights says nothing: the normalisation undoes any
    scale. So the norm is taken as if the normalisation were folded into the weights,

        ||W_j||_1 (|gamma_j| + |beta_j|) / sqrt(var_j + epsilon),

    and counts the offset beta like the scale gamma: a channel whose gamma alone is zero still emits a constant, and
    cutting it at a DECIG hinge changed a U-Net's error by 25 %; with the offset counted in, by 0.1 % (one run each).
    The running variance is a constant here. Without a normalisation it is ||W_j||_1 + |b_j|.

    Args:
        layer: One layer of a channel graph.
        tensors: `named_tensors` of the module the graph was exported from.
    """
    axis = 1 if layer.op == "ConvTranspose" else 0
    weight = tensors[layer.weight]
    norm = weight.abs().sum(dim=[i for i in range(weight.ndim) if i != axis])
    if layer.norm is None:
        return norm + tensors[layer.bias].abs() if layer.bias in tensors else norm
    reach = tensors[layer.norm.scale].abs()
    if layer.norm.bias is not None:
        reach = reach + tensors[layer.norm.bias].abs()
    if layer.norm.var is None:  # statistics of the sample itself: the weights' scale cancels
        return norm / norm.detach() * reach
    return norm * reach / torch.sqrt(tensors[layer.norm.var].detach() + layer.norm.epsilon)


@dataclass(frozen=True)
class Producer:
    """A layer that makes the channels of a prunable set, and its mean norm when the method began."""

    layer: Layer
    reference: float


def producers(graph: ChannelGraph, module: nn.Module) -> dict[str, tuple[Producer, ...]]:
    """List the layers that make each prunable set's channels, with their present mean folded norms."""
    tensors = named_tensors(module)
    prunable = {one.name for one in graph.prunable}
    found: dict[str, list[Producer]] = {}
    for layer in graph.layers:
        if layer.out_set in prunable:
            reference = float(folded_norm(layer, tensors).mean().detach())
            found.setdefault(layer.out_set, []).append(Producer(layer, reference))
    return {name: tuple(layers) for name, layers in found.items()}


def set_norms(
    made_by: Mapping[str, tuple[Producer, ...]], module: nn.Module
) -> dict[str, Float[np.ndarray, " channels"]]:
    """Return the folded norm of every channel of every set, over its mean when the method began.

    A set that several layers make together (a residual sum) has the mean over them.

    Args:
        made_by: From `producers`, before the method began.
        module: The module as it is now.
    """
    tensors = named_tensors(module)
    with torch.no_grad():
        return {
            name: torch.stack([folded_norm(each.layer, tensors) / each.reference for each in layers]).mean(0).numpy()
            for name, layers in made_by.items()
        }
