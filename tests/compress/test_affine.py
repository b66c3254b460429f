from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.affine import make_norms_affine_
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.scores import producers
from device_profiles.errors import BadInput

IMAGE = torch.zeros(1, 3, 8, 8)


def generator(**norm: bool) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, **norm), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("stored", [False, True])
def test_an_affine_norm_computes_what_the_bare_one_did(stored):
    module = generator(track_running_stats=stored)
    image = torch.randn(2, 3, 8, 8)
    module(image)  # which fills the stored statistics
    before = module.eval()(image)
    assert make_norms_affine_(module) == 1
    assert torch.equal(module(image), before)
    assert make_norms_affine_(module) == 0


def test_channels_of_a_norm_without_a_scale_cannot_be_weighed_until_it_has_one():
    module = generator()
    with pytest.raises(BadInput, match="make it affine"):
        producers(analyse(export_module(module, IMAGE)), module)
    make_norms_affine_(module)
    made_by = producers(analyse(export_module(module, IMAGE)), module)
    assert [each.layer.norm.scale for each in made_by["0"]] == ["1.weight"]
