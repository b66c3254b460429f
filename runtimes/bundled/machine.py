"""Read what a latency depends on beside the target: the machine and the state it is in."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

# The vector extensions that runtimes choose their kernels by, on x86 and on ARM.
FLAGS = re.compile(r"avx|amx|fma$|sse4|f16c|neon|asimd|sve|sme\d?$|i8mm|bf16|fphp")
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx_cu13", "torch")
VARIABLES = ("CUDA_", "GOMP_", "KMP_", "MKL_", "OMP_", "OPENVINO_", "ORT_", "OV_", "TBB_")


def read_environment(root: Path = Path("/")) -> dict[str, Any]:
    """Take a snapshot of this machine: the fields of `device_profiles.environment.Environment`.

    Args:
        root: Where /proc and /sys are found.
    """
    cpu = _processor(root)
    cores = os.cpu_count() or 1
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    clock_khz = _number(cpufreq / "scaling_cur_freq")
    hottest = [_number(zone) for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    active = _text(root / "sys/devices/system/cpu/smt/active")
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu_model": _cpu_model(cpu, root),
        "cpu_flags": sorted(f for f in cpu.get("flags", cpu.get("Features", "")).split() if FLAGS.match(f)),
        "cores": cores,
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(cores)),
        "cpu_quota": _quota(root / "sys/fs/cgroup"),
        "hyperthreading": None if active is None else active == "1",
        "governor": _text(cpufreq / "scaling_governor"),
        "clock_mhz": clock_khz / 1000 if clock_khz else float(cpu["cpu MHz"]) if "cpu MHz" in cpu else None,
        "lowest_clock_mhz": _mhz(cpufreq / "scaling_min_freq"),
        "highest_clock_mhz": _mhz(cpufreq / "scaling_max_freq"),
        "load": load_average(),
        "temperature_celsius": max((zone / 1000 for zone in hottest if zone is not None), default=None),
        "versions": dict({"python": platform.python_version()}, **{p: v for p, v in versions.items() if v}),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        "gpus": _gpus(root),
    }


def load_average() -> float | None:
    """Tell how many processes could run, averaged over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _processor(root: Path) -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo."""
    lines = (_text(root / "proc/cpuinfo") or "").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _gpus(root: Path) -> list[str]:
    """Ask the driver's files, which need no package."""
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in (_text(file) or "").splitlines() if line.startswith("Model:")]
    return [line[len("Model:") :].strip() for line in lines]


def _cpu_model(cpu: Mapping[str, str], root: Path) -> str:
    """The processor's name; ARM's give numbers, so the board's name is added there."""
    if "model name" in cpu:
        return cpu["model name"]
    board = (_text(root / "proc/device-tree/model") or "").strip("\0 ")
    core = f"ARM {cpu['CPU implementer']} {cpu.get('CPU part', '')}".strip() if "CPU implementer" in cpu else ""
    return ", ".join(part for part in (board, core) if part) or platform.processor() or platform.machine()


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


def _mhz(path: Path) -> float | None:
    khz = _number(path)
    return khz / 1000 if khz else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # this system has no such file, or keeps it to itself
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text else None
