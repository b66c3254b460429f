from __future__ import annotations

import numpy as np
import openvino
import pytest

from device_profiles.errors import RuntimeUnavailable
from device_profiles.target import Target
from runtimes import ov
from runtimes.base import check_target, open_session
from runtimes.feeds import random_feeds
from tests.runtimes.networks import unet


def capabilities() -> list[str]:
    return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def test_float32_is_asked_for_by_name() -> None:
    assert ov._options(Target("openvino"))["INFERENCE_PRECISION_HINT"] == "f32"
    with open_session(unet(), Target("openvino", threads=2)) as session:
        compiled = session._compiled  # type: ignore[attr-defined]
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


@pytest.mark.skipif("BF16" not in capabilities(), reason="this processor has no bf16")
def test_bf16_happens_only_where_it_is_asked_for() -> None:
    feeds, results = {}, {}
    for precision in ("f32", "bf16"):
        with open_session(unet(), Target("openvino", precision=precision)) as session:  # type: ignore[arg-type]
            feeds = feeds or random_feeds(session.inputs, session.dtypes)
            results[precision] = session.run(feeds)["y"]
    with open_session(unet(), Target("onnxruntime")) as session:
        reference = session.run(feeds)["y"]
    assert np.abs(results["f32"] - reference).max() < 1e-5
    assert np.abs(results["bf16"] - reference).max() > 1e-4


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ov.CAPABILITIES, "bf16", "NOTHING HAS THIS")
    with pytest.raises(RuntimeUnavailable, match=r"precision \(='bf16'\) is not native to this cpu, which has f32"):
        check_target(Target("openvino", precision="bf16"))


def test_another_precision_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov, "_options", lambda target: {"EXECUTION_MODE_HINT": "ACCURACY"})
    with pytest.raises(RuntimeUnavailable, match=r"'f32'\) was asked for, but OpenVINO computes in dynamic"):
        open_session(unet(), Target("openvino"))


def test_a_prepared_call_reads_its_feeds_after_the_caller_has_let_go_of_them() -> None:
    with open_session(unet(), Target("openvino")) as session:
        (expected,) = session.run(random_feeds(session.inputs, session.dtypes)).values()
        call = session.prepare(random_feeds(session.inputs, session.dtypes))
        shapes = [shape for shape in session.inputs.values() for _ in range(50)]
        others = [np.full(shape, 7.0, np.float32) for shape in shapes]  # where the feeds were
        (found,) = call().values()  # type: ignore[attr-defined]
        np.testing.assert_array_equal(found, expected)
        del others
