from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from compress.train.log import make_logger
from compress.train.loop import Extras, Teacher, train_
from device_profiles.errors import RuntimeUnavailable
from tests.compress.train.small import ALONE, Smooth, gated, network, train_small


def rows(path):
    with path.open() as file:
        return {
            int(row["step"]): {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        }


def test_terms_rates_and_quality_are_logged_beside_the_checkpoint(tmp_path):
    train_small(ALONE, tmp_path / "x.safetensors")
    found = rows(tmp_path / "logs" / "x" / "version_0" / "metrics.csv")
    assert {step for step, row in found.items() if "loss" in row} == {10, 20, 30, 40}
    assert {step for step, row in found.items() if "quality" in row} == {5, 10, 15, 20, 25, 30, 35, 40}
    row = found[20]
    assert row["loss"] == pytest.approx(row["task_loss"] + row["companions"] + row["penalty"])
    assert row["learning_rate"] == pytest.approx(ALONE.learning_rate * ALONE.rate_at(19))
    assert row["seconds"] > 0


def test_a_teachers_share_of_the_loss_is_logged(tmp_path):
    extras = Extras(teacher=Teacher(network(), 0.5))
    train_(network(), Smooth(), ALONE, label="x", checkpoint=tmp_path / "x.safetensors", extras=extras)
    row = rows(tmp_path / "logs" / "x" / "version_0" / "metrics.csv")[20]
    assert row["loss"] == pytest.approx(row["task_loss"] + row["distillation"])


def test_a_resumed_run_logs_the_rest_in_another_file(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(step, _rate):
        if step == 25:
            raise StoppedError

    path = tmp_path / "x.safetensors"
    module = network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.train.loop.CHECKPOINT_EVERY_S", 0.0)
        with pytest.raises(StoppedError):
            train_(module, Smooth(), ALONE, label="x", checkpoint=path, extras=replace(gated(module), after_step=stop))
    module = network()
    train_(module, Smooth(), ALONE, label="x", checkpoint=path, extras=gated(module))
    first, second = (rows(tmp_path / "logs" / "x" / f"version_{i}" / "metrics.csv") for i in (0, 1))
    assert sorted(first) == [5, 10, 15, 20]
    assert sorted(second) == [25, 30, 35, 40]


def test_nothing_is_logged_where_that_is_asked_for_or_there_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_(network(), Smooth(), ALONE, label="x")
    assert list(tmp_path.iterdir()) == []
    train_(network(), Smooth(), replace(ALONE, log="none"), label="x", checkpoint=tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_tensorboard_that_is_not_installed_is_a_clear_error(tmp_path, monkeypatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard.{name}", False)
    with pytest.raises(RuntimeUnavailable, match=r"log \(='tensorboard'\) needs a package .*pip install tensorboard"):
        train_(network(), Smooth(), replace(ALONE, log="tensorboard"), label="x", checkpoint=tmp_path / "x.safetensors")


def test_tensorboard_writes_its_events(tmp_path):
    pytest.importorskip("tensorboard")
    logger = make_logger("tensorboard", tmp_path / "x.safetensors")
    logger.log_metrics({"loss": 1.0}, 10)
    logger.save()
    assert list((tmp_path / "logs" / "x" / "version_0").glob("events.out.tfevents.*"))
