from __future__ import annotations

import numpy as np
import pytest

from device_profiles.errors import BadInput
from device_profiles.target import Target
from runtimes.shapes import with_shapes
from runtimes.timing import Effort
from runtimes.validation import validate
from tests.runtimes.networks import conv, network, node, unet

QUICK = Effort(max_rounds=5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_networks_are_compared_with_the_reference_and_timed(runtime: str) -> None:
    models = {"original": with_shapes(unet(), {}), "pruned": with_shapes(conv(), {})}
    found = validate(models, Target(runtime), QUICK)
    assert found.target.version
    assert [parity.passed for parity in found.parities.values()] == [True, True]
    assert {measurement.n for measurement in found.latencies.values()} == {5}


def test_a_tolerance_can_be_asked_for() -> None:
    found = validate({"a": with_shapes(unet(), {})}, Target("openvino"), QUICK, tolerance=1e-12)
    assert not found.parities["a"].passed


def test_a_network_without_a_result_is_refused() -> None:
    weight = {"w": np.full((4, 4, 1, 1), np.inf, np.float32)}
    model = with_shapes(network([node("Conv", "x w", "y")], weight), {})
    with pytest.raises(BadInput, match="pruned: output 'y' is not finite in onnxruntime-cpu"):
        validate({"pruned": model}, Target("openvino"), QUICK)
