"""What is deployed: a network as ONNX in f32 and f16, an engine, and a manifest that says where each is valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from device_profiles.errors import BadInput
from device_profiles.store import write_whole
from device_profiles.target import Target
from runtimes.cuda import bus_id, check_gpu, compute_capability
from runtimes.gpu_state import open_monitor
from runtimes.half import to_half
from runtimes.model_file import to_bytes
from runtimes.trt import TensorRtSession
from runtimes.trt_build import EngineOptions, build_engine
from runtimes.trt_sdk import RTX, load_sdk

MANIFEST, SCHEMA = "manifest.json", 1  # 1: the first
F32, F16, ENGINE, CACHE = "model.onnx", "model.f16.onnx", "model.engine", "timing.cache"


def export_onnx(model: onnx.ModelProto, folder: Path) -> dict[str, dict[str, Any]]:
    """Write a network in f32 and in f16.

    Args:
        model: With its weights.
        folder: Where to.

    Returns:
        File -> what it is, for the manifest.

    Raises:
        BadInput: A file cannot be written, or the network is larger than 2 GiB.
        UnsupportedModel: The network cannot be converted to f16.
    """
    half = to_half(model)
    write_whole(folder / F32, to_bytes(model))
    write_whole(folder / F16, to_bytes(half.model))
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    valid = {"kind": "onnx", "opset": opset, "valid_for": "any runtime that knows this opset"}
    return {
        F32: valid | {"precision": "f32"},
        F16: valid | {"precision": "f16", "kept_in_f32": list(half.kept), "weights_that_vanish": half.vanished},
    }


def export_engine(
    model: onnx.ModelProto, folder: Path, target: Target, options: EngineOptions
) -> dict[str, dict[str, Any]]:
    """Build an engine and write it with what its kernels took, from which the next build of it starts.

    Args:
        model: With its weights.
        folder: Where to.
        target: TensorRT or TensorRT-RTX, on a GPU of this machine.
        options: How to build; the file of the timing cache is set here.

    Returns:
        File -> what it is, for the manifest.

    Raises:
        BadInput: A file cannot be written, or an option is wrong.
        RuntimeUnavailable: The package or the GPU is not here.
        UnsupportedModel: TensorRT refuses the network.
    """
    sdk, gpu = load_sdk(target.runtime), check_gpu(target.device, target.runtime)
    cache = folder / CACHE if target.runtime != RTX else None  # which times no kernels when it builds
    plan = build_engine(model, sdk, EngineOptions(target.precision, options.batches, options.workspace_bytes, cache))
    write_whole(folder / ENGINE, plan)
    monitor = open_monitor(bus_id(gpu))
    valid_for = {
        "runtime": target.runtime,
        "version": sdk.version,
        "compute_capability": ".".join(map(str, compute_capability(gpu))),
        "gpu": asdict(monitor.state()) if monitor else None,
    }
    engine = {
        "kind": "engine",
        "precision": target.precision,
        "batches": list(options.batches),
        "workspace_bytes": options.workspace_bytes,
        "valid_for": valid_for,
    }
    written = {ENGINE: engine}
    if cache is not None and cache.is_file():
        cache.with_name(f"{CACHE}.lock").unlink(missing_ok=True)
        written[CACHE] = {"kind": "timing cache", "valid_for": valid_for}
    return written


def write_manifest(folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write what a folder holds, with the SHA-256 of each file.

    Args:
        folder: The folder.
        name: Of the network.
        files: File -> what it is.

    Returns:
        The manifest.

    Raises:
        BadInput: It cannot be written.
    """
    listed = {file: dict(entry) | {"sha256": _sha256(folder / file)} for file, entry in files.items()}
    manifest = {"schema": SCHEMA, "model": name, "files": listed}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def open_engine(folder: Path, device: str, *, trusted: bool) -> TensorRtSession:
    """Load an engine that `export_engine` wrote.

    Args:
        folder: The folder.
        device: The GPU.
        trusted: Whether the folder's origin is known: an engine holds code that is run, so a manifest or a hash that
            came with it proves nothing.

    Raises:
        BadInput: The folder is not trusted, or holds no whole engine.
        RuntimeUnavailable: The package or the GPU is not here.
        UnsupportedModel: The engine is of another version or GPU.
    """
    if not trusted:
        raise BadInput(
            f"{folder / ENGINE} holds code that is run when it is loaded; pass --trust-engine if you know where "
            f"it comes from, or build it again from {F32}"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        entry = manifest["files"][ENGINE]
        valid_for, sha256 = entry["valid_for"], entry["sha256"]
        plan = (folder / ENGINE).read_bytes()
    except (OSError, ValueError, LookupError, TypeError) as err:
        raise BadInput(f"{folder} holds no engine with a manifest ({err}); make one with tools/export_onnx.py") from err
    if hashlib.sha256(plan).hexdigest() != sha256:
        raise BadInput(f"{folder / ENGINE} is not what its manifest says (SHA-256); copy the folder again")
    target = Target(valid_for["runtime"], device, entry["precision"], batch=entry["batches"][1])
    sdk, gpu = load_sdk(target.runtime), check_gpu(device, target.runtime)
    here = {"version": sdk.version, "compute_capability": ".".join(map(str, compute_capability(gpu)))}
    if wrong := [f"{key} {valid_for[key]} (here: {value})" for key, value in here.items() if valid_for[key] != value]:
        raise BadInput(f"{folder / ENGINE} was built for {', '.join(wrong)}; build it again from {F32}")
    return TensorRtSession(plan, sdk, target)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
