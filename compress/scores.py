"""How much each channel matters by its weights alone, and which layers' weights those are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph, ChannelSet, Layer
from compress.graph.fold import FOLDED
from compress.graph.layers import NORMS
from compress.graph.magnitude import output_axis
from compress.surgery import named_tensors
from device_profiles.errors import BadInput

Scores = Mapping[str, Float[np.ndarray, " channels"]]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Producer:
    """A layer that makes the channels of a prunable set.

    Attributes:
        layer: The layer.
        axis: Along which its outputs lie in its weight.
        channels: The set's channel that each of its outputs belongs to, -1 for another set's.
        width: Channels of the set.
        reference: Their mean folded norm when the method began.
    """

    layer: Layer
    axis: int
    channels: Int[np.ndarray, " outputs"] = field(repr=False)
    width: int
    reference: float = 1.0

    def rows(self, weight: Tensor) -> Float[Tensor, "outputs inputs"]:
        """Arrange the layer's weight, or anything of its shape, so that what makes one output is one row."""
        outputs = self.layer.out_channels
        if self.axis == 1:
            return by_output(weight, self.layer.groups).reshape(outputs, -1)
        return weight.reshape(-1, outputs, *weight.shape[1:]).transpose(0, 1).reshape(outputs, -1)  # gates of an LSTM

    def per_output(self, weight: Tensor) -> Float[Tensor, " outputs"]:
        """Sum what makes each output."""
        if weight.shape[self.axis] != self.layer.out_channels:
            return self.rows(weight).sum(1)
        return weight.sum(dim=[i for i in range(weight.ndim) if i != self.axis])  # without copying the weight

    def per_channel(self, values: Float[Tensor, " outputs"]) -> Float[Tensor, " channels"]:
        """Sum what belongs to each channel of the set."""
        if np.array_equal(self.channels, np.arange(self.width)):
            return values
        own = torch.from_numpy(np.flatnonzero(self.channels >= 0)).to(values.device)
        index = torch.from_numpy(self.channels[self.channels >= 0]).to(values.device)
        return values.new_zeros(self.width).index_add(0, index, values[own])


def by_output(weight: Tensor, transposed: int = 0) -> Tensor:
    """View a layer's weight with what makes one output in one place, so that it can be changed there.

    Args:
        weight: Of a layer or a normalisation.
        transposed: How many groups a transposed convolution has, which lie along its inputs; 0 for everything else.

    Returns:
        A view `[groups, outputs of each, ...]`; everything but a transposed convolution is one group.
    """
    return weight.unflatten(0, (transposed, -1)).transpose(1, 2) if transposed else weight[None]


def transposed_groups(part: nn.Module) -> int:
    """Return how many groups a transposed convolution has, 0 of everything else."""
    return part.groups if isinstance(part, nn.modules.conv._ConvTransposeNd) else 0


def weight_name(layer: Layer, tensors: Tensors) -> str:
    """Name a layer's weight; of one that is standardised whenever it is used, what it is computed from.

    Raises:
        BadInput: The module keeps it under another name.
    """
    name = layer.weight.removesuffix(FOLDED) + ".weight" if layer.weight.endswith(FOLDED) else layer.weight
    if name not in tensors:
        raise BadInput(
            f"the module has no {name!r}, which its network has; without weight_norm and spectral_norm "
            "(compress.surgery.plain removes them) it would"
        )
    return name


def folded_norm(producer: Producer, tensors: Tensors) -> Float[Tensor, " channels"]:
    """Return the magnitude of each channel that a layer makes, differentiable in its parameters.

    With a normalisation after the layer the L1 norm of the raw weights says nothing: the normalisation undoes any
    scale. So the norm is taken as if the normalisation were folded into the weights,

        ||W_j||_1 (|gamma_j| + |beta_j|) / sqrt(var_j + epsilon),

    and counts the offset beta like the scale gamma: a channel whose gamma alone is zero still emits a constant, and
    cutting it at a DECIG hinge changed a U-Net's error by 25 %; with the offset counted in, by 0.1 % (one run each).
    The running variance is a constant here; where the statistics are the sample's own, the weights' scale cancels and
    |gamma_j| + |beta_j| is left. Without a normalisation it is ||W_j||_1 + |b_j|.

    Args:
        producer: The layer.
        tensors: `named_tensors` of the module the graph was exported from.

    Raises:
        BadInput: The normalisation has no scale of its own that could shrink.
    """
    layer = producer.layer
    norm = producer.per_output(tensors[weight_name(layer, tensors)].abs())
    if layer.norm is None:
        return producer.per_channel(norm + tensors[layer.bias].abs() if layer.bias in tensors else norm)
    if layer.norm.scale not in tensors:
        raise BadInput(
            f"the normalisation after {layer.name!r} has no scale, so that its channels cannot shrink; make it affine "
            "before the network is exported (compress.affine.make_norms_affine_)"
        )
    reach = tensors[layer.norm.scale].abs()
    if layer.norm.bias in tensors:
        reach = reach + tensors[layer.norm.bias].abs()
    if layer.norm.var not in tensors:
        return producer.per_channel(reach)
    return producer.per_channel(norm * reach / torch.sqrt(tensors[layer.norm.var].detach() + layer.norm.epsilon))


