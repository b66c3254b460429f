from __future__ import annotations

import pytest
import torch

from compress.models import MODELS, build, find, import_callable
from compress.models.preresnet import PreBlock
from compress.models.residual import BasicBlock, Bottleneck, SqueezeExcite
from compress.models.resnet_generator import NORMS, ResNetGenerator
from compress.models.shufflenet_v1 import shuffle
from compress.models.srresnet import STEPS, SrResNet
from compress.models.unet import UNet
from compress.models.vgg import VggNet
from device_profiles.errors import BadInput

IMAGES = ("unet-16", "unet-32", "unet-64", "cyclegan-resnet", "dncnn")  # the output is as large as the input


@pytest.mark.parametrize("name", MODELS)
def test_bundled_networks_take_their_own_input_shapes(name):
    shapes = find(name).input_shapes
    with torch.device("meta"):
        outputs = build(name).eval()(*(torch.empty(shape) for shape in shapes))
    wanted = {"patchgan": (1, 1, 14, 14), "srresnet": (1, 3, 512, 512)} | dict.fromkeys(IMAGES, shapes[0])
    classes = find(name).arguments.get("classes", 10 if shapes[0][-1] == 32 else 1000)
    assert outputs.shape == wanted.get(name, (1, classes))


@pytest.mark.parametrize("name", [name for name in MODELS if "width" in find(name).arguments])
def test_bundled_networks_have_a_quarter_of_the_width(name):
    shapes = find(name).input_shapes
    with torch.device("meta"):
        whole = build(name)
        quarter = build(name, width=find(name).arguments["width"] // 4)
        assert quarter.eval()(*(torch.empty(shape) for shape in shapes)).numel() > 0
    assert sum(p.numel() for p in quarter.parameters()) < 0.6 * sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "pixels"),
    [
        ("resnet-20", {}, 8),
        ("resnet-164", {"depth": 11}, 8),
        ("preresnet-56", {"depth": 8}, 8),
        ("se-resnet-20", {"depth": 8}, 28),
        ("vggnet-19", {"depth": 11, "stages": 4}, 8),
        ("vggnet-19", {"depth": 11}, 28),
        ("mobilenetv1", {"stem_stride": 1}, 28),
        ("mobilenetv2-tiny", {"stem_stride": 1}, 8),
        ("shufflenetv1-g3", {"small": True}, 28),
    ],
)
def test_classifiers_take_small_grey_pictures(name, arguments, pixels):
    torch.manual_seed(0)
    module = build(name, **arguments, width=8, classes=7, in_channels=1).eval()
    logits = module(torch.randn(2, 1, pixels, pixels))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


def test_unet_keeps_the_resolution_and_stays_within_its_range():
    outputs = UNet(4, depth=4)(torch.randn(2, 3, 32, 48))
    assert outputs.shape == (2, 3, 32, 48)
    assert outputs.abs().max() <= 1


@pytest.mark.parametrize("scale", STEPS)
def test_srresnet_enlarges_by_its_scale(scale):
    assert SrResNet(4, blocks=1, scale=scale)(torch.randn(1, 3, 6, 8)).shape == (1, 3, 6 * scale, 8 * scale)


def test_shuffling_deals_each_groups_channels_out_to_all_groups():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(shuffle(x, 1), x)


def test_squeeze_and_excitation_scales_channels_by_what_their_means_say():
    torch.manual_seed(0)
    gate = SqueezeExcite(8, 4)
    x = torch.randn(2, 8, 3, 3)
    hidden = (x.mean(dim=(2, 3)) @ gate.squeeze.weight.T).clamp(min=0)
    wanted = x * torch.sigmoid(hidden @ gate.excite.weight.T).reshape(2, 8, 1, 1)
    assert torch.allclose(gate(x), wanted)


@pytest.mark.parametrize("block", [BasicBlock(8, 8), Bottleneck(8, 2), PreBlock(8, 2, 1, bottleneck=True)])
def test_a_residual_block_that_computes_nothing_returns_its_input(block):
    last = block.convs[-1] if isinstance(block, PreBlock) else block.conv3 if block.expansion == 4 else block.conv2
    torch.nn.init.zeros_(last.weight)
    x = torch.rand(1, 8, 4, 4)
    assert torch.equal(block.eval()(x), x)


