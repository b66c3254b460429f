"""One small module per pattern of coupled channels that deployed networks hold."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from tests.compress.graph import image_patterns as image
from tests.compress.graph import sequence_patterns as sequence
from tests.compress.graph import weight_patterns as weight

PATTERNS: dict[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "Residual": (image.Residual, (image.IMAGE,)),
    "Dense": (image.Dense, (image.IMAGE,)),
    "SplitChunk": (image.SplitChunk, (image.IMAGE,)),
    "Depthwise": (image.Depthwise, (image.IMAGE,)),
    "Grouped": (image.Grouped, (image.IMAGE,)),
    "Transposed": (image.Transposed, (image.IMAGE,)),
    "TransposedGroups": (image.TransposedGroups, (image.IMAGE,)),
    "ShuffleV1": (image.ShuffleV1, (image.IMAGE,)),
    "ShuffleUneven": (image.ShuffleUneven, (image.IMAGE,)),
    "ShuffleV2": (image.ShuffleV2, (image.IMAGE,)),
    "PixelShuffleOp": (image.PixelShuffleOp, (image.IMAGE,)),
    "PixelShuffleHand": (image.PixelShuffleHand, (image.IMAGE,)),
    "PixelUnshuffle": (image.PixelUnshuffle, (image.IMAGE,)),
    "SpaceToDepthHand": (image.SpaceToDepthHand, (image.IMAGE,)),
    "FlattenLinear": (image.FlattenLinear, (image.IMAGE,)),
    "PermuteFlatten": (image.PermuteFlatten, (image.IMAGE,)),
    "SqueezeExcite": (image.SqueezeExcite, (image.IMAGE,)),
    "LayerScale": (image.LayerScale, (image.IMAGE,)),
    "Norms": (weight.Norms, (image.IMAGE,)),
    "StandardisedWeights": (weight.StandardisedWeights, (image.IMAGE,)),
    "BatchStandardisedWeights": (weight.BatchStandardisedWeights, (image.IMAGE,)),
    "ParametrisedWeights": (weight.ParametrisedWeights, (image.IMAGE,)),
    "Shared": (image.Shared, (image.IMAGE,)),
    "Einsum": (sequence.Einsum, ((2, 5, 8),)),
    "Attention": (sequence.Attention, ((2, 5, 8),)),
    "AttentionHand": (sequence.AttentionHand, ((2, 5, 8),)),
    "GroupedQuery": (sequence.GroupedQuery, ((2, 5, 8),)),
    "Rotary": (sequence.Rotary, ((2, 5, 8),)),
    "RotaryPairs": (sequence.RotaryPairs, ((2, 5, 8),)),
    "StridedHeads": (sequence.StridedHeads, ((2, 5, 8),)),
    "LinearAttention": (sequence.LinearAttention, ((2, 3, 8, 8),)),
    "TokenMix": (sequence.TokenMix, ((2, 5, 8),)),
    "Swin": (sequence.Swin, ((2, 8, 8, 8),)),
    "Gated": (image.Gated, (image.IMAGE,)),
    "ResizeFlip": (image.ResizeFlip, (image.IMAGE,)),
    "PadChannels": (image.PadChannels, (image.IMAGE,)),
    "IndexPerm": (image.IndexPerm, (image.IMAGE,)),
    "IndexGrid": (image.IndexGrid, (image.IMAGE,)),
    "Repeat": (image.Repeat, (image.IMAGE,)),
    "Conv1d": (image.Conv1d, ((2, 3, 20),)),
    "Conv3d": (image.Conv3d, ((2, 3, 5, 6, 7),)),
    "TwoInOut": (image.TwoInOut, (image.IMAGE, image.IMAGE)),
    "Recurrent": (sequence.Recurrent, ((2, 6, 8),)),
    "ChannelMean": (image.ChannelMean, (image.IMAGE,)),
    "BlurPool": (image.BlurPool, (image.IMAGE,)),
    "Tokens": (sequence.Tokens, ((2, 5),)),
}


def example(name: str) -> tuple[Tensor, ...]:
    if name == "Tokens":
        return (torch.randint(0, 11, (2, 5)),)
    return tuple(torch.randn(shape) for shape in PATTERNS[name][1])


def build(name: str) -> nn.Module:
    """Build a pattern with random scales and statistics: ones and zeros would hide mistakes."""
    torch.manual_seed(0)
    module = PATTERNS[name][0]()
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for part in module.modules():
        if isinstance(getattr(part, "running_mean", None), Tensor):
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module


@cache
def graph_of(name: str) -> ChannelGraph:
    return analyse(export_module(build(name), example(name)))
