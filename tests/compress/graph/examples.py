"""Small networks the graph tests share."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Network
from compress.models.unet import UNet


@cache
def unet_network() -> Network:
    torch.manual_seed(0)
    return export_module(UNet(4), torch.randn(1, 3, 128, 128))


@cache
def unet_graph() -> ChannelGraph:
    return analyse(unet_network())


def random_keep(graph: ChannelGraph, seed: int = 0, share: float = 0.5) -> Keep:
    """Keep a random part of every set; uneven from set to set."""
    generator = np.random.default_rng(seed)
    keep = {}
    for one in graph.prunable:
        count = max(1, int(one.width * share * generator.uniform(0.6, 1.4)))
        keep[one.name] = np.sort(generator.permutation(one.width)[: min(count, one.width)])
    return keep
