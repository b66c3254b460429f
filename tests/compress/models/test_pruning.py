"""Every bundled network is exported, analysed and pruned, by both routes and with both proofs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from compress.export import deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.graph.count import macs, parameters
from compress.graph.surgery import prune
from compress.models import MODELS, build, find
from compress.surgery import prune_module

SMALL: dict[str, tuple[Mapping[str, int], int]] = {  # name -> arguments and pixels that keep its kinds of layers
    "unet-16": ({"width": 4, "depth": 4}, 16),
    "cyclegan-resnet": ({"width": 4, "blocks": 2}, 16),
    "patchgan": ({"width": 4}, 32),
    "srresnet": ({"width": 8, "blocks": 2}, 8),
    "dncnn": ({"width": 8, "depth": 4}, 8),
    "resnet-20": ({"width": 8, "depth": 8}, 8),
    "resnet-164": ({"width": 4, "depth": 11}, 8),
    "se-resnet-20": ({"width": 8, "depth": 8}, 8),
    "preresnet-56": ({"width": 8, "depth": 8}, 8),
    "preresnet-164": ({"width": 4, "depth": 11}, 8),
    "vggnet-19": ({"width": 4, "depth": 11}, 16),
    "resnet-18": ({"width": 4, "classes": 10}, 32),
    "vgg-16": ({"width": 4, "depth": 11, "hidden": 16, "pixels": 32}, 32),
    "mobilenetv1": ({"width": 4}, 32),
    "mobilenetv2-tiny": ({"width": 8}, 32),
    "shufflenetv1-g3": ({"width": 12, "groups": 2}, 32),
}


def test_every_factory_is_tried() -> None:
    tried = {find(name).factory for name in SMALL}
    assert tried == {model.factory for model in MODELS.values()}


@pytest.mark.parametrize("name", SMALL)
def test_half_of_the_channels_can_be_removed(name: str) -> None:
    arguments, pixels = SMALL[name]
    torch.manual_seed(0)
    module = build(name, **arguments)
    shapes = [(*shape[:2], pixels, pixels) for shape in find(name).input_shapes]
    network = export_module(module, [torch.randn(shape) for shape in shapes])
    assert parameters(network) == sum(parameter.numel() for parameter in module.parameters())
    graph = analyse(network)
    assert not [one.name for one in graph.sets.values() if one.frozen]
    generator = np.random.default_rng(0)
    keep = choose(graph, {one.name: generator.random(one.width) for one in graph.prunable}, 0.5)
    small = prune_module(module, graph, keep)  # proves the pruning and compares the module with the network
    pruned = prune(network, keep)
    assert pruned.proof is not None
    assert pruned.proof.removed_channels > 0
    assert parameters(pruned) == sum(parameter.numel() for parameter in small.parameters())
    assert macs(deployable(pruned)) == macs(pruned) < macs(network)
