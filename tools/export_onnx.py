"""Write what is deployed: the network as ONNX in f32 and f16, an engine for TensorRT, and a manifest.

The manifest says what each file is valid for. An engine fits the GPU and the version that built it only, and is written
when --runtime names TensorRT or TensorRT-RTX; it comes with the timing cache from which the next build starts. Engines
hold code that is run when they are loaded: --check-engine loads one, runs it and compares it with its ONNX file, but
only with --trust-engine.

Example:
    python tools/export_onnx.py --model unet-32 --output deployed
    python tools/export_onnx.py --model unet-32 --output deployed --dynamic-batch
    python tools/export_onnx.py --model pruned.onnx --output deployed --runtime tensorrt --precision f16
    python tools/export_onnx.py --check-engine deployed --trust-engine
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from device_profiles.errors import BadInput
from tools.command_line import run


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="unet-64", help="a bundled network, an .onnx file or package.module:callable (%(default)s)")
    add("--input", action="append", default=[], metavar="1x3x128x128", help="shape of an input, once for each")
    add("--output", type=Path, default=Path("runs/deployed"), help="the folder (default: %(default)s)")
    add("--runtime", choices=("tensorrt", "tensorrt-rtx"), help="also build an engine, which needs the GPU")
    add("--device", default="cuda", help="the GPU, such as cuda:1 (default: %(default)s)")
    add("--precision", default="f16", help="of the engine: f32, tf32 or f16 (default: %(default)s)")
    add("--batch", type=int, default=1, help="samples of one inference, the usual number (default: %(default)s)")
    add(
        "--dynamic-batch", action="store_true", help="leave the batch of a network that torch builds open, as files may"
    )
    add("--max-batch", type=int, help="the most that the engine takes, for networks with an open batch (--batch)")
    add("--workspace-mib", type=int, default=1024, help="scratch memory of a kernel at most (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the weights of bundled networks (default: %(default)s)")
    add("--check-engine", type=Path, metavar="FOLDER", help="load an engine that was written, and compare its results")
    add("--trust-engine", action="store_true", help="the engine's origin is known: loading it runs code in it")
    add("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)
    found = _check(options) if options.check_engine else _export(options)
    print(json.dumps(found, indent=1) if options.json else _table(found))
    return 0


def _export(options: argparse.Namespace) -> dict[str, Any]:
    # Loaded only now, so that --help needs nothing and takes no time.
    from device_profiles.target import Target
    from runtimes.artefacts import export_engine, export_onnx, write_manifest
    from runtimes.base import check_target
    from runtimes.model_file import read_model
    from runtimes.trt_build import EngineOptions
    from tools.model_argument import load_model, parse_shape

    if options.batch < 1 or options.workspace_mib < 1:
        raise BadInput(f"batch (={options.batch}) and workspace_mib (={options.workspace_mib}) must be at least 1")
    target = None
    batches = (1, options.batch, options.max_batch or options.batch)
    if options.runtime:
        target = Target(options.runtime, options.device, options.precision, batch=options.batch)
        engine = EngineOptions(target.precision, batches, options.workspace_mib * 2**20)
        check_target(target)  # before anything is written
    shapes = [parse_shape(text) for text in options.input]
    loaded = load_model(options.model, shapes, options.batch, options.seed, dynamic_batch=options.dynamic_batch)
    model = read_model(loaded.model)
    files = export_onnx(model, options.output)
    if target is not None:
        files |= export_engine(model, options.output, target, engine)
    return write_manifest(options.output, loaded.name, files)


def _check(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from device_profiles.target import Target
    from runtimes.artefacts import F32, open_engine
    from runtimes.base import open_session
    from runtimes.feeds import random_feeds
    from runtimes.parity import TOLERANCES, compare

    folder = options.check_engine
    with open_engine(folder, options.device, trusted=options.trust_engine) as engine:
        shapes = {
            name: (engine.target.batch, *shape[1:]) if shape and shape[0] < 0 else shape
            for name, shape in engine.inputs.items()
        }
        feeds = random_feeds(shapes, engine.dtypes, options.seed)
        results = engine.run(feeds)
        with open_session(folder / F32, Target("onnxruntime")) as session:
            expected = session.run(feeds)
        parity = compare(expected, results, TOLERANCES[engine.target.precision])
    parity.check(f"{folder} on {engine.target.name}")
    return {"model": str(folder), "files": {}, "parity": asdict(parity)}


def _table(found: dict[str, Any]) -> str:
    lines = [f"{name:16} {entry['kind']:13} {entry.get('precision', '')}" for name, entry in found["files"].items()]
    if "parity" in found:
        parity = found["parity"]
        lines.append(
            f"differs by {parity['relative_to_spread']:.1e} of the spread (allowed: {parity['tolerance']:.0e})"
        )
    return "\n".join([found["model"], *lines])


if __name__ == "__main__":
    run(main)
