from __future__ import annotations

import numpy as np
import pytest

from compress.graph.count import macs, parameters
from compress.graph.network import Network
from compress.graph.proof import TOLERANCE, compare_numbers
from compress.graph.reference import zeroed
from compress.graph.run import random_feeds, run
from compress.graph.surgery import prune, remove_channels
from device_profiles.errors import BadInput, ParityFailed
from tests.compress.graph.examples import random_keep, unet_graph, unet_network


def test_layers_have_torch_names_and_every_inner_layer_its_own_set() -> None:
    graph = unet_graph()
    assert [layer.name for layer in graph.layers] == [f"{side}.{k}.conv" for side in ("down", "up") for k in range(7)]
    assert [one.name for one in graph.prunable] == [layer.name for layer in graph.layers[:-1]]
    assert graph.layer("up.6.conv").out_set is None


def test_a_skip_connection_makes_two_layers_consume_a_set() -> None:
    assert unet_graph().sets["down.2.conv"].consumers == ("down.3.conv", "up.4.conv")


def test_norm_partners_and_biases_are_found_by_name() -> None:
    graph = unet_graph()
    norm = graph.layer("down.3.conv").norm
    assert norm is not None
    assert (norm.op, norm.scale, norm.bias) == ("BatchNormalization", "down.3.norm.weight", "down.3.norm.bias")
    assert (norm.mean, norm.var) == ("down.3.norm.running_mean", "down.3.norm.running_var")
    assert graph.layer("down.0.conv").norm is None
    assert [layer.bias for layer in graph.layers] == [None] * 13 + ["up.6.conv.bias"]


def test_slices_give_the_offset_of_a_skip_in_the_consumer() -> None:
    graph = unet_graph()
    found = {(one.initializer, one.axis): one.channels.reshape(-1) for one in graph.slices("up.5.conv")}
    assert found["up.5.conv.weight", 1].tolist() == [0, 1, 2, 3]
    assert found["up.6.conv.weight", 0].tolist() == [-1, -1, -1, -1, 0, 1, 2, 3]
    assert found["up.5.norm.running_var", 0].tolist() == [0, 1, 2, 3]


def test_layer_widths_add_up_at_a_concat() -> None:
    widths = unet_graph().layer_widths({"down.0.conv": 3, "up.5.conv": 1})
    assert widths["down.0.conv"] == (3, 3)
    assert widths["down.1.conv"] == (3, 8)
    assert widths["up.6.conv"] == (4, 3)


def test_layer_widths_equal_the_pruned_network() -> None:
    graph = unet_graph()
    keep = random_keep(graph)
    pruned = remove_channels(graph, keep)
    widths = graph.layer_widths({name: len(indices) for name, indices in keep.items()})
    for layer in graph.layers:
        shape = pruned.shapes[layer.weight]
        assert widths[layer.name] == (shape[:2] if layer.op == "ConvTranspose" else shape[1::-1])


@pytest.mark.parametrize("seed", range(3))
def test_pruning_equals_zeroing(seed: int) -> None:
    pruned = prune(unet_network(), random_keep(unet_graph(), seed))
    assert pruned.proof is not None
    assert pruned.proof.removed_channels > 0
    assert pruned.proof.max_error_of_spread < TOLERANCE


def test_the_proof_compares_with_the_original_at_full_width() -> None:
    graph = unet_graph()
    keep = {"down.1.conv": np.array([0, 3, 5])}
    feeds = random_feeds(graph.network)
    masked = zeroed(graph, keep).run(feeds)
    whole = run(graph.network.model, feeds)
    (name,) = whole
    assert not np.array_equal(masked[name], whole[name])


def test_keeping_other_channels_than_said_fails_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = remove_channels(unet_graph(), {"down.3.conv": np.arange(16)})
    monkeypatch.setattr("compress.graph.surgery.remove_channels", lambda graph, keep: wrong)
    with pytest.raises(ParityFailed, match=r"changes 'down.3.conv' by .* compared with zeroing them"):
        prune(unet_network(), {"down.3.conv": np.arange(16, 32)})


def test_numbers_alone_catch_a_deep_mistake() -> None:
    graph = unet_graph()
    wrong = remove_channels(graph, {"down.5.conv": np.arange(16)})
    found = compare_numbers(graph, {"down.5.conv": np.arange(16, 32)}, wrong)
    assert found.error_of_spread > 0.1


def test_removing_nothing_is_no_proof() -> None:
    proof = prune(unet_network(), {}).proof
    assert proof is not None
    assert proof.removed_channels == 0
    assert "nothing is proven" in proof.note


def test_the_pruned_network_survives_a_file(tmp_path) -> None:
    pruned = prune(unet_network(), random_keep(unet_graph()))
    pruned.write(tmp_path / "pruned.onnx")
    read = Network.read(tmp_path / "pruned.onnx")
    feeds = random_feeds(pruned)
    for one, two in zip(run(pruned.model, feeds).values(), run(read.model, feeds).values(), strict=True):
        assert np.array_equal(one, two)


def test_counts_follow_the_widths() -> None:
    network = unet_network()
    pruned = remove_channels(unet_graph(), random_keep(unet_graph()))
    assert parameters(network) == 164_395
    assert 0 < macs(pruned) < macs(network)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"down.9.conv": [0]}, "channel set 'down.9.conv' does not exist; the sets are down.0.conv"),
        ({"down.0.conv": [0, 4]}, r"must be sorted indices from 0 to 3, each once and at least one"),
        ({"down.0.conv": [1, 0]}, "must be sorted indices"),
        ({"down.0.conv": []}, "must be sorted indices"),
    ],
)
def test_prune_raises_on_a_keep_that_does_not_fit(keep: dict[str, list[int]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        prune(unet_network(), {name: np.array(indices, np.int64) for name, indices in keep.items()})


def test_layer_widths_raise_out_of_range() -> None:
    with pytest.raises(BadInput, match=r"width \(=9\) of 'down.0.conv' must be between 1 and 4"):
        unet_graph().layer_widths({"down.0.conv": 9})


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(BadInput, match=r"layer 'up.7.conv' does not exist; the layers are down.0.conv"):
        unet_graph().layer("up.7.conv")
