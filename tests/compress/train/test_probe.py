from __future__ import annotations

import copy
import math

import pytest
import torch

from compress.train import probe as module_of_probe
from compress.train.loop import Extras, Teacher, Training
from compress.train.probe import Probed, probe
from compress.train.run import Diverged
from device_profiles.errors import BadInput
from tests.compress.train.small import Criticised, Smooth, network

TRAINING = Training(steps=120, batch=4, warm_up=12, learning_rate=1e-2, precision="32-true")
ENDLESS = 1e30


def probed(*rates: float, **kind) -> Probed:
    training = Training(**{**vars(TRAINING), "probe": rates})
    return probe(network(), Smooth(), training, label="x", **kind)


def test_the_rate_with_the_least_loss_wins_and_the_network_stays_as_it_was():
    module = network()
    before = copy.deepcopy(module.state_dict())
    training = Training(**{**vars(TRAINING), "probe": (1e-4, 1.0)})
    found = probe(module, Smooth(), training, label="x", extras=Extras(teacher=Teacher(network(), 0.5)))
    low, high = found.losses
    assert (low, high) == pytest.approx((1e-6, 1e-2))
    assert found.best == 1e-2
    assert found.losses[high] < 0.8 * found.losses[low]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_probe_is_a_sixth_of_the_training(monkeypatch):
    seen = []
    monkeypatch.setattr(
        module_of_probe, "train_", lambda module, task, training, **more: seen.append((training, more["label"]))
    )
    probed(0.5, 2.0)
    assert [(each.steps, each.warm_up, each.learning_rate, each.probe, name) for each, name in seen] == [
        (20, 2, 0.005, (), "x at 0.005"),
        (20, 2, 0.02, (), "x at 0.02"),
    ]


@pytest.mark.parametrize(
    ("losses", "best"), [((1.0, 1.019, 1.1), 0.2), ((1.0, 1.021, 1.1), 0.1), ((-1.0, -0.99, -0.9), 0.2)]
)
def test_of_rates_that_are_as_good_the_highest_wins(losses, best):
    assert Probed(dict(zip((0.1, 0.2, 0.3), losses, strict=True))).best == best


def test_rates_that_diverge_lose_and_where_all_do_it_is_said():
    found = probed(ENDLESS, 1.0)
    assert found.best == 1e-2
    assert found.diverged == (1e28,)
    with pytest.raises(Diverged, match=r"the loss became .*; lower learning_rate \(=1e\+28\)"):
        probed(ENDLESS)


def test_a_loss_that_is_no_number_never_wins(monkeypatch):
    losses = iter((math.nan,) * 8 + (0.5,) * 8)
    monkeypatch.setattr(Smooth, "loss", lambda *_: torch.tensor(next(losses)))
    monkeypatch.setattr(module_of_probe, "train_", lambda *_, **__: None)
    assert probed(0.1, 1.0) == Probed({1e-2: 0.5}, (1e-3,))


def test_a_task_whose_loss_is_that_of_companions_is_refused():
    training = Training(**{**vars(TRAINING), "probe": (1.0,)})
    with pytest.raises(BadInput, match=r"probe \(=\[1\.0\]\) compares networks by the task's own loss"):
        probe(network(), Criticised(), training, label="x")


def test_a_probe_that_was_finished_is_not_trained_again(tmp_path, monkeypatch):
    first = probed(0.1, 1.0, checkpoint=lambda rate: tmp_path / f"{rate:g}.safetensors")
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"0.001.safetensors", "0.01.safetensors"}
    monkeypatch.setattr("compress.train.loop._go_on_", lambda *_: pytest.fail("it trains again"))
    assert probed(0.1, 1.0, checkpoint=lambda rate: tmp_path / f"{rate:g}.safetensors") == first
