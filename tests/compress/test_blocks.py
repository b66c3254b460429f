from __future__ import annotations

import copy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.blocks import refused_blocks, remove_module_blocks
from compress.export import deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.block_surgery import remove_blocks
from compress.graph.blocks import blocks
from compress.graph.channels import ChannelGraph
from compress.graph.network import Network
from compress.graph.proof import TOLERANCE
from compress.model_folder import Origin, load_folder, read_record, save_folder
from compress.models.mobilenet_v2 import MobileNetV2
from compress.stubs import Stub, StubShape, Window, blank_stubs, place_stubs_, stubs_of
from compress.surgery import prune_module
from device_profiles.errors import BadInput, ParityFailed
from tests.compress.graph import block_patterns as pattern
from tests.compress.graph.block_patterns import NETWORKS, build, graph_of
from tests.compress.graph.examples import random_keep
from tests.compress.graph.test_blocks import FOUND, SINGLE

# Which modules give way to stubs; the last one holds the constant.
STUBS = {
    ("basic", "3"): ["3.conv1", "3.bn1", "3.conv2", "3.bn2"],
    ("inverted", "1.conv"): ["1.conv"],
    ("excited", "2"): ["2.reduce", "2.middle", "2.expand", "2.last"],
    ("convnext", "2"): ["2.depthwise", "2.norm", "2.wide", "2.narrow", "2.drop"],
    ("encoder", "1.attention"): ["1.norm1", "1.attention"],
    ("nested", "2"): ["2.enter", "2.inner", "2.leave"],
}


def operators(network: Network) -> Counter[str]:
    return Counter(node.op_type for node in network.model.graph.node)


def example(name: str) -> Tensor:
    return torch.randn(NETWORKS[name][1], generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("name", "block"), SINGLE)
def test_a_module_loses_a_block_as_its_network_does(name: str, block: str) -> None:
    smaller = remove_module_blocks(build(name), graph_of(name), [block])  # compares the two
    shipped = deployable(export_module(smaller, example(name)))
    assert operators(shipped) == operators(deployable(remove_blocks(graph_of(name), [block])))


@pytest.mark.parametrize(("name", "block"), STUBS)
def test_the_largest_parts_that_go_become_stubs(name: str, block: str) -> None:
    stubs = stubs_of(remove_module_blocks(build(name), graph_of(name), [block]))
    assert list(stubs) == STUBS[name, block]
    *before, last = stubs.values()
    assert last.constant is not None
    assert all(stub.constant is None for stub in before)


@pytest.mark.parametrize("name", [name for name, found in FOUND.items() if len(found) > 1])
def test_a_module_loses_all_blocks_and_the_rest_is_pruned(name: str) -> None:
    smaller = remove_module_blocks(build(name), graph_of(name), list(FOUND[name]))
    rest = analyse(export_module(smaller, example(name)))
    assert not blocks(rest)
    prune_module(smaller, rest, random_keep(rest))  # proves itself


