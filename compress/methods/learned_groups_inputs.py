"""Which inputs the groups of a layer go on reading: those that their filters make most of."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def drop_inputs_(mask: Bool[Tensor, "groups inputs"], weight: Float[Tensor, "out inputs h w"], dropped: int) -> None:
    """Drop the inputs with the smallest summed magnitude from each group, until so many are dropped."""
    for row, values in zip(mask, _magnitudes(weight, len(mask)), strict=True):
        more = dropped - int((~row).sum())
        if more > 0:
            row[values.masked_fill(~row, torch.inf).argsort(stable=True)[:more]] = False


def deal_inputs_(
    mask: Bool[Tensor, "groups inputs"], weight: Float[Tensor, "out inputs h w"], dropped: int, blocks: int
) -> None:
    """Drop groups from every input, one at a time, until so many are dropped; in the end each input has one left.

    Each time every group loses equally many inputs of each block, those with the smallest summed magnitude together.

    Args:
        mask: Which inputs each group reads; each input is read by equally many.
        weight: Of the layer.
        dropped: By how many groups no input is to be read.
        blocks: In how many blocks of consecutive inputs; each must hold a multiple of the groups.
    """
    groups, inputs = mask.shape
    magnitudes = _magnitudes(weight, groups).masked_fill(~mask, torch.inf).double().cpu()
    for _ in range(groups - int(mask[:, 0].sum()), dropped):
        for block in torch.arange(inputs).chunk(blocks):
            share = len(block) // groups
            _, losing = linear_sum_assignment(magnitudes[:, block].T.repeat_interleave(share, 1).numpy())
            group = torch.from_numpy(losing // share)
            magnitudes[group, block] = torch.inf
            mask[group.to(mask.device), block.to(mask.device)] = False


def mask_(weight: Float[Tensor, "out inputs h w"], mask: Bool[Tensor, "groups inputs"]) -> None:
    """Zero the weights of inputs that a filter's group does not read."""
    with torch.no_grad():
        weight.mul_(mask.repeat_interleave(len(weight) // len(mask), 0)[:, :, None, None])


def inputs_of(mask: Bool[Tensor, "groups inputs"]) -> Int[Tensor, "groups left"]:
    """Return which inputs each group reads, in ascending order."""
    return torch.stack([torch.nonzero(row).flatten() for row in mask])


def _magnitudes(weight: Float[Tensor, "out inputs h w"], groups: int) -> Float[Tensor, "groups inputs"]:
    """Return how much each group's filters make of each input, summed."""
    return weight.detach().abs().sum((2, 3)).unflatten(0, (groups, -1)).sum(1)
