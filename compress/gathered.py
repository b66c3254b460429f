"""Gathered group convolutions: what takes the place of a convolution whose groups of filters read some inputs only."""

from __future__ import annotations

from collections.abc import Mapping

import pydantic
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from device_profiles.errors import BadInput


class Grouping(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How a gathered convolution differs from the dense one that it took the place of, for its record.

    Attributes:
        groups: Groups of filters.
        gathers: Whether it gathers its inputs; without, they come in the order in which its groups read them.
    """

    groups: int = pydantic.Field(gt=0)
    gathers: bool


class GatheredConv2d(nn.Conv2d):
    """A group convolution that first gathers its inputs, each as often as groups read it.

    Args:
        dense: The convolution that it takes the place of; only its settings are read.
        channels: How many inputs all groups read together, and its outputs.
        grouping: Its groups, and whether they gather.
    """

    def __init__(self, dense: nn.Conv2d, channels: tuple[int, int], grouping: Grouping) -> None:
        super().__init__(
            *channels,
            dense.kernel_size,
            dense.stride,
            dense.padding,
            dense.dilation,
            grouping.groups,
            bias=dense.bias is not None,
            padding_mode=dense.padding_mode,
            device=dense.weight.device,
            dtype=dense.weight.dtype,
        )
        index = torch.zeros(channels[0], dtype=torch.int64, device=dense.weight.device)
        self.register_buffer("index", index if grouping.gathers else None)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Gather, then convolve by groups."""
        return super().forward(x if self.index is None else x.index_select(1, self.index))


def gathered(dense: nn.Conv2d, inputs: Int[Tensor, "groups inputs"]) -> GatheredConv2d:
    """Return the gathered form of a convolution.

    Args:
        dense: The convolution, one group. Its weights of inputs that a filter's group does not read count as zero.
        inputs: Which inputs each group reads. Where these are all inputs once and in order, nothing is gathered.
    """
    inputs = inputs.to(dense.weight.device)
    groups, index = len(inputs), inputs.reshape(-1)
    in_order = torch.equal(index, torch.arange(dense.in_channels, device=index.device))
    made = GatheredConv2d(dense, (len(index), dense.out_channels), Grouping(groups=groups, gathers=not in_order))
    blocks = dense.weight.detach().unflatten(0, (groups, -1))
    with torch.no_grad():
        made.weight.copy_(torch.cat([block[:, own] for block, own in zip(blocks, inputs, strict=True)]))
        if dense.bias is not None:
            made.bias.copy_(dense.bias)
        if not in_order:
            made.index.copy_(index)
    return made.train(dense.training)


def groupings_of(module: nn.Module) -> dict[str, Grouping]:
    """Return the gathered convolutions of a module by name, for its record."""
    return {
        name: Grouping(groups=part.groups, gathers=part.index is not None)
        for name, part in module.named_modules()
        if isinstance(part, GatheredConv2d)
    }


def place_groupings_(module: nn.Module, groupings: Mapping[str, Grouping]) -> None:
    """Put gathered convolutions in the place of dense ones; their tensors wait for others of any size, in place.

    Raises:
        BadInput: The module has no convolution of such a name.
    """
    convolutions = {name: part for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}
    for name, grouping in groupings.items():
        if name not in convolutions:
            raise BadInput(f"{type(module).__name__} has no convolution {name!r} to group; build the same network")
        dense = convolutions[name]
        sizes = (2 * grouping.groups, grouping.groups)  # with one input a group, groups would count as channels
        module.set_submodule(name, GatheredConv2d(dense, sizes, grouping).train(dense.training))


def place_alike_(module: nn.Module, like: nn.Module) -> None:
    """Put gathered convolutions in the place of dense ones, as another module has them, in place.

    Args:
        module: A network like the one that `like` was made from; its own weights stay.
        like: With gathered convolutions, before channels were removed.
    """
    for name, part in like.named_modules():
        if isinstance(part, GatheredConv2d):
            index = torch.arange(part.in_channels) if part.index is None else part.index
            module.set_submodule(name, gathered(module.get_submodule(name), index.reshape(part.groups, -1)))
