"""A made-up profile whose latencies follow a formula, so that tests know what to expect."""

from __future__ import annotations

from collections.abc import Callable

from device_profiles.environment import Environment
from device_profiles.measurement import Measurement
from device_profiles.profile import DeviceProfile, LayerProfile
from device_profiles.steps import StepProbe, probe_widths
from device_profiles.target import Target

GRID = (8, 32, 64)


def flat(ms: float) -> Measurement:
    """A measurement that always read the same."""
    return Measurement((ms,) * 3, (ms,) * 3, "cpu", stable=True, interruptions=(0, 0, 0))


def environment(cpu_model: str = "Example CPU") -> Environment:
    return Environment(
        machine="x86_64",
        system="Linux 6",
        cpu_model=cpu_model,
        cpu_flags=("avx2", "fma"),
        cores=2,
        affinity=(0, 1),
        cpu_quota=None,
        hyperthreading=False,
        governor="performance",
        clock_mhz=2600.0,
        load=0.5,
        temperature_celsius=None,
        versions={"python": "3.11.7"},
        variables={"OMP_NUM_THREADS": "1"},
    )


def layer(name: str, op: str, cost: Callable[[int, int], float]) -> LayerProfile:
    measurements = {(i, o): flat(cost(i, o)) for i in GRID for o in GRID}
    return LayerProfile(name, op, GRID[-1], GRID[-1], measurements)


def probe(name: str, op: str, cost: Callable[[int], float]) -> StepProbe:
    return StepProbe(name, op, "out", {width: flat(cost(width)) for width in probe_widths(64)})


def profile(**changes: object) -> DeviceProfile:
    """Two layers, 64 channels wide: one whose latency grows with the product of its widths, one in steps of 16."""
    fields: dict[str, object] = {
        "target": Target("onnxruntime", version="1.31.1"),
        "environment": environment(),
        "model_name": "example",
        "model_sha256": "ab" * 32,
        "input_shapes": {"x": (1, 3, 32, 32)},
        "layers": (
            layer("smooth", "ConvTranspose", lambda i, o: 0.1 + i * o / 1000),
            layer("stepped", "Conv", lambda i, o: i * -(-o // 16) / 100),
        ),
        "end_to_end": flat(8.0),
        "created": "2026-01-02T03:04:05+00:00",
        "command": "python tools/profile_target.py",
        "seconds": 1.5,
        "probes": (
            probe("smooth", "ConvTranspose", lambda width: 1 + width / 10),
            probe("stepped", "Conv", lambda width: -(-width // 16)),
        ),
    }
    return DeviceProfile(**(fields | changes))  # type: ignore[arg-type]