def test_the_original_module_is_left_as_it_was() -> None:
    module = build("basic")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    remove_module_blocks(module, graph_of("basic"), ["3"])
    assert not stubs_of(module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_weights_trained_since_the_export_decide_on_the_constant() -> None:
    torch.manual_seed(1)
    module = pattern.lively_(pattern.image_network(pattern.Inverted(6)))
    graph = analyse(export_module(module, example("inverted")))
    pattern.lively_(module)
    with torch.no_grad():
        module[2].conv[4][1].bias += 1
    remove_module_blocks(module, graph, ["2.conv"])  # compares with the network under the new weights


def test_a_module_without_a_block_trains_on() -> None:
    smaller = remove_module_blocks(build("basic"), graph_of("basic"), ["3"]).train()
    optimizer = torch.optim.SGD(smaller.parameters(), lr=0.1)
    before = smaller[3].bn2.constant.detach().clone()
    smaller(torch.randn(4, 3, 12, 16)).square().mean().backward()  # of another size than it was exported with
    optimizer.step()
    assert not torch.equal(smaller[3].bn2.constant, before)
    again = analyse(export_module(smaller, example("basic")))
    assert [block.name for block in blocks(again)] == ["2", "4"]


def test_a_constant_that_differs_at_the_borders_fits_its_size_only() -> None:
    graph = analyse(graph_of("padded").network, frozen={"2.two": "asked for"})
    smaller = remove_module_blocks(build("padded"), graph, ["2"])
    assert stubs_of(smaller)["2.three"].constant == 4
    with pytest.raises(RuntimeError, match="must match"):
        smaller(torch.randn(2, 3, 12, 16))


def test_a_constant_of_zeros_is_no_parameter() -> None:
    module = pattern.lively_(pattern.image_network(pattern.Basic(6, 6)))
    nn.init.zeros_(module[2].bn2.bias)
    nn.init.zeros_(module[2].bn2.running_mean)
    graph = analyse(export_module(module, example("basic")))
    smaller = remove_module_blocks(module, graph, ["2"])
    assert all(stub.constant is None for stub in stubs_of(smaller).values())
    assert not operators(deployable(export_module(smaller, example("basic"))))["Add"]


def test_strides_and_dilations_keep_the_shape() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(6, 5, (3, 5), stride=(2, 3), padding=(1, 2), dilation=(2, 1))
            self.two = nn.Conv2d(5, 8, 3, padding="same")
            self.skip = nn.Conv2d(6, 8, (3, 5), stride=(2, 3), padding=(1, 2), dilation=(2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.relu_(self.one(x))).add_(self.skip(x))

    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), Odd(), nn.Conv2d(8, 2, 1)).eval()
    graph = analyse(export_module(module, torch.randn(1, 3, 20, 22)))
    smaller = remove_module_blocks(module, graph, ["2"])
    wanted = {2: Window(reach=3, stride=2), 3: Window(reach=1, stride=3)}
    assert stubs_of(smaller)["2.one"] == StubShape(sizes={1: 5}, windows=wanted)
    assert smaller(torch.randn(3, 3, 31, 40)).shape == module(torch.randn(3, 3, 31, 40)).shape


def test_code_that_computes_in_a_way_of_its_own_is_refused() -> None:
    class Functional(pattern.Basic):
        def forward(self, x: Tensor) -> Tensor:
            inner = torch.relu(nn.functional.conv2d(x, self.conv1.weight, padding=1))
            return x + nn.functional.conv2d(inner, self.conv2.weight, padding=1)

    module = pattern.lively_(pattern.image_network(Functional(6, 6), pattern.Inverted(6)))
    graph = analyse(export_module(module, example("basic")))
    assert remove_blocks(graph, ["2"]).proof is not None
    with pytest.raises(ParityFailed, match=r"Sequential .* without the blocks 2; its code computes .*, so keep them"):
        remove_module_blocks(module, graph, ["2"])
    assert list(refused_blocks(module, graph, ["2", "3.conv"])) == ["2"]


def test_what_an_instance_normalisation_makes_of_a_constant_differs_between_runtimes_and_is_no_error() -> None:
    class Instance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1), nn.InstanceNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.norm(self.two(torch.relu(self.one(x))))

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), Instance(), nn.Conv2d(6, 2, 1)).eval()
    nn.init.uniform_(module[1].two.bias, 1, 2)  # what rounding leaves of it is divided by the root of epsilon
    graph = analyse(export_module(module, torch.randn(1, 3, 61, 63)))
    (block,) = blocks(graph)
    assert abs(block.constant).max() > 10 * TOLERANCE  # in ONNX Runtime; it ought to be 0
    smaller = remove_module_blocks(module, graph, [block.name])
    assert smaller[1].norm.constant is None or smaller[1].norm.constant.abs().max() < TOLERANCE


def test_code_that_reads_a_weight_beside_calling_its_module_is_refused() -> None:
    class Peeking(pattern.Inverted):
        def forward(self, x: Tensor) -> Tensor:
            assert self.conv[0][0].weight.ndim == 4
            return super().forward(x)

    module = pattern.lively_(pattern.image_network(Peeking(6)))
    graph = analyse(export_module(module, example("inverted")))
    with pytest.raises(ParityFailed, match=r"Sequential does not run \(.*\) without the blocks 2.conv"):
        remove_module_blocks(module, graph, ["2.conv"])


