"""Constants of removed channels: absorbed exactly where no border is padded, with a measured error where one is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.absorb import absorb_, border_error
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import Keep
from compress.surgery import prune_module
from compress.train.judge import run_in_chunks

IMAGE = torch.zeros(1, 1, 8, 8)
INPUTS = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def planted(padding: int, **last: bool) -> tuple[nn.Module, Keep]:
    """Make three convolutions of which the first has two channels of scale nearly zero that emit a constant."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 6, 3, padding=padding), nn.BatchNorm2d(6), nn.ReLU()]
    layers += [nn.Conv2d(6, 5, 3, padding=padding, bias=False), nn.BatchNorm2d(5), nn.ReLU()]
    layers += [nn.Conv2d(5, 2, 3, padding=padding, **last)]
    module = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for norm in (module[1], module[4]):
            norm.weight[:2] = 1e-6
            norm.bias[:2] = 2.0
    return module, {"0": np.arange(2, 6), "3": np.arange(2, 5)}


def test_constants_are_absorbed_exactly_where_no_border_is_padded():
    module, keep = planted(padding=0)
    graph = analyse(export_module(module, IMAGE))
    wanted = run_in_chunks(module, INPUTS)
    dropped = run_in_chunks(prune_module(module, graph, keep), INPUTS)
    assert (dropped - wanted).abs().max() > 0.1
    assert border_error(module, graph, keep, INPUTS) < 1e-5
    found = absorb_(module, graph, keep)
    assert (found.channels, found.nowhere) == (4, ())
    assert (run_in_chunks(prune_module(module, graph, keep), INPUTS) - wanted).abs().max() < 1e-5


def test_constants_are_absorbed_exactly_inside_a_padded_picture_and_the_border_error_is_measured():
    module, keep = planted(padding=1)
    graph = analyse(export_module(module, IMAGE))
    wanted = run_in_chunks(module, INPUTS)
    error = border_error(module, graph, keep, INPUTS)
    absorb_(module, graph, keep)
    change = run_in_chunks(prune_module(module, graph, keep), INPUTS) - wanted
    assert change[:, :, 2:-2, 2:-2].abs().max() < 1e-5
    assert error == pytest.approx(float(change.abs().max() / (wanted.max() - wanted.min())), rel=1e-3)
    assert error > 0.01


def test_a_layer_with_no_place_for_a_constant_is_named():
    module, keep = planted(padding=0, bias=False)
    graph = analyse(export_module(module, IMAGE))
    assert absorb_(module, graph, keep).nowhere == ("6",)


def test_a_transposed_convolution_absorbs_what_a_constant_adds_on_average():
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2)
    ).eval()
    with torch.no_grad():
        module[1].weight[0], module[1].bias[0] = 0.0, 1.0
    graph, keep = analyse(export_module(module, IMAGE)), {"0": np.arange(1, 4)}
    wanted = run_in_chunks(module, INPUTS)
    absorb_(module, graph, keep)
    change = run_in_chunks(prune_module(module, graph, keep), INPUTS) - wanted
    assert change.abs().max() > 0.01
    assert change.mean((0, 2, 3)).abs().max() < 1e-5


def test_a_norm_of_each_picture_takes_a_constant_away_by_itself():
    torch.manual_seed(3)
    norms = [nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm2d(3, affine=True)]
    module = nn.Sequential(nn.Conv2d(1, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), norms[1]).eval()
    with torch.no_grad():
        norms[0].weight[0], norms[0].bias[0] = 0.0, 1.0
    graph, keep = analyse(export_module(module, IMAGE)), {"0": np.arange(1, 4)}
    wanted = run_in_chunks(module, INPUTS)
    found = absorb_(module, graph, keep)
    assert (found.channels, found.nowhere) == (1, ())
    assert (run_in_chunks(prune_module(module, graph, keep), INPUTS) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("head", ["mean", "flat"])
def test_a_head_absorbs_constants_exactly_behind_a_pooling_or_a_flattening(head):
    torch.manual_seed(4)
    pooling, inputs = {"mean": (nn.AdaptiveAvgPool2d(1), 4), "flat": (nn.MaxPool2d(2), 64)}[head]
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    module = nn.Sequential(*body, pooling, nn.Flatten(), nn.Linear(inputs, 3)).eval()
    with torch.no_grad():
        module[1].weight[1], module[1].bias[1] = 0.0, 1.0
    graph, keep = analyse(export_module(module, IMAGE)), {"0": np.array([0, 2, 3])}
    wanted = run_in_chunks(module, INPUTS)
    assert absorb_(module, graph, keep).channels == 1
    assert (run_in_chunks(prune_module(module, graph, keep), INPUTS) - wanted).abs().max() < 1e-5