def producers(graph: ChannelGraph, module: nn.Module) -> dict[str, tuple[Producer, ...]]:
    """List the layers that make each prunable set's channels, with their present mean folded norms."""
    tensors = named_tensors(module)
    found = {}
    for name, makers in makers_of(graph).items():
        with torch.no_grad():
            means = [float(folded_norm(each, tensors).mean()) or 1.0 for each in makers]  # 1 where all are zero
        found[name] = tuple(replace(each, reference=mean) for each, mean in zip(makers, means, strict=True))
    return found


def makers_of(graph: ChannelGraph) -> dict[str, tuple[Producer, ...]]:
    """List the layers that make each prunable set's channels, in the order in which they run."""
    prunable = {one.name: one for one in graph.prunable}
    found: dict[str, list[Producer]] = {}
    for layer in graph.layers:
        for name in layer.out_sets:
            if name in prunable:
                channels = _channels_of(graph, layer, prunable[name])
                producer = Producer(layer, output_axis(graph, layer), channels, prunable[name].width)
                found.setdefault(name, []).append(producer)
    return {name: tuple(makers) for name, makers in found.items()}


def set_norms(made_by: Mapping[str, tuple[Producer, ...]], module: nn.Module) -> Scores:
    """Return the folded norm of every channel of every set, over its mean when the method began.

    A set that several layers make together (a residual sum) has the mean over them.

    Args:
        made_by: From `producers`, before the method began.
        module: The module as it is now.
    """
    tensors = named_tensors(module)
    with torch.no_grad():
        return {
            name: torch.stack([folded_norm(each, tensors) / each.reference for each in makers]).mean(0).cpu().numpy()
            for name, makers in made_by.items()
        }


def _channels_of(graph: ChannelGraph, layer: Layer, one: ChannelSet) -> Int[np.ndarray, " outputs"]:
    channel_of = np.full(len(graph.class_of), -1, np.int64)
    channel_of[one.classes] = np.arange(one.width)
    output = graph.execution.tensors[layer.output]
    axis = 1 if layer.op in ("Conv", "ConvTranspose") else len(output.shape) - 1
    channels = np.full(layer.out_channels, -1, np.int64)
    for labels in output.along(axis):
        if labels.size == layer.out_channels:
            channels = np.maximum(channels, channel_of[graph.class_of[labels.reshape(-1)]])
    return channels


@dataclass(frozen=True)
class Scale:
    """The scale of a normalisation that multiplies channels of a set, wherever in the network it stands.

    Attributes:
        name: Of the scale's parameter.
        offset: Of the offset's parameter, if it has one.
        channels: The set's channel at every position, -1 for another set's.
        width: Channels of the set.
    """

    name: str
    offset: str | None
    channels: Int[np.ndarray, " positions"] = field(repr=False)
    width: int

    def positions(self, channels: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " positions"]:
        """Return where some channels of the set are."""
        return np.flatnonzero(np.isin(self.channels, channels))

    def magnitudes(self, tensors: Tensors) -> Float[np.ndarray, " channels"]:
        """Return the mean |gamma| of each channel of the set."""
        own = self.channels >= 0
        values = tensors[self.name].detach().abs().cpu().numpy()[own]
        counts = np.bincount(self.channels[own], minlength=self.width)
        return np.bincount(self.channels[own], values, self.width) / np.maximum(counts, 1)


def norm_scales(graph: ChannelGraph, module: nn.Module) -> dict[str, tuple[Scale, ...]]:
    """List the scales that multiply each prunable set's channels; sets without any are missing.

    Those at the entry of a residual block count as well as those that follow a layer directly, so that networks with
    the normalisation before the convolution need no layer that selects channels.
    """
    tensors = named_tensors(module)
    nodes = [node for node in graph.network.model.graph.node if node.op_type in NORMS]
    norms = {node.input[1]: next(iter(node.input[2:]), "") for node in nodes}
    found = {}
    for one in graph.prunable:
        scales = tuple(
            Scale(part.initializer, offset if (offset := norms[part.initializer]) in tensors else None,
                  part.channels.reshape(-1), one.width)
            for part in graph.slices(one.name)
            if part.initializer in norms and part.initializer in tensors and tensors[part.initializer].ndim == 1
        )  # fmt: skip
        if scales:
            found[one.name] = scales
    return found


def scale_magnitudes(scales: Mapping[str, tuple[Scale, ...]], module: nn.Module) -> Scores:
    """Return the |gamma| of every channel of every set; the mean where several normalisations scale it."""
    tensors = named_tensors(module)
    return {name: np.mean([each.magnitudes(tensors) for each in found], axis=0) for name, found in scales.items()}
