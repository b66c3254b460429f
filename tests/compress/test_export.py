from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.export import OPSET, deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.run import random_feeds, run
from compress.models.unet import UNet
from compress.surgery import named_tensors, prune_module, with_weights
from device_profiles.errors import UnsupportedModel
from runtimes.layers import weighted_layers

FOLDING_ERROR = 1e-5  # of the output's spread: folding a scale into a weight rounds once more


class Mixed(nn.Module):
    """Everything that folding touches: grouped and transposed convolutions, Linear on sequences, BatchNorm 1-d."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 8, 3, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.flat = nn.Linear(8 * 25, 6)
        self.norm1d = nn.BatchNorm1d(6)
        self.token = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.up(x)).flatten(1)
        return self.token(self.norm1d(self.flat(y))[:, None, :])


def lively_(module: nn.Module) -> nn.Module:
    """Give normalisations statistics and scales that a wrong folding would not survive."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.normal_(part.weight)
    return module


@pytest.mark.parametrize("module", [UNet(4), Mixed()], ids=["unet", "mixed"])
def test_the_deployable_network_computes_the_same_under_the_same_names(module: nn.Module) -> None:
    example = torch.randn(1, 3, 128, 128) if isinstance(module, UNet) else torch.randn(2, 4, 3, 3)
    network = export_module(lively_(module), example)
    shipped = deployable(network)
    feeds = random_feeds(network)
    (one,), (two,) = run(network.model, feeds).values(), run(shipped.model, feeds).values()
    assert np.abs(one - two).max() <= FOLDING_ERROR * np.ptp(one)
    assert not [node.op_type for node in shipped.model.graph.node if node.op_type == "BatchNormalization"]
    weights = [name.removesuffix(".weight") for name, p in module.named_parameters() if p.ndim > 1]
    assert sorted(layer.name for layer in weighted_layers(shipped.model)) == sorted(weights)
    assert {name.rsplit(".", 1)[1] for name in shipped.weights if name.count(".") > 0} <= {"weight", "bias"}


def test_the_exported_network_agrees_with_torch() -> None:
    module = lively_(UNet(4)).eval()
    network = export_module(module, torch.randn(1, 3, 128, 128))
    feeds = random_feeds(network)
    with torch.no_grad():
        wanted = module(torch.from_numpy(feeds["image"])).numpy()
    (got,) = run(network.model, feeds).values()
    assert np.abs(wanted - got).max() <= FOLDING_ERROR * np.ptp(wanted)


def test_export_keeps_the_training_mode_and_every_weight() -> None:
    module = Mixed()
    module.norm.eval()
    network = export_module(module, torch.randn(2, 4, 3, 3))
    assert module.training
    assert module.up.training
    assert not module.norm.training
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert {name: network.weights[name].shape for name in shapes} == shapes


def test_export_is_silent_and_leaves_no_paths(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        network = export_module(Mixed(), torch.randn(2, 4, 3, 3))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert next(entry.version for entry in network.model.opset_import) == OPSET
    content = network.model.SerializeToString()
    for word in (b".py", b"site-packages", b"/home", b"/root", b"test_export"):
        assert word not in content


def test_export_says_what_cannot_be_exported() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModel, match=r"torch.onnx cannot export Branches \(.*\); rewrite that part"):
        export_module(Branches(), torch.randn(2, 3))


def test_a_bound_of_relu6_stays_a_number_without_axes() -> None:
    layers = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6())
    network = export_module(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 16, 16))
    shipped = deployable(network)
    bounds = [node.input[1:] for node in shipped.model.graph.node if node.op_type == "Clip"]
    assert [shipped.weights[name].shape for names in bounds for name in names] == [(), (), (), ()]
    feeds = random_feeds(network)
    for name, expected in run(network.model, feeds).items():
        assert np.abs(run(shipped.model, feeds)[name] - expected).max() <= FOLDING_ERROR * np.ptp(expected)


def test_a_prelu_with_one_slope_is_shipped_as_a_leaky_relu() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(), nn.PReLU(4))
    exported = export_module(module, torch.randn(1, 3, 8, 8))
    shipped = deployable(exported)
    assert [node.op_type for node in shipped.model.graph.node] == ["Conv", "LeakyRelu", "PRelu"]
    feeds = random_feeds(exported)
    for name, values in run(exported.model, feeds).items():
        np.testing.assert_allclose(run(shipped.model, feeds)[name], values, rtol=FOLDING_ERROR)


@pytest.mark.parametrize("slopes", [1, 8])
def test_slopes_keep_their_names_so_that_trained_ones_can_take_their_place(slopes):
    shared = nn.PReLU(slopes)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), shared, nn.Conv2d(8, 8, 3), nn.PReLU(slopes), nn.Conv2d(8, 8, 1), shared)
    before = [slope.detach().clone() for slope in (module[1].weight, module[3].weight)]
    network = export_module(module, torch.randn(1, 3, 9, 9))
    assert torch.equal(module[1].weight, before[0])
    assert torch.equal(module[3].weight, before[1])
    with torch.no_grad():
        module[1].weight.uniform_(0.1, 0.2)
        module[3].weight.uniform_(0.6, 0.7)
    feed = torch.randn(1, 3, 9, 9)
    trained = with_weights(network, named_tensors(module))
    (result,) = run(trained.model, {trained.model.graph.input[0].name: feed.numpy()}).values()
    assert np.allclose(result, module(feed).detach().numpy(), atol=1e-5)
    graph = analyse(network)
    pruned = prune_module(module, graph, {one.name: np.arange(one.width // 2) for one in graph.prunable})
    assert pruned[3].weight.numel() == max(1, slopes // 2)


def test_a_module_with_its_channels_last_is_exported_like_any_other():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    plain = export_module(module, torch.randn(1, 3, 9, 9))
    module.to(memory_format=torch.channels_last)
    last = export_module(module, torch.randn(1, 3, 9, 9).to(memory_format=torch.channels_last))
    assert [node.op_type for node in last.model.graph.node] == [node.op_type for node in plain.model.graph.node]
    assert [one.width for one in analyse(last).prunable] == [8]
    assert not module[0].weight.is_contiguous()
