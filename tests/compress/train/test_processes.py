from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from compress.train.processes import fabric_precision, make_fabric, on_first, share_of
from device_profiles.errors import BadInput
from tests.compress.train.small import ALONE, SHARED, Smooth, finish, network, start, step_of, train_small

TOLERANCE = 1e-6  # sums of another order; 20 steps were within 6e-8


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def kill_at_random_moments(training, folder, times, **kind):
    """Start a run and kill it, again and again, a moment after it got further than before."""
    moments, reached = random.Random(time.time_ns()), []
    for _ in range(times):
        processes = start(training, folder, **kind)
        before = step_of(folder / "x.safetensors")
        while step_of(folder / "x.safetensors") == before and processes[0].is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        for process in processes:
            process.kill()
            process.join()
        reached.append(step_of(folder / "x.safetensors"))
    return reached


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(tmp_path):
    reached = kill_at_random_moments(ALONE, tmp_path, 3, dropout=0.2)
    assert 0 < reached[0] < ALONE.steps
    found = finish(start(ALONE, tmp_path, dropout=0.2), tmp_path)
    assert equal(found, train_small(ALONE, dropout=0.2) | {"drawn by the first": torch.tensor(7)})


def test_two_processes_train_what_one_trains_with_the_whole_batch(tmp_path):
    found = finish(start(SHARED, tmp_path, world=2), tmp_path)
    assert equal(found, load_file(tmp_path / "weights-1"))
    assert found["drawn by the first"] == 7
    for name, value in train_small(SHARED).items():
        torch.testing.assert_close(found[name], value, atol=TOLERANCE, rtol=0, msg=name)


def test_two_processes_killed_at_a_random_moment_end_like_two_that_were_not(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    expected = finish(start(SHARED, whole, world=2), whole)
    kill_at_random_moments(SHARED, killed, 1, world=2)
    assert equal(finish(start(SHARED, killed, world=2), killed), expected)


def test_statistics_of_two_processes_are_the_means_of_theirs(tmp_path):
    short = replace(SHARED, steps=1, average=None)
    found = finish(start(short, tmp_path, world=2, task=Smooth, norm="batch"), tmp_path)
    whole = Smooth().batch(0, SHARED.batch).inputs
    features = [network("batch")[0](share).transpose(0, 1).flatten(1) for share in (whole[::2], whole[1::2])]
    mean = sum(0.1 * each.mean(1) for each in features) / 2
    variance = 0.9 + sum(0.1 * each.var(1) for each in features) / 2
    torch.testing.assert_close(found["network.1.running_mean"], mean, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(found["network.1.running_var"], variance, atol=TOLERANCE, rtol=0)


def test_a_batch_that_cannot_be_shared_out_is_refused():
    class Three(Fabric):
        world_size = 3

    with pytest.raises(BadInput, match=r"batch \(=8\) must be a multiple of the number of processes \(=3\)"):
        share_of(Three(accelerator="cpu", devices=1), Smooth().batch(0, 8))


def test_processes_take_turns_at_the_rows():
    class Second(Fabric):
        world_size, global_rank = 2, 1

    whole = Smooth().batch(0, 8)
    share = share_of(Second(accelerator="cpu", devices=1), whole)
    assert torch.equal(share.inputs, whole.inputs[1::2])
    assert torch.equal(share.targets, whole.targets[1::2])
    assert share.names == whole.names[1::2]


def test_alone_the_first_process_computes_for_itself():
    assert on_first(lambda: {"width": 3}) == {"width": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match=r"device \(='cuda'\) needs a CUDA device"):
        make_fabric("cuda")


def test_bf16_is_chosen_only_where_the_cpu_computes_in_it(monkeypatch):
    class Environment:
        cpu_flags = ("avx2",)

    monkeypatch.setattr("compress.train.processes.read_environment", Environment)
    assert fabric_precision("auto") == "32-true"
    Environment.cpu_flags = ("avx512_bf16",)
    assert fabric_precision("auto") == "bf16-mixed"
    assert fabric_precision("32-true") == "32-true"