def test_a_late_shortcut_starts_after_the_first_norm_and_relu():
    block = PreBlock(8, 8, 1, bottleneck=False, late_shortcut=True).eval()
    torch.nn.init.zeros_(block.convs[-1].weight)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), torch.relu(block.norms[0](x)))


def test_dncnn_subtracts_what_it_predicts():
    module = build("dncnn", width=4, depth=3).eval()
    torch.nn.init.zeros_(module.layers[-1].weight)
    noisy = torch.randn(1, 1, 8, 8)
    assert torch.equal(module(noisy), noisy)


@pytest.mark.parametrize("norm", NORMS)
def test_the_generator_starts_from_the_published_distribution(norm):
    torch.manual_seed(0)
    outer = ResNetGenerator(16, blocks=1, norm=norm)
    convolutions = [part for part in outer.modules() if hasattr(part, "kernel_size") and hasattr(part, "weight")]
    weights = torch.cat([part.weight.flatten() for part in convolutions])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert all(part.bias is None or not part.bias.any() for part in convolutions)


def test_he_initialisation_keeps_the_size_of_activations():
    torch.manual_seed(0)
    features = VggNet(depth=11, width=32).features
    x = torch.randn(4, 3, 32, 32)
    for part in features:
        if isinstance(part, torch.nn.Conv2d):
            wanted = (2 / (part.weight[:, 0].numel())) ** 0.5
            assert part.weight.std().item() == pytest.approx(wanted, rel=0.05)
    assert torch.isfinite(features(x)).all()


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("resnet-18", ("conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.bias")),
        ("resnet-50", ("layer1.0.downsample.0.weight", "layer3.5.conv3.weight", "fc.weight")),
        ("vgg-16", ("features.28.weight", "classifier.0.weight", "classifier.6.bias")),
        ("mobilenetv2", ("features.1.conv.0.0.weight", "features.17.conv.3.weight", "classifier.1.weight")),
        ("cyclegan-resnet", ("model.1.weight", "model.10.conv_block.5.bias", "model.19.weight", "model.26.bias")),
    ],
)
def test_published_weights_find_their_names(name, tensors):
    with torch.device("meta"):
        assert set(tensors) <= build(name).state_dict().keys()


def test_arguments_override_a_bundled_network():
    assert build("unet-32", width=8).down[0].conv.out_channels == 8


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(BadInput, match=r"model \(='unet-48'\) is not a bundled network; bundled are unet-16"):
        build("unet-48")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dncnn", {"depth": 1}, r"depth \(=1\) must be at least 2"),
        ("srresnet", {"scale": 5}, r"scale \(=5\) must be one of 1, 2, 3, 4, 8"),
        ("resnet-20", {"depth": 21}, r"depth \(=21\) must be 6 n \+ 2 for basic blocks; choose 20"),
        ("resnet-164", {"depth": 4}, r"depth \(=4\) must be 9 n \+ 2 for bottleneck blocks; choose 11"),
        ("preresnet-56", {"depth": 2}, r"depth \(=2\) must be 6 n \+ 2 for basic blocks; choose 8"),
        ("resnet-50", {"depth": 56}, r"depth \(=56\) must be one of 18, 34, 50, 101, 152"),
        ("vggnet-19", {"depth": 12}, r"depth \(=12\) must be one of 11, 13, 16, 19"),
        ("vggnet-19", {"stages": 6}, r"stages \(=6\) must be from 1 to 5"),
        ("vgg-16", {"pixels": 100}, r"pixels \(=100\) must be a multiple of 32"),
        ("shufflenetv1-g3", {"groups": 5}, r"groups \(=5\) must be one of 1, 2, 3, 4, 8"),
    ],
)
def test_sizes_that_no_network_has_are_refused(name, arguments, message):
    with torch.device("meta"), pytest.raises(BadInput, match=message):
        build(name, **arguments)


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
