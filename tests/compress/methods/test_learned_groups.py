"""What separates learned groups from drawn ones, and the exported form from the masked one."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compress.export import export_module
from compress.gathered import GatheredConv2d, gathered
from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.graph.run import run
from compress.graph.surgery import prune
from compress.methods import learned_groups
from compress.methods.base import Context
from compress.methods.learned_groups import (
    Condensing,
    GroupingGain,
    LearnedGroups,
    deal_inputs_,
    drop_inputs_,
    eligible,
    grouping_gain,
)
from compress.surgery import prune_module
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput, ParityFailed, UnsupportedModel
from device_profiles.measurement import Measurement
from device_profiles.target import Target
from tests.compress.methods.digits import Digits, accuracy, graph_of, network, trained_network

SAME = 1e-5  # a masked convolution against its gathered form: other orders of sums only
FEW = Training(steps=20, batch=64, learning_rate=2e-3, precision="32-true")  # before any repair worth the name


def context_of(module: nn.Module, training: Training = FEW, seed: int = 0) -> Context:
    return Context(module, graph_of(module), Digits(seed), training, {}, 1.5, lambda widths: 1.0, seed)


def condensed(seed: int = 0, training: Training = FEW, **settings) -> Condensing:
    method = LearnedGroups(**settings).prepare(context_of(trained_network(seed), training, seed))
    train_(method.context.module, method.context.task, training, label="condense", extras=method.extras())
    return method


@functools.cache
def halved(seed: int) -> float:
    return accuracy_of(condensed(seed, condense=2, overlap=True))


def accuracy_of(method: Condensing) -> float:
    return accuracy(method.context.module, method.context.task)


def test_learned_inputs_beat_drawn_ones_at_the_same_density(monkeypatch):
    learned = np.mean([halved(0), halved(1)])

    def drop_drawn_(mask, weight, dropped):
        generator = torch.Generator().manual_seed(mask.shape[1] + 1)
        drop_inputs_(mask, torch.rand(weight.shape, generator=generator), dropped)

    monkeypatch.setattr(learned_groups, "drop_inputs_", drop_drawn_)
    drawn = np.mean([accuracy_of(condensed(seed, condense=2, overlap=True)) for seed in (0, 1)])
    assert learned > drawn + 10


@pytest.fixture(scope="module")
def exported():
    """A condensed network with what it computed by masks."""
    training = Training(steps=90, batch=64, learning_rate=2e-3, precision="32-true")
    method = condensed(training=training, overlap=True)
    module, inputs = method.context.module, method.context.task.test.inputs[:64]
    with torch.no_grad():
        masked = module(inputs)
    method.finish_()
    module.to(memory_format=torch.contiguous_format)
    return method, masked


def test_the_gathered_form_computes_what_the_masked_one_did(exported):
    method, masked = exported
    module = method.context.module
    assert (module(method.context.task.test.inputs[:64]) - masked).abs().max() < SAME
    gathered = {name: part for name, part in module.named_modules() if isinstance(part, GatheredConv2d)}
    assert list(gathered) == ["3", "7", "10"]
    assert gathered["7"].weight.shape == (64, 8, 3, 3)
    assert accuracy_of(method) > 90


def test_a_scrambled_gather_leaves_chance(exported):
    method, _ = exported
    module = method.context.module
    kept = {name: buffer.clone() for name, buffer in module.named_buffers() if name.endswith("index")}
    generator = torch.Generator().manual_seed(0)
    for name, index in kept.items():
        module.get_buffer(name).copy_(index[torch.randperm(len(index), generator=generator)])
    scrambled = accuracy_of(method)
    for name, index in kept.items():
        module.get_buffer(name).copy_(index)
    assert scrambled < 25


def test_the_channel_graph_prunes_the_exported_form_and_proves_it(exported):
    method, _ = exported
    network = export_module(method.context.module, torch.zeros(1, 1, 8, 8))
    operators = [node.op_type for node in network.model.graph.node]
    assert operators.count("Gather") == 3
    graph = analyse(network)
    assert graph.layer("7").groups == 4
    assert graph.sets["10"].step == 4  # a narrower grouped layer keeps equally many filters in each group
    scores = {one.name: np.arange(one.width, dtype=float) for one in graph.prunable}
    keep = choose(graph, scores, 0.5)
    assert len(keep["10"]) == 32
    assert prune(network, keep).proof.max_error_of_spread < 1e-5


def test_it_scores_all_channels_alike_and_chooses_none(exported):
    method, _ = exported
    assert all((values == 1).all() for values in method.scores().values())
    assert method.keep() is None


@pytest.mark.parametrize("condense", [2, 4])
def test_stages_drop_their_share_each_over_the_first_half(condense):
    method = LearnedGroups(condense=condense, overlap=True).prepare(context_of(network(), Training(steps=24)))
    left = []
    for step in range(1, 25):
        method.after_step_(step, 0.0)
        left.append(method.masks.of("3").sum(1).unique().tolist())
    assert left[-1] == left[11] == [32 // condense]
    assert left[0] == [32]
    assert len({tuple(one) for one in left}) == condense
    zero = method.layers["3"].weight.abs().sum((2, 3)).unflatten(0, (4, -1)).sum(1) == 0
    assert torch.equal(~zero, method.masks.of("3"))


def test_a_stage_drops_the_inputs_with_the_smallest_sums_of_each_group_and_never_returns_any():
    weight = torch.tensor([[1.0, -5, 2, 3], [1, 5, 2, -3], [4, 1, 2, 3], [-4, 1, 2, 3]])[:, :, None, None]
    mask = torch.ones(2, 4, dtype=torch.bool)
    drop_inputs_(mask, weight, 1)
    assert mask.tolist() == [[False, True, True, True], [True, False, True, True]]
    drop_inputs_(mask, weight.flip(1), 2)
    assert mask.tolist() == [[False, True, True, False], [True, False, False, True]]


@pytest.mark.parametrize("blocks", [1, 4])
def test_without_overlap_each_input_loses_a_group_a_stage_and_each_group_equally_many_inputs(blocks):
    weight = torch.rand(8, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 16, dtype=torch.bool)
    for dropped in (1, 3):
        before = mask.clone()
        deal_inputs_(mask, weight, dropped, blocks)
        assert not (mask & ~before).any()
        assert (mask.sum(0) == 4 - dropped).all()
        assert all((part.sum(1) == len(part[0]) * (4 - dropped) // 4).all() for part in mask.chunk(blocks, 1))


def test_without_overlap_an_input_stays_where_it_matters_most():
    weight = torch.full((4, 4, 1, 1), 0.1)
    wanted = torch.tensor([2, 0, 3, 1])
    weight[wanted, torch.arange(4)] = 1.0
    mask = torch.ones(4, 4, dtype=torch.bool)
    deal_inputs_(mask, weight, 3, 1)
    assert mask.sum() == 4
    assert mask[wanted, torch.arange(4)].all()


def test_without_overlap_filters_come_in_the_order_of_the_groups_and_all_sets_can_be_pruned():
    method = condensed(training=Training(steps=90, batch=64, learning_rate=2e-3, precision="32-true"))
    inputs = method.context.task.test.inputs[:64]
    module = method.context.module
    before = graph_of(module).network
    method.finish_()
    module.to(memory_format=torch.contiguous_format)
    assert [part.index is None for part in module if isinstance(part, GatheredConv2d)] == [True, False, False]
    assert accuracy_of(method) > 90
    graph = graph_of(module)
    assert sum(node.op_type == "Gather" for node in graph.network.model.graph.node) == 2
    feeds = dict.fromkeys(before.inputs, inputs[:1].numpy())
    (masked,), (found,) = (run(each.model, feeds).values() for each in (before, graph.network))
    assert np.abs(masked - found).max() < 1e-4
    assert {one.name for one in graph.prunable} == {"0", "3", "7", "10"}
    keep = choose(graph, {one.name: np.arange(one.width, dtype=float) for one in graph.prunable}, 0.5)
    assert [len(keep[name]) for name in ("0", "3", "7", "10")] == [16, 16, 32, 32]
    assert prune_module(module, graph, keep)[7].weight.shape == (32, 4, 3, 3)


def test_layers_with_a_dense_one_between_them_are_both_put_in_order():
    method = LearnedGroups(layers=("3", "10")).prepare(context_of(trained_network(), Training(steps=6)))
    for step in range(1, 7):
        method.after_step_(step, 0.0)
    module, inputs = method.context.module, method.context.task.test.inputs[:8]
    with torch.no_grad():
        masked = module(inputs)
        method.finish_()
        assert (module(inputs) - masked).abs().max() < SAME
    assert module[3].index is None
    assert module[10].index is None


def test_overlap_off_needs_as_many_groups_as_shares():
    with pytest.raises(ValueError, match=r"groups \(=4\) and condense \(=2\) must be the same number"):
        LearnedGroups(condense=2)


def test_a_replacement_that_computes_something_else_is_refused(monkeypatch):
    method = LearnedGroups(layers=("7",)).prepare(context_of(trained_network(), Training(steps=6)))
    for step in range(1, 7):
        method.after_step_(step, 0.0)
    monkeypatch.setattr(learned_groups, "gathered", lambda layer, inputs: gathered(layer, inputs.flip(0)))
    with pytest.raises(ParityFailed, match="of its spread away from its masked form once its layers are grouped"):
        method.finish_()


def test_what_was_dropped_stays_dropped_where_the_weights_are_averaged():
    method = condensed(training=replace(FEW, average=0.9), groups=2, condense=2)
    method.finish_()
    assert method.proof.max_error_of_spread <= method.proof.tolerance


def test_a_training_that_its_minutes_ended_early_is_refused():
    with pytest.raises(BadInput, match=r"half of the method's steps \(=1000\) were trained; .* more minutes"):
        condensed(training=replace(FEW, steps=1000, minutes=0.001)).finish_()


def test_a_resumed_run_finds_its_masks_in_the_checkpoint(tmp_path):
    training = Training(steps=12, batch=8, precision="32-true")
    once = LearnedGroups().prepare(context_of(network(), training))
    path = tmp_path / "checkpoint"
    train_(once.context.module, Digits(), training, label="x", checkpoint=path, extras=once.extras())
    again = LearnedGroups().prepare(context_of(network(), training))
    train_(again.context.module, Digits(), training, label="x", checkpoint=path, extras=again.extras())
    for name in once.layers:
        assert torch.equal(again.masks.of(name), once.masks.of(name))
    again.finish_()


def test_layers_that_do_not_divide_are_left_alone_or_refused():
    module = network(widths=(8, 6, 12))
    assert eligible(module, LearnedGroups(groups=3, condense=2, overlap=True)) == ["3", "7"]
    with pytest.raises(BadInput, match="'0' cannot be condensed"):
        LearnedGroups(layers=("0",)).prepare(context_of(module))
    with pytest.raises(UnsupportedModel, match=r"can be condensed with groups \(=5\)"):
        LearnedGroups(groups=5, condense=5).prepare(context_of(module))
    with pytest.raises(BadInput, match="still reads 8 of 8 inputs"):
        LearnedGroups(groups=3, condense=2, overlap=True).prepare(context_of(module)).finish_()


def test_the_gain_is_measured_on_a_target():
    gain = grouping_gain(nn.Conv2d(16, 16, 1), (1, 16, 8, 8), LearnedGroups(), Target("onnxruntime"), seconds=0.0)
    assert gain.dense.ms > 0
    assert gain.speedup == gain.dense.ms / gain.grouped.ms
    with pytest.raises(BadInput, match="6 to 16 channels in 1 groups cannot be condensed"):
        grouping_gain(nn.Conv2d(6, 16, 1), (1, 6, 8, 8), LearnedGroups(), Target("onnxruntime"))


def test_each_kind_of_layer_is_measured_once_on_each_target(monkeypatch):
    asked = []

    def measured(layer, shape, settings, target, seconds):
        asked.append((layer.in_channels, shape, target.name, seconds))
        return GroupingGain(measurement(layer.in_channels), measurement(10.0))

    monkeypatch.setattr(learned_groups, "grouping_gain", measured)
    module = network(widths=(32, 32, 32, 64))
    targets = (Target("onnxruntime"), Target("openvino"))
    gains = LearnedGroups().gains(module, graph_of(module), targets, 0.5)
    assert {name: set(own.values()) for name, own in gains.items()} == {"3": {3.2}, "7": {3.2}, "10": {3.2}}
    assert [each[:2] for each in asked] == [(32, (1, 32, 8, 8))] * 2 + [(32, (1, 32, 4, 4))] * 4
    assert {each[2] for each in asked} == {target.name for target in targets}


def test_layers_are_chosen_where_grouping_pays_on_every_target_that_needs_it():
    gains = {"a": {"x": 1.5, "y": 1.05}, "b": {"x": 1.2, "y": 0.9}, "c": {"x": 1.0, "y": 2.0}}
    assert LearnedGroups().where_it_pays(gains, {"x": 2.0, "y": 1.0}).layers == ("a",)
    assert LearnedGroups().where_it_pays(gains, {"x": 2.0}).layers == ("a", "b")
    assert LearnedGroups(layers=("c",)).where_it_pays(gains, {"x": 2.0}).layers == ("c",)
    with pytest.raises(BadInput, match=r"pays for no layer: the most that one gains is \{'x': 1.5, 'y': 2.0\} times"):
        LearnedGroups().where_it_pays(gains, {"x": 2.0, "y": 2.0})


def measurement(ms: float) -> Measurement:
    return Measurement((ms,) * 5, (ms,) * 5, "cpu", True, (0,) * 5)


def test_a_gain_below_a_tenth_does_not_pay():
    assert not GroupingGain(measurement(1.05), measurement(1.0)).pays
    assert GroupingGain(measurement(1.2), measurement(1.0)).pays
