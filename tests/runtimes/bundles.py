"""Small bundles for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.profiling import Profiling
from device_profiles.target import Target
from runtimes.bundled.runner import Watchdog, run_bundle
from runtimes.profiler import ProfileConfig
from tests.runtimes.networks import unet

QUICK = ProfileConfig(budget_s=0.01)


def profiling(runtime: str = "onnxruntime", *, narrow: bool = False) -> Profiling:
    return Profiling(unet(), "test", Target(runtime), replace(QUICK, narrow=narrow), variants=8)


def bundle(folder: Path, runtime: str = "onnxruntime", *, narrow: bool = False, in_context: bool = True) -> Path:
    """Write a bundle of a small UNet."""
    profiling(runtime, narrow=narrow).bundle(folder, in_context=in_context)
    return folder


def run_here(folder: Path) -> None:
    """Run a bundle in this process, as run_bundle.py does."""
    run_bundle(folder, Watchdog(600))
