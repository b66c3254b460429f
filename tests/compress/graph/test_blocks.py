from __future__ import annotations

import dataclasses

import hypothesis
import numpy as np
import onnx
import pytest
import torch
from hypothesis import strategies
from torch import nn

from compress.export import export_module
from compress.graph import block_surgery
from compress.graph.analyse import analyse
from compress.graph.block_surgery import remove_blocks, silenced, without_blocks
from compress.graph.blocks import Block, blocks, chosen_blocks
from compress.graph.channels import ChannelGraph
from compress.graph.choose import choose
from compress.graph.count import parameters
from compress.graph.network import Network
from compress.graph.proof import TOLERANCE
from compress.graph.run import random_feeds, run
from compress.graph.surgery import prune
from device_profiles.errors import BadInput, ParityFailed
from tests.compress.graph import block_patterns as pattern
from tests.compress.graph.block_patterns import graph_of

# Network -> its blocks: name -> (the sets that decide, the constant's shape).
FOUND: dict[str, dict[str, tuple[tuple[str, ...], tuple[int, ...]]]] = {
    "basic": {str(i): ((f"{i}.conv1",), (1, 6, 1, 1)) for i in (2, 3, 4)},
    "projection": {"0.2": (("0.2.conv1",), (1, 6, 1, 1)), "1": (("1.conv1",), (1, 8, 1, 1))},
    "bottleneck": {str(i): ((f"{i}.middle.0",), (1, 6, 1, 1)) for i in (2, 3)},
    "pre-activation": {str(i): ((f"{i}.conv1",), (1, 6, 1, 1)) for i in (2, 3, 4)},
    "inverted": {f"{i}.conv": ((f"{i}.conv.0.0",), (1, 6, 1, 1)) for i in (1, 2)},
    "excited": {str(i): ((f"{i}.reduce.0",), (1, 6, 1, 1)) for i in (2, 3)},
    "convnext": {str(i): ((f"{i}.wide",), (1, 6, 1, 1)) for i in (2, 3)},
    "split": {"2": (("2.one.0", "2.two.0"), (1, 6, 1, 1)), "3": (("3.conv1",), (1, 6, 1, 1))},
    "nested": {
        "2.inner.conv": (("2.inner.conv.0.0",), (1, 4, 1, 1)),
        "2": (("2.enter",), (1, 6, 1, 1)),
        "3.conv": (("3.conv.0.0",), (1, 6, 1, 1)),
    },
    "encoder": {
        "1.attention": (("1.attention.in_proj_weight[2]",), (1, 1, 8)),
        "1.mlp": (("1.mlp.0",), (1, 1, 8)),
        "2.attention": (("2.attention.in_proj_weight[2]",), (1, 1, 8)),
        "2.mlp": (("2.mlp.0",), (1, 1, 8)),
    },
    "leaking": {},
    "padded": {"2": (("2.two",), (1, 6, 1, 1))},
}
SINGLE = [(network, block) for network, found in FOUND.items() for block in found]


def additions(network: Network) -> int:
    return sum(node.op_type == "Add" for node in network.model.graph.node)


@pytest.mark.parametrize("name", FOUND)
def test_the_blocks_are_found(name: str) -> None:
    found = {block.name: (block.decisive, block.constant.shape) for block in blocks(graph_of(name))}
    assert found == FOUND[name]


@pytest.mark.parametrize(("name", "block"), SINGLE)
def test_removing_a_block_equals_zeroing_its_channels(name: str, block: str) -> None:
    graph = graph_of(name)
    (chosen,) = chosen_blocks(graph, [block])
    removed = remove_blocks(graph, [block])
    assert removed.proof is not None
    assert removed.proof.max_error_of_spread <= TOLERANCE
    assert removed.proof.removed_channels >= 4
    assert removed.proof.note == ""
    left = {layer.name for layer in analyse(removed).layers}
    assert left == {layer.name for layer in graph.layers} - set(chosen.layers)


@pytest.mark.parametrize("name", [name for name, found in FOUND.items() if len(found) > 1])
def test_all_blocks_go_together_and_what_remains_is_pruned(name: str) -> None:
    graph = graph_of(name)
    rest = analyse(remove_blocks(graph, list(FOUND[name])))
    assert not blocks(rest)
    generator = np.random.default_rng(0)
    keep = choose(rest, {one.name: generator.random(one.width) for one in rest.sets.values()}, 0.5)
    smaller = prune(rest.network, keep)
    assert parameters(smaller) < parameters(rest.network) < parameters(graph.network)


