"""Give normalisations a scale and an offset per channel, which penalties need to shrink a channel.

CycleGAN's generators normalise each image by itself without any parameters (`nn.InstanceNorm2d` as torch makes it),
which undoes whatever a penalty does to the convolution before. GAN Slimming (Wang et al., ECCV 2020) makes the
normalisations affine first.
"""

from __future__ import annotations

import torch
from torch import nn


def make_norms_affine_(module: nn.Module) -> int:
    """Give every InstanceNorm a scale of one and an offset of zero, which change nothing, in place.

    Do this before the network is exported: the channel graph has to know them.

    Args:
        module: The network.

    Returns:
        How many normalisations had none.
    """
    tensors = [*module.parameters(), *module.buffers()]
    like = tensors[0] if tensors else torch.zeros(())
    bare = [
        part for part in module.modules() if isinstance(part, nn.modules.instancenorm._InstanceNorm) and not part.affine
    ]
    for part in bare:
        part.affine = True
        part.weight = nn.Parameter(torch.ones(part.num_features, device=like.device, dtype=like.dtype))
        part.bias = nn.Parameter(torch.zeros(part.num_features, device=like.device, dtype=like.dtype))
    return len(bare)
