"""How the loss changes when a channel is faded out, from the gradients of the weights alone.

Put a gate z_c = 1 on every output y_c of a layer. Where a normalisation with scale and offset comes last,
y = gamma x + beta, so that

    dL/dz_c = sum over positions of dL/dy_c y_c = gamma_c dL/dgamma_c + beta_c dL/dbeta_c,

and without one y = W x + b gives sum_i W_ci dL/dW_ci + b_c dL/db_c: no hook, no activation kept. It is exact for a gate
before the activation, and for a gate after it where the activation is piecewise linear through zero, as ReLU is. A set
that several layers make is gated in all of them at once, so that theirs add up; a depthwise convolution only passes on
what another layer made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph
from compress.scores import Producer, Scores, Tensors, makers_of, weight_name
from compress.surgery import named_tensors
from compress.tasks.base import Task
from device_profiles.errors import BadInput

SAMPLES = 64  # as many as it takes for the order of a U-Net's channels to settle


def gate_scores(
    graph: ChannelGraph, module: nn.Module, task: Task, samples: int, measure: Callable[[np.ndarray], np.ndarray]
) -> Scores:
    """Return the mean over single samples of a measure of each gate's gradient: its magnitude, its square.

    Raises:
        BadInput: A normalisation has no scale, and so no gradient that tells of a gate; or all gradients are zero.
    """
    return {name: measure(rows).mean(0) for name, rows in gate_gradients(graph, module, task, samples).items()}


def gate_gradients(
    graph: ChannelGraph, module: nn.Module, task: Task, samples: int = SAMPLES
) -> dict[str, Float[np.ndarray, "samples channels"]]:
    """Return dL/dz of every channel of every prunable set, for single training samples in eval mode.

    Raises:
        BadInput: A normalisation has no scale, and so no gradient that tells of a gate; or all gradients are zero.
    """
    made_by = {name: _gated(name, makers) for name, makers in makers_of(graph).items()}
    tensors = named_tensors(module)
    wanted = {name: tensors[name] for makers in made_by.values() for each in makers for name in _factors(each, tensors)}
    found: dict[str, list[Float[np.ndarray, " channels"]]] = {name: [] for name in made_by}
    was_training = module.training
    module.eval()
    for sample in range(samples):
        batch = task.batch(-1 - sample, 1)  # negative steps: batches that training never asks for
        loss = task.loss(module(batch.inputs), batch.targets)
        gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        products = {
            name: torch.zeros_like(value) if gradient is None else (value * gradient).detach()
            for (name, value), gradient in zip(wanted.items(), gradients, strict=True)
        }
        for name, makers in made_by.items():
            gates = sum(_gate(each, products, tensors) for each in makers)
            found[name].append(gates.cpu().numpy())
    module.train(was_training)
    if not any(row.any() for rows in found.values() for row in rows):
        raise BadInput(
            f"the loss has no gradient on any of {samples} training samples, which says nothing of any channel; score "
            "by their weights, such as by l2"
        )
    return {name: np.stack(rows) for name, rows in found.items()}


def _gated(name: str, makers: tuple[Producer, ...]) -> tuple[Producer, ...]:
    """Leave out depthwise convolutions, unless nothing else makes the set."""
    own = tuple(each for each in makers if each.layer.groups == 1 or name not in each.layer.in_sets)
    return own or makers[:1]


def _factors(producer: Producer, tensors: Tensors) -> list[str]:
    """Name the parameters whose products with their gradients make up the gate's, the weight first."""
    layer = producer.layer
    if layer.norm is None:
        return [weight_name(layer, tensors), *([layer.bias] if layer.bias in tensors else [])]
    if layer.norm.scale not in tensors:
        raise BadInput(
            f"the normalisation after {layer.name!r} has no scale, so that no gradient tells of its channels; make it "
            "affine before the network is exported (compress.affine.make_norms_affine_)"
        )
    return [layer.norm.scale, *([layer.norm.bias] if layer.norm.bias in tensors else [])]


def _gate(producer: Producer, products: Tensors, tensors: Tensors) -> Float[Tensor, " channels"]:
    first, *others = _factors(producer, tensors)
    outputs = producer.per_output(products[first]) if producer.layer.norm is None else products[first]
    return producer.per_channel(sum((products[name] for name in others), outputs))