# Additions before, and after every block is removed: where no activation lies between, biases hold the constants.
ADDITIONS = {"basic": (3, 3), "projection": (2, 1), "pre-activation": (3, 1), "inverted": (2, 0), "encoder": (12, 2)}


@pytest.mark.parametrize("name", ADDITIONS)
def test_a_constant_moves_into_the_bias_before_it(name: str) -> None:
    removed = remove_blocks(graph_of(name), list(FOUND[name]))
    assert (additions(graph_of(name).network), additions(removed)) == ADDITIONS[name]


def test_a_constant_of_zeros_leaves_no_addition() -> None:
    module = pattern.lively_(pattern.image_network(pattern.Basic(6, 6)))
    nn.init.zeros_(module[2].bn2.bias)
    nn.init.zeros_(module[2].bn2.running_mean)
    removed = remove_blocks(analyse(export_module(module, torch.randn(pattern.IMAGE))), ["2"])
    assert additions(removed) == 0


def test_a_network_may_end_in_a_block() -> None:
    module = pattern.lively_(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), pattern.Inverted(6)))
    convolution, norm = module[2].conv[4]
    for offset in (convolution.bias, norm.bias, norm.running_mean):
        nn.init.zeros_(offset)
    graph = analyse(export_module(module, torch.randn(pattern.IMAGE)))
    removed = remove_blocks(graph, ["2.conv"])
    assert list(removed.outputs) == list(graph.network.outputs)
    assert additions(removed) == 0


def test_a_shared_bias_is_left_as_it_is_for_the_other_layer() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(graph_of("inverted").network.model)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization" and "1.conv.4" in node.input[1]]
    (last,) = norms
    last.input[2] = "0.1.bias"  # as the norm before the first block, which is where its constant goes
    graph = analyse(Network.from_model(model))
    removed = remove_blocks(graph, ["1.conv", "2.conv"])
    assert removed.proof is not None
    kept = remove_blocks(graph, ["2.conv"])
    assert np.array_equal(kept.weights["0.1.bias"], graph.network.weights["0.1.bias"])


def test_a_constant_that_a_padded_layer_makes_of_a_bias_differs_at_the_borders() -> None:
    graph = analyse(graph_of("padded").network, frozen={"2.two": "asked for"})
    (block,) = blocks(graph)
    assert block.decisive == ("2.one",)
    assert block.constant.shape == (1, 6, 9, 8)
    assert not np.allclose(block.constant[..., 0, 0], block.constant[..., 1, 1])
    assert np.allclose(block.constant[..., 2, 2], block.constant[..., 1, 1])
    removed = remove_blocks(graph, ["2"])
    assert additions(removed) == 1


def test_a_constant_that_differs_between_samples_makes_no_block() -> None:
    class Placed(pattern.Basic):
        def __init__(self) -> None:
            super().__init__(6, 6)
            self.register_buffer("place", torch.rand(2, 1, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.place * self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))

    module = pattern.lively_(pattern.image_network(Placed()))
    assert not blocks(analyse(export_module(module, torch.randn(pattern.IMAGE))))


def test_a_branch_of_a_frozen_set_is_no_block() -> None:
    graph = analyse(graph_of("basic").network, frozen={"3.conv1": "asked for"})
    assert [block.name for block in blocks(graph)] == ["2", "4"]


def test_blocks_without_a_common_name_are_named_after_a_set() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1)
            self.d, self.e, self.f = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            x = x + self.c(torch.relu(self.b(x)))
            return self.f(x + self.e(torch.relu(self.d(x))))

    graph = analyse(export_module(Flat(), torch.randn(pattern.IMAGE)))
    assert [block.name for block in blocks(graph)] == ["b", "d"]


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(BadInput, match=r"block '7' does not exist; the blocks are 2, 3, 4"):
        remove_blocks(graph_of("basic"), ["7"])


def test_removing_both_sides_of_an_addition_is_refused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("one", "two"):
                self.add_module(name, nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) + self.two(x)

    graph = analyse(export_module(Both(), torch.randn(pattern.IMAGE)))
    assert {block.name for block in blocks(graph)} == {"one", "two"}
    with pytest.raises(BadInput, match=r"the output '.*' depends on no input; remove fewer blocks"):
        remove_blocks(graph, ["one", "two"])


