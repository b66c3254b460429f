from __future__ import annotations

import sys
from types import ModuleType

import pytest

from runtimes.gpu_state import GpuState, open_monitor


class NvmlError(Exception):
    pass


def fake_nvml(**changes: object) -> ModuleType:
    nvml = ModuleType("pynvml")
    names = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": lambda bus_id: bus_id,
        "nvmlDeviceGetName": lambda gpu: b"Example GPU",
        "nvmlSystemGetDriverVersion": lambda: "575.1",
        "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: {1: 1980, 2: 2600}[kind],
        "nvmlDeviceGetClockInfo": lambda gpu, kind: 1750,
        "nvmlDeviceGetPowerManagementLimit": lambda gpu: 700_000,
        "nvmlDeviceGetTemperature": lambda gpu, sensor: 41,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: 1 | 4 | 32,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlClocksThrottleReasonAll": 2047,
        "nvmlClocksThrottleReasonNone": 0,
        "nvmlClocksThrottleReasonGpuIdle": 1,
        "nvmlClocksThrottleReasonSwPowerCap": 4,
        "nvmlClocksThrottleReasonSwThermalSlowdown": 32,
        "nvmlClocksThrottleReasonHwSlowdown": 8,
    }
    for name, value in (names | changes).items():
        setattr(nvml, name, value)
    return nvml


def test_a_gpu_tells_its_clocks_and_what_holds_them_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    monitor = open_monitor("0000:01:00.0")
    assert monitor is not None
    assert monitor.state() == GpuState("Example GPU", "575.1", 1980, 2600, 700.0, 41)
    assert (monitor.clock_mhz(), monitor.throttled_by()) == (1750, ("SwPowerCap", "SwThermalSlowdown"))


def test_what_a_driver_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise NvmlError

    nvml = fake_nvml(
        nvmlDeviceGetClockInfo=refuse,
        nvmlDeviceGetCurrentClocksThrottleReasons=refuse,
        nvmlDeviceGetPowerManagementLimit=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monitor = open_monitor("0000:01:00.0")
    assert monitor is not None
    assert (monitor.clock_mhz(), monitor.throttled_by(), monitor.state().power_limit_w) == (None, (), None)


def test_without_nvml_there_is_no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NvmlError

    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=fail))
    assert open_monitor("0000:01:00.0") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_monitor("0000:01:00.0") is None
