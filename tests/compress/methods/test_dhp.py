"""What separates a correct DHP from a broken one: a search on digits, and couplings of several kinds."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from compress.cut import cut_at_random
from compress.export import export_module
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.count import macs
from compress.graph.surgery import remove_channels
from compress.methods.base import Context
from compress.methods.dhp import Dhp, Search, macs_share
from compress.surgery import prune_module
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput
from tests.compress.methods import networks
from tests.compress.methods.digits import Digits, accuracy, graph_of, network

TRAINING = Training(steps=200, batch=64, learning_rate=2e-3, schedule="flat", precision="32-true")
TARGET, LIMIT = 0.5, 0.03
ON_MACS = {"stop_on": "macs", "macs_target": TARGET, "macs_limit": LIMIT, "device_aware": False}
EXACT = 1e-5


def context(module, graph, task, training=TRAINING, shares=None, goal=2.0):
    shares = shares or {layer.name: 1 / len(graph.layers) for layer in graph.layers}
    return Context(module, graph, task, training, shares, goal, lambda widths: 1 / macs_share(graph, widths))


@dataclass(frozen=True)
class Searched:
    module: nn.Module
    search: Search

    @property
    def keep(self) -> Keep:
        return self.search.keep()

    def accuracy_when_kept(self, keep: Keep) -> float:
        return accuracy(prune_module(self.module, self.search.context.graph, keep), Digits())


@functools.cache
def digits_graph() -> ChannelGraph:
    return graph_of(network())


@functools.cache
def searched(**settings) -> Searched:
    module, task = network(), Digits()
    search = Dhp(**ON_MACS | settings).prepare(context(module, digits_graph(), task))
    train_(module, task, TRAINING, label="search", extras=search.extras())
    search.finish_()
    return Searched(module, search)


@functools.cache
def plain_accuracy() -> float:
    module = network()
    train_(module, Digits(), TRAINING, label="plain")
    return accuracy(module, Digits())


@pytest.fixture(params=[False, True], ids=["biases", "exact"])
def found(request):
    return searched(exact=request.param)


def test_the_search_ends_just_above_its_target(found):
    share = macs_share(found.search.context.graph, {name: len(kept) for name, kept in found.keep.items()})
    assert found.search.state["reached"]
    assert TARGET <= share <= TARGET + LIMIT


def test_a_fifth_of_the_latents_are_exactly_zero(found):
    assert (found.search.latents.values == 0).float().mean() >= 0.2


def test_the_hypernetworks_make_a_network_as_accurate_as_plain_training(found):
    assert accuracy(found.module, Digits()) >= plain_accuracy() - 1


def test_what_the_latents_leave_is_far_better_than_a_random_cut_of_the_same_counts(found):
    at_random = [
        found.accuracy_when_kept(cut_at_random(found.search.context.graph, found.keep, seed)) for seed in range(3)
    ]
    assert found.accuracy_when_kept(found.keep) >= max(at_random) + 25


def test_without_hyper_biases_cutting_changes_no_digit():
    found = searched(exact=True)
    assert found.accuracy_when_kept(found.keep) == accuracy(found.module, Digits())


def test_without_shrinkage_the_search_never_ends():
    module, task = network(), Digits()
    short = Training(steps=30, batch=16, learning_rate=2e-3, precision="32-true")
    search = Dhp(**ON_MACS, strength=0).prepare(context(module, digits_graph(), task, short))
    phase = train_(module, task, short, label="search", extras=search.extras())
    assert phase.quality_steps[-1] == 30
    assert not search.state["reached"]
    assert (search.latents.values != 0).all()


def test_the_search_ends_at_a_predicted_speedup():
    module = network()
    search = Dhp(device_aware=False).prepare(context(module, digits_graph(), Digits(), goal=3.0))
    search.after_step(1, 0.0)
    assert not search.state["reached"]
    for step in range(400):
        search.after_step(step, 1e-3)
        if search.state["reached"]:
            break
    widths = {name: len(kept) for name, kept in search.keep().items()}
    assert search.context.speedup(widths) >= 3.0


def test_latents_of_slow_layers_shrink_faster():
    module = network()
    graph = digits_graph()
    shares = {layer.name: 0.6 if layer.name == "3" else 0.1 for layer in graph.layers}
    search = Dhp().prepare(context(module, graph, Digits(), shares=shares))
    assert np.mean(list(search.latency_weights.values())) == pytest.approx(1)
    assert search.latency_weights["3"] == pytest.approx(6 * search.latency_weights["0"])
    before = search.latents.magnitudes()
    before = {name: values.copy() for name, values in before.items()}
    search.after_step(1, 1e-4)
    taken = {name: (before[name] - values).max() for name, values in search.latents.magnitudes().items()}
    assert taken["3"] == pytest.approx(6 * taken["0"], rel=1e-3)


@pytest.mark.parametrize("shrinkage", ["l1", "l2"])
def test_the_proximal_step_is_that_of_the_paper(shrinkage):
    module = network()
    search = Dhp(shrinkage=shrinkage, strength=0.5, device_aware=False).prepare(
        context(module, digits_graph(), Digits())
    )
    z = search.latents.values.detach().clone().numpy()[:32]
    search.after_step(1, 0.01)
    by = 0.01 * search.latent_rate * 0.5
    wanted = np.sign(z) * np.maximum(abs(z) - by, 0) if shrinkage == "l1" else z * (1 - by / np.sqrt((z**2).mean()))
    assert search.latents.values.detach().numpy()[:32] == pytest.approx(wanted, rel=1e-5)


def test_no_set_falls_below_its_least_channels():
    module = network(widths=(8, 3, 8, 8))
    search = Dhp(min_channels=4, device_aware=False).prepare(context(module, graph_of(module), Digits()))
    for step in range(200):
        search.after_step(step, 1e-2)
    assert [len(kept) for kept in search.keep().values()] == [4, 3, 4, 4]


def test_preparing_gives_up_the_weights_and_norms_the_network_had():
    module = network()
    nn.init.constant_(module[1].weight, 3.0)
    before = module[3].weight.detach().clone()
    Dhp().prepare(context(module, digits_graph(), Digits()))
    assert (module[1].weight == 1).all()
    assert not torch.equal(module[3].weight, before)
    assert module[7].weight.std().item() == pytest.approx(1 / np.sqrt(32 * 9), rel=0.25)  # hyperfan-in


def test_a_pair_of_channels_with_3x3_kernel_has_98_numbers_in_training():
    module = network()
    pairs = module[3].weight.shape[0] * module[3].weight.shape[1]
    Dhp().prepare(context(module, digits_graph(), Digits()))
    assert sum(parameter.numel() for parameter in module[3].parameters()) == 98 * pairs


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_cutting_zero_latents_is_exact_on_every_kind_of_coupling(name):
    module, graph = networks.built(name)
    keys = set(module.state_dict())
    search = Dhp(exact=True, min_channels=1).prepare(context(module, graph, networks.Noise()))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        search.latents.values *= torch.rand(len(search.latents.values), generator=generator) > 0.4
    search.finish_()
    assert set(module.state_dict()) == keys
    keep = search.keep()
    assert sum(len(kept) for kept in keep.values()) < 0.8 * sum(one.width for one in graph.prunable)
    inputs = networks.Noise().batch(0, 2).inputs
    module.eval()
    pruned = prune_module(module, graph, keep)
    assert torch.allclose(pruned(inputs), module(inputs), atol=EXACT)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_layer_with_a_weight_takes_part(name):
    module, graph = networks.built(name)
    search = Dhp().prepare(context(module, graph, networks.Noise()))
    assert search.layers.keys() == {layer.name for layer in graph.layers}
    assert search.latents.spans.keys() == {one.name for one in graph.prunable}
    assert search.scores().keys() == search.latents.spans.keys()


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_share_of_macs_is_that_of_the_pruned_network(name):
    _, graph = networks.built(name)
    keep = {one.name: np.arange(one.width // 2) for one in graph.prunable}
    counted = macs(remove_channels(graph, keep)) / macs(graph.network)
    assert macs_share(graph, {name: len(kept) for name, kept in keep.items()}) == pytest.approx(counted)


def test_a_weight_that_two_layers_share_stays_as_it_is():
    module = network(widths=(8, 8, 8, 8))
    module[7].weight = module[3].weight
    search = Dhp().prepare(context(module, graph_of(module), Digits()))
    assert "3" not in search.layers
    assert search.layers.keys() == {"0", "10", "15"}
    untouched = search.scores().keys() - search.latents.spans.keys()
    assert untouched
    assert all((search.scores()[name] == search.latents.values.abs().max().item()).all() for name in untouched)


def test_a_search_in_training_exports_the_weights_it_makes():
    module = network()
    Dhp().prepare(context(module, digits_graph(), Digits()))
    exported = export_module(module, torch.zeros(1, 1, 8, 8))
    assert exported.weights["3.weight"] == pytest.approx(module[3].weight.detach().numpy())


class Stopped(Exception):
    """The run was killed."""


def test_a_search_that_was_stopped_halfway_ends_with_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.train.loop.CHECKPOINT_EVERY_S", 0.0)
    training = Training(steps=12, batch=8, learning_rate=2e-2, warm_up=1, precision="32-true")

    def run(name: str, stop_at: int | None = None) -> Search:
        module, graph = networks.built("residual")
        task = networks.Noise()
        search = Dhp(stop_on="macs", macs_target=0.01).prepare(context(module, graph, task, training))
        if stop_at is not None:
            draw = task.batch
            task.batch = lambda step, size: stop() if step == stop_at else draw(step, size)
        train_(module, task, training, label="search", extras=search.extras(), checkpoint=tmp_path / name)
        return search

    def stop():
        raise Stopped

    whole = run("whole")
    with pytest.raises(Stopped):
        run("halved", stop_at=6)
    resumed = run("halved")
    for name, values in whole.scores().items():
        assert np.array_equal(values, resumed.scores()[name])


def test_a_run_with_other_settings_does_not_take_the_checkpoint(tmp_path):
    training = Training(steps=1, batch=8, precision="32-true")
    for exact in (False, True):
        module, graph = networks.built("flat")
        search = Dhp(exact=exact).prepare(context(module, graph, networks.Noise(), training))
        if not exact:
            train_(module, networks.Noise(), training, label="a", extras=search.extras(), checkpoint=tmp_path / "a")
    with pytest.raises(BadInput, match="does not fit this run"):
        train_(module, networks.Noise(), training, label="a", extras=search.extras(), checkpoint=tmp_path / "a")
