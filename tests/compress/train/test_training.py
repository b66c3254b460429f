from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from compress.train.optimizer import make_optimizer
from compress.train.training import Training
from tests.compress.train.small import network


def test_the_learning_rate_rises_then_falls_to_zero():
    cosine = Training(steps=100, warm_up=10)
    rates = [cosine.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], rel=0.03)
    assert rates[-1] < 0.001


def test_a_flat_schedule_falls_at_the_end_only():
    flat = Training(steps=100, warm_up=10, schedule="flat")
    assert flat.rate_at(50) == 1.0
    assert flat.rate_at(85) == pytest.approx(0.5)
    cyclegan = Training(steps=100, warm_up=0, schedule="flat", fall=0.5)
    assert cyclegan.rate_at(50) == 1.0
    assert cyclegan.rate_at(75) == pytest.approx(0.5)


def test_a_multistep_schedule_is_multiplied_at_its_milestones():
    training = Training(steps=100, warm_up=0, schedule="multistep", milestones=(0.3, 0.6), factor=0.2)
    assert [training.rate_at(step) for step in (0, 29, 30, 59, 60, 99)] == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


def test_a_constant_schedule_stays():
    assert {Training(steps=100, warm_up=0, schedule="constant").rate_at(step) for step in range(100)} == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "flat"])
def test_the_schedule_ends_with_the_time_if_that_ends_first(schedule):
    training = Training(steps=1000, warm_up=0, schedule=schedule, minutes=1)
    assert training.rate_at(10, time_share=0.9) == pytest.approx(training.rate_at(900))
    assert training.rate_at(900, time_share=0.1) == training.rate_at(900)
    assert training.rate_at(10, time_share=1.0) == pytest.approx(0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "greater than 0"),
        ({"milestones": (0.75, 0.5)}, r"milestones \(=\(0.75, 0.5\)\) must rise; put them in order"),
        ({"milestones": (0.5, 1.5)}, "less than 1"),
        ({"nesterov": True, "momentum": 0.0}, r"nesterov \(=True\) needs a momentum above 0; set momentum"),
        ({"average": 1.0}, "less than 1"),
        ({"schedule": "step"}, "'cosine', 'flat', 'multistep' or 'constant'"),
        ({"dropout": 0.1}, "Unexpected keyword argument"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Training).validate_python({"steps": 10} | wrong)


def groups_of(module):
    return [{"params": list(module.parameters()), "lr": 1.0}]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_the_optimizer_is_the_one_that_is_named(name, kind):
    optimizer = make_optimizer(Training(steps=1, optimizer=name, momentum=0.8, nesterov=True), groups_of(network()))
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]
    if name == "sgd":
        assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["nesterov"]) == (0.8, True)
    else:
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_biases_and_normalisations_do_not_decay():
    module = network()
    given = groups_of(module)
    convolutions, rest = make_optimizer(Training(steps=1, weight_decay=0.1), given).param_groups
    assert [p.dim() for p in convolutions["params"]] == [4, 4]
    assert convolutions["weight_decay"] == 0.1
    assert {p.dim() for p in rest["params"]} == {1}
    assert rest["weight_decay"] == 0.0
    assert given[0].keys() == {"params", "lr"}


def test_everything_decays_where_that_is_asked_for_and_a_group_may_have_its_own_decay():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [*groups_of(one), {"params": list(two.parameters()), "lr": 3.0, "weight_decay": 0.5}]
    found = make_optimizer(Training(steps=1, weight_decay=0.1, decayed="all"), groups).param_groups
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in found] == [
        (2, 1.0, 0.1),
        (2, 3.0, 0.5),
    ]
