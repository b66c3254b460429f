from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.profiling import Profiling
from device_profiles.errors import BadInput
from device_profiles.predict import predict
from device_profiles.store import load_profile
from device_profiles.target import Target
from runtimes import profiler
from runtimes.profiler import ProfileConfig
from tests.runtimes.networks import unet

QUICK = ProfileConfig(budget_s=0.01)


def test_a_profile_in_context_holds_both_and_is_written_as_returned(tmp_path: Path) -> None:
    profiling = Profiling(unet(), "test", Target("onnxruntime"), QUICK, tmp_path / "p.json", variants=8)
    profile = profiling.profile(in_context=True, command="again")
    assert [file.name for file in tmp_path.iterdir()] == ["p.json"]
    assert load_profile(tmp_path / "p.json") == profile
    assert profile.in_context is not None
    assert len(profile.in_context.variants) == 9
    assert len(profile.layers[1].measurements) > 1
    assert predict(profile, {}).ms > predict(profile, {"down.1": (8, 16)}).ms
    assert profiling.check(profile, 2).best.predicted_ms
    assert profiling.profile(in_context=False).in_context is None


def test_layers_can_be_measured_in_isolation_at_full_width_only() -> None:
    config = replace(QUICK, narrow=False)
    profile = Profiling(unet(), "test", Target("onnxruntime"), config, variants=8).profile(in_context=False)
    assert [len(layer.measurements) for layer in profile.layers] == [1, 1, 1, 1]
    assert profile.probes == ()


def test_a_run_that_is_killed_while_layers_are_isolated_keeps_what_was_measured_in_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiling = Profiling(unet(), "test", Target("onnxruntime"), QUICK, tmp_path / "p.json", variants=8)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(profiler, "sit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            profiling.profile(in_context=True)
    kept = sorted(file.name for file in tmp_path.iterdir())
    assert kept == ["p.json.in-context.partial", "p.json.partial"]
    assert profiling.profile(in_context=True).in_context is not None
    assert [file.name for file in tmp_path.iterdir()] == ["p.json"]


def test_too_few_variants_are_refused() -> None:
    with pytest.raises(BadInput, match=r"variants \(=7\) must be at least 8"):
        Profiling(unet(), "test", Target("onnxruntime"), QUICK, variants=7)
