from __future__ import annotations

import pytest

from compress import validate
from device_profiles.target import Target
from tests.compress.methods.digits import graph_of, network

ON = Target("onnxruntime")


def test_the_layers_of_each_network_add_up_to_its_latency() -> None:
    networks = {"wide": graph_of(network()).network, "narrow": graph_of(network(widths=(8, 8, 16, 16))).network}
    parts = validate.layer_parts(networks, {"wide": 3.0, "narrow": 1.0}, ON)
    assert parts["wide"].keys() == parts["narrow"].keys()
    assert sum(parts["wide"].values()) == pytest.approx(3.0)
    assert sum(parts["narrow"].values()) == pytest.approx(1.0)


def test_a_runtime_whose_profiler_is_not_read_tells_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "times_operators", lambda _: False)
    assert validate.layer_parts({"wide": graph_of(network()).network}, {"wide": 3.0}, ON) == {}