@pytest.mark.parametrize("order", [1, -1])
def test_blocks_that_cannot_go_are_found_among_others(order: int) -> None:
    module = pattern.lively_(nn.Sequential(nn.Linear(6, 8), pattern.ClassToken(8), nn.Linear(8, 3)))
    graph = analyse(export_module(module, torch.randn(pattern.TOKENS)))
    refused = refused_blocks(module, graph, ["1.encoder.mlp", "1.encoder.attention"][::order])
    assert list(refused) == ["1.encoder.attention"]
    assert "no output depends on the input any more" in refused["1.encoder.attention"]


def test_unknown_blocks_and_other_modules_are_not_refused_but_wrong() -> None:
    with pytest.raises(BadInput, match="block '7' does not exist"):
        refused_blocks(build("basic"), graph_of("basic"), ["3", "7"])
    with pytest.raises(BadInput, match="shares no weight's name with the network; export this module"):
        refused_blocks(nn.Conv2d(3, 3, 1), graph_of("basic"), ["3"])


def test_stubs_for_other_weights_have_constants_of_zeros() -> None:
    smaller = remove_module_blocks(build("basic"), graph_of("basic"), ["3"])
    anew = copy.deepcopy(build("basic"))
    place_stubs_(anew, blank_stubs(smaller))
    assert stubs_of(anew) == stubs_of(smaller)
    assert [tensor.shape for tensor in anew.parameters()] == [tensor.shape for tensor in smaller.parameters()]
    assert not anew[3].bn2.constant.any()
    assert smaller[3].bn2.constant.any()


def test_removing_all_that_the_answer_sees_the_input_by_is_refused() -> None:
    module = pattern.lively_(nn.Sequential(nn.Linear(6, 8), pattern.ClassToken(8), nn.Linear(8, 3)))
    graph = analyse(export_module(module, torch.randn(pattern.TOKENS)))
    remove_module_blocks(module, graph, ["1.encoder.mlp"])
    with pytest.raises(BadInput, match=r"'1.encoder.attention' no output depends on the input any more; remove fewer"):
        remove_module_blocks(module, graph, ["1.encoder.attention"])


def test_another_module_is_refused() -> None:
    with pytest.raises(BadInput, match="shares no weight's name with the network; export this module"):
        remove_module_blocks(nn.Conv2d(3, 3, 1), graph_of("basic"), ["3"])


def test_stubs_for_another_module_are_refused() -> None:
    with pytest.raises(BadInput, match=r"Conv2d has no part 'conv1' to leave out; build the same network"):
        place_stubs_(nn.Conv2d(1, 1, 1), {"conv1": StubShape()})


def test_a_stub_returns_tuples_where_the_module_did() -> None:
    result = Stub(StubShape(beside=1), torch.ones(1, 1, 3))(torch.zeros(2, 5, 3))
    assert isinstance(result, tuple)
    assert result[0].shape == (2, 5, 3)
    assert result[1] is None


@pytest.fixture(scope="module")
def mobile() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    module = pattern.lively_(MobileNetV2(**MOBILE))
    return module, analyse(export_module(module, torch.randn(1, 3, 32, 32)))


MOBILE = {"width": 8, "classes": 10}


def outputs(module: nn.Module) -> list[float]:
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return module(image).flatten().tolist()


def test_a_folder_without_blocks_is_rebuilt_bit_by_bit_in_a_fresh_process(
    tmp_path: Path, mobile: tuple[nn.Module, ChannelGraph]
) -> None:
    module, graph = mobile
    smaller = remove_module_blocks(module, graph, [block.name for block in blocks(graph)[::2]])
    rest = analyse(export_module(smaller, torch.randn(1, 3, 32, 32)))
    keep = random_keep(rest)
    pruned = prune_module(smaller, rest, keep).eval()
    network = deployable(export_module(pruned, torch.randn(1, 3, 32, 32)))
    save_folder(
        tmp_path, pruned, network, keep, Origin(factory="compress.models.mobilenet_v2:MobileNetV2", arguments=MOBILE)
    )
    assert read_record(tmp_path).stubs == stubs_of(pruned)
    code = (
        "import torch; from pathlib import Path; from compress.model_folder import load_folder; "
        f"torch.set_num_threads({torch.get_num_threads()}); "  # sums are split among them
        f"from tests.compress.test_blocks import outputs; print(outputs(load_folder(Path({str(tmp_path)!r}))))"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(outputs(pruned))
    assert outputs(load_folder(tmp_path)) == outputs(pruned)
