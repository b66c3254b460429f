"""Read what a latency depends on beside the target: the machine and the state it is in."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from device_profiles.environment import Environment

# The vector extensions that runtimes choose their kernels by, on x86 and on ARM.
FLAGS = re.compile(r"avx|amx|fma$|sse4|f16c|neon|asimd|sve|sme\d?$|i8mm|bf16|fphp")
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx_cu13", "torch")
VARIABLES = ("CUDA_", "GOMP_", "KMP_", "MKL_", "OMP_", "OPENVINO_", "ORT_", "OV_", "TBB_")


def read_environment(root: Path = Path("/")) -> Environment:
    """Take a snapshot of this machine.

    Args:
        root: Where /proc and /sys are found.
    """
    cpu = _processor(root)
    cores = os.cpu_count() or 1
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    clock_khz = _number(cpufreq / "scaling_cur_freq")
    hottest = [_number(zone) for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    active = _text(root / "sys/devices/system/cpu/smt/active")
    return Environment(
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cpu_model=cpu.get("model name") or cpu.get("Model") or platform.processor() or platform.machine(),
        cpu_flags=tuple(sorted(f for f in cpu.get("flags", cpu.get("Features", "")).split() if FLAGS.match(f))),
        cores=cores,
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(cores)),
        cpu_quota=_quota(root / "sys/fs/cgroup"),
        hyperthreading=None if active is None else active == "1",
        governor=_text(cpufreq / "scaling_governor"),
        clock_mhz=clock_khz / 1000 if clock_khz else float(cpu["cpu MHz"]) if "cpu MHz" in cpu else None,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        temperature_celsius=max((zone / 1000 for zone in hottest if zone is not None), default=None),
        versions={"python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
        variables={name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        gpus=_gpus(root),
    )


def _processor(root: Path) -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo."""
    lines = (_text(root / "proc/cpuinfo") or "").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _gpus(root: Path) -> tuple[str, ...]:
    """Ask the driver's files, which need no package."""
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in (_text(file) or "").splitlines() if line.startswith("Model:")]
    return tuple(line.removeprefix("Model:").strip() for line in lines)


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time that the container allows, from control groups version 2 or 1."""
    text = _text(cgroup / "cpu.max")
    if text is not None:
        quota, period = text.split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = _number(cgroup / "cpu/cpu.cfs_quota_us"), _number(cgroup / "cpu/cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # this system has no such file, or keeps it to itself
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text else None