def test_removing_all_that_the_answer_sees_the_input_by_is_refused() -> None:
    module = pattern.lively_(nn.Sequential(nn.Linear(6, 8), pattern.ClassToken(8), nn.Linear(8, 3)))
    graph = analyse(export_module(module, torch.randn(pattern.TOKENS)))
    assert remove_blocks(graph, ["1.encoder.mlp"]).proof is not None
    with pytest.raises(BadInput, match=r"'1.encoder.attention' no output depends on the input any more; remove fewer"):
        remove_blocks(graph, ["1.encoder.attention"])


def test_removing_nothing_says_so() -> None:
    proof = remove_blocks(graph_of("basic"), []).proof
    assert proof is not None
    assert "nothing is proven" in proof.note


def test_a_constant_output_is_proven_with_other_weights() -> None:
    module = pattern.lively_(pattern.image_network(pattern.Basic(6, 6)))
    nn.init.zeros_(module[3].weight)
    proof = remove_blocks(analyse(export_module(module, torch.randn(pattern.IMAGE))), ["2"]).proof
    assert proof is not None
    assert "made random" in proof.note


@pytest.mark.parametrize("name", ["basic", "pre-activation", "encoder"])
def test_a_wrong_constant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: ChannelGraph, names: list[str]) -> tuple[Block, ...]:
        chosen = chosen_blocks(graph, names)
        return tuple(dataclasses.replace(block, constant=block.constant * np.float32(1.01)) for block in chosen)

    monkeypatch.setattr(block_surgery, "chosen_blocks", wrong)
    with pytest.raises(ParityFailed, match=r"removing the blocks '.*' changes .* of its spread"):
        remove_blocks(graph_of(name), list(FOUND[name])[:1])


def test_a_constant_folded_past_an_activation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def past_relu(network: Network) -> Network:
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        node = next(one for one in model.graph.node if one.op_type == "Add" and one.input[0] in network.weights)
        before = next(one for one in model.graph.node if node.input[1] in one.output)
        assert before.op_type == "Relu"
        before.op_type, node.op_type = "Add", "Relu"
        before.input.append(node.input[0])
        del node.input[0]
        return Network(model)

    module = pattern.lively_(pattern.image_network(pattern.Basic(6, 6), pattern.Basic(6, 6)))
    nn.init.uniform_(module[2].bn2.bias, -3, -2)  # the activation after it must have something to do
    graph = analyse(export_module(module, torch.randn(pattern.IMAGE)))
    assert remove_blocks(graph, ["3"]).proof is not None
    monkeypatch.setattr(block_surgery, "fold_added_constants", past_relu)
    with pytest.raises(ParityFailed, match="changes"):
        remove_blocks(graph, ["3"])


@pytest.mark.parametrize("name", ["pre-activation", "nested"])
def test_the_network_without_blocks_computes_what_the_silenced_one_does(name: str) -> None:
    graph = graph_of(name)
    chosen = chosen_blocks(graph, list(FOUND[name]))
    feeds = random_feeds(graph.network, seed=7)
    whole, removed = silenced(graph, chosen).run(feeds), run(without_blocks(graph, chosen).model, feeds)
    for output, data in whole.items():
        assert np.allclose(data, removed[output], atol=1e-5)
        assert np.abs(data - run(graph.network.model, feeds)[output]).max() > 1e-2  # the blocks matter


STAGES = {
    "basic": lambda: pattern.Basic(6, 6),
    "bottleneck": lambda: pattern.Bottleneck(6),
    "pre-activation": lambda: pattern.PreActivation(6),
    "inverted": lambda: pattern.Inverted(6),
    "excited": lambda: pattern.Excited(6),
    "convnext": lambda: pattern.ConvNext(6),
    "split": lambda: pattern.Split(6),
    "nested": lambda: pattern.Nested(6),
    "relu": nn.ReLU,
    "norm": lambda: nn.BatchNorm2d(6),
    "padded": lambda: nn.Conv2d(6, 6, 3, padding=1, bias=False),
}


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    stages=strategies.lists(strategies.sampled_from(sorted(STAGES)), min_size=1, max_size=4),
    seed=strategies.integers(0, 99),
)
def test_random_residual_networks_lose_random_blocks(stages: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    module = pattern.lively_(pattern.image_network(*(STAGES[stage]() for stage in stages)))
    graph = analyse(export_module(module, torch.randn(pattern.IMAGE)))
    found = blocks(graph)
    assert len(found) == sum(stage not in ("relu", "norm", "padded") for stage in stages) + stages.count("nested")
    generator = np.random.default_rng(seed)
    names = [block.name for block in found if generator.random() < 0.6]
    removed = remove_blocks(graph, names)
    assert removed.proof is not None
    assert removed.proof.max_error_of_spread <= TOLERANCE
