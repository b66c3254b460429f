"""What the driver of an NVIDIA GPU tells of its state, through nvidia-ml-py."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

# Two reasons that are no hindrance: nothing to do, and clocks that somebody has set on purpose.
HARMLESS = ("GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks", "None", "All")


@dataclass(frozen=True)
class GpuState:
    """A GPU and how it is set up. None: the driver does not tell, as of a part of a GPU.

    Attributes:
        name: Such as "NVIDIA H200".
        driver: Version of the driver.
        clock_limit_mhz: The highest clock of the processors that is allowed.
        memory_clock_limit_mhz: The same of its memory.
        power_limit_w: What it may draw.
        temperature_celsius: Of the chip.
    """

    name: str
    driver: str
    clock_limit_mhz: int | None
    memory_clock_limit_mhz: int | None
    power_limit_w: float | None
    temperature_celsius: int | None


class GpuMonitor:
    """Reads clocks while something is measured; each reading takes some microseconds.

    Args:
        bus_id: Where the GPU is, as CUDA tells it, which numbers GPUs in another order.
    """

    def __init__(self, bus_id: str) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._gpu = self._nvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
        prefix = "nvmlClocksThrottleReason"  # "ClocksEventReason" in newer drivers, which keep these names, too
        names = [name for name in dir(self._nvml) if name.startswith(prefix)]
        self._reasons = {
            getattr(self._nvml, name): name.removeprefix(prefix)
            for name in sorted(names)
            if name.removeprefix(prefix) not in HARMLESS
        }

    def clock_mhz(self) -> int | None:
        """The processors' clock right now; None where the driver does not tell."""
        return self._read("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM)

    def throttled_by(self) -> tuple[str, ...]:
        """Why the driver holds the clock down right now."""
        bits = self._read("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return tuple(name for bit, name in self._reasons.items() if bits & bit)

    def state(self) -> GpuState:
        """Read what hardly changes."""
        nvml, limit_mw = self._nvml, self._read("nvmlDeviceGetPowerManagementLimit")
        return GpuState(
            name=_text(nvml.nvmlDeviceGetName(self._gpu)),
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            clock_limit_mhz=self._read("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
            memory_clock_limit_mhz=self._read("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            temperature_celsius=self._read("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        )

    def _read(self, function: str, *arguments: object) -> int | None:
        try:
            return int(getattr(self._nvml, function)(self._gpu, *arguments))
        except self._nvml.NVMLError:  # not supported, or not for this user
            return None


def open_monitor(bus_id: str) -> GpuMonitor | None:
    """Watch a GPU; None where nvidia-ml-py is not installed or NVML is not there, as on a Jetson."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        return GpuMonitor(bus_id)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
