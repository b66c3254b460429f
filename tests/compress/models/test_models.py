from __future__ import annotations

import pytest
import torch

from compress.export import export_module
from compress.graph.count import macs
from compress.models import MODELS, build, find, import_callable
from compress.models.unet import UNet
from device_profiles.errors import BadInput


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [("unet-16", 2_617_507), ("unet-32", 10_461_507), ("unet-64", 41_828_995), ("patchgan", 2_768_705)],
)
def test_bundled_networks_have_the_published_number_of_parameters(name, published):
    assert parameters(build(name)) == published


def test_unet_16_has_the_published_macs_at_256_pixels():
    network = export_module(build("unet-16"), torch.zeros(1, 3, 256, 256))
    assert macs(network) == pytest.approx(0.405e9, rel=0.002)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "unet-64"])
def test_bundled_networks_take_their_own_input_shapes(name):
    outputs = build(name).eval()(*(torch.zeros(shape) for shape in find(name).input_shapes))
    assert torch.isfinite(outputs).all()


def test_unet_keeps_the_resolution_and_stays_within_its_range():
    outputs = UNet(4, depth=4)(torch.randn(2, 3, 32, 48))
    assert outputs.shape == (2, 3, 32, 48)
    assert outputs.abs().max() <= 1


def test_arguments_override_a_bundled_network():
    assert build("unet-32", width=8).down[0].conv.out_channels == 8


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(BadInput, match=r"model \(='unet-48'\) is not a bundled network; bundled are unet-16"):
        build("unet-48")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("compress.models.unet", "must look like package.module:callable"),
        (":UNet", "must look like package.module:callable"),
        ("nowhere.to.be.found:UNet", "no module named 'nowhere'"),
        ("compress.models.unet:Net", "compress.models.unet has no callable 'Net'"),
    ],
)
def test_wrong_references_are_refused(reference, message):
    with pytest.raises(BadInput, match=message):
        import_callable(reference)


def test_a_reference_imports_what_it_names():
    assert import_callable("compress.models.unet:UNet") is UNet
