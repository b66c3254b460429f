"""Profile bundles: what a bare device needs to measure itself, written to a folder.

A bundle holds the networks that a profile measures, without their weights; a manifest of the jobs; and one file that
runs them with Python, numpy and the runtime alone. `runtimes.bundle_results` makes a device profile of what it wrote.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.json_form import from_json, to_json
from device_profiles.measurement import Clock
from device_profiles.store import write_whole
from device_profiles.target import Target
from device_profiles.terms import Widths
from runtimes import bundled
from runtimes.bundle_weights import SharedWeights, Weights, random_block
from runtimes.bundled.runner import MANIFEST, SCHEMA
from runtimes.in_context import WidthVariant, plan_end_to_end, references_of, variant_name
from runtimes.model_file import ModelSource, read_model, to_bytes
from runtimes.operators import TIMED_RUNS, WARM_UP_RUNS
from runtimes.profiler import (
    IsolatedLayers,
    ProfileConfig,
    carve_for,
    model_sha256,
    plan_layers,
    plan_sittings,
)
from runtimes.shapes import input_shapes, with_batch, with_shapes
from runtimes.sitting import PlannedSitting
from runtimes.timing import Effort, clock_for

RUNNER, BLOCK, MODELS = "run_bundle.py", "block.bin", "models"
# Of the runner, each using those before it.
PARTS = ("memory", "machine", "records", "interference", "sampling", "sessions", "runner")
SESSION_OPTIONS = {  # beside precision and threads; as in runtimes/ort.py and runtimes/ov.py
    "onnxruntime": {"inter_op_num_threads": "1", "session.intra_op.allow_spinning": "0"},
    "openvino": {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "NO"},
}
OLDEST_IR = 8  # of 2021; every runtime that runs opset 15 reads it


@dataclass(frozen=True)
class Feed:
    """What an input takes: standard normal numbers, or zeros for integers."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class BundledModel:
    """A network in the bundle.

    Attributes:
        file: Its place in the bundle.
        sha256: Hash of the file.
        feeds: Input -> what it takes.
    """

    file: str
    sha256: str
    feeds: Mapping[str, Feed]


@dataclass(frozen=True)
class BundledSitting:
    """Networks that are loaded at the same time and measured against each other.

    Attributes:
        effort: How long.
        turns: Turn -> the networks that are run in it, see `runtimes.timing.measure`.
    """

    effort: Effort
    turns: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Manifest:
    """What is in a bundle and what to do with it; the runner reads the same file.

    Attributes:
        schema: Of this file.
        model_name: What the user calls the network.
        model_sha256: Hash of the network's own file, with its weights.
        input_shapes: Graph input -> shape, batch included.
        target: Where to run.
        session_options: How to set the runtime up.
        clock: Which samples are the latency.
        seed: Of the inputs of the runtime's profiler.
        operator_runs: Runs with that profiler: "warm_up" and "timed".
        weights: What the networks take their weights from.
        models: Name -> network.
        sittings: Name -> sitting.
        jobs: Kind ("sitting" or "operators") and name of what to do, in order.
        layers: The network's layers and what is measured of them by themselves.
        variants: Widths of the networks that are measured in context, the full ones first; none to measure none.
    """

    schema: int
    model_name: str
    model_sha256: str
    input_shapes: Mapping[str, tuple[int, ...]]
    target: Target
    session_options: Mapping[str, str]
    clock: Clock
    seed: int
    operator_runs: Mapping[str, int]
    weights: Weights
    models: Mapping[str, BundledModel]
    sittings: Mapping[str, BundledSitting]
    jobs: tuple[tuple[str, ...], ...]
    layers: IsolatedLayers
    variants: tuple[Mapping[str, Widths], ...]


@dataclass(frozen=True)
class Bundling:
    """What to put into a bundle.

    Args:
        model: The network, as it would be deployed.
        name: What to call it.
        target: Where the device shall run it: ONNX Runtime or OpenVINO on a CPU.
        config: How long to measure.
        variants: The network at full width, then at others, to measure in context; none to measure layers by themselves
            only.
        resident_bytes: Of weights that the device can hold at a time; runtimes hold them up to twice. None: 1 GiB.
    """

    model: ModelSource
    name: str
    target: Target
    config: ProfileConfig
    variants: Sequence[WidthVariant] = ()
    resident_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.target.runtime not in SESSION_OPTIONS or self.target.device != "cpu":
            raise BadInput(
                f"target (={self.target.name!r}) cannot be bundled; a bundle runs on the CPU, in "
                f"{' or '.join(SESSION_OPTIONS)}: profile other targets on the device itself"
            )
        if self.target.runtime == "onnxruntime" and self.target.precision != "f32":
            raise BadInput(f"precision (={self.target.precision!r}) must be 'f32' with onnxruntime; or use openvino")


def write_bundle(folder: Path, bundling: Bundling) -> Manifest:
    """Write a bundle; the same call writes the same bytes, so a device goes on with a bundle that is copied again.

    Args:
        folder: Where; it may be there already. Results in it stay.
        bundling: What.

    Raises:
        BadInput: The model, its shapes or the folder are wrong.
        UnsupportedModel: The network has no layer with weights.
    """
    writer, config = _Writer(folder), bundling.config
    proto = read_model(bundling.model)
    shapes = with_batch(input_shapes(proto) | dict(config.input_shapes), bundling.target.batch)
    sized = with_shapes(proto, shapes)
    subgraphs = carve_for(sized, bundling.target)
    if not subgraphs:
        raise UnsupportedModel(
            f"{bundling.name!r} has no convolution or matrix product with constant weights to profile"
        )
    layers, isolated = plan_layers(subgraphs, narrow=config.narrow)
    if bundling.variants:
        references = references_of(bundling.variants)
        planned = plan_end_to_end(bundling.variants, references, config.effort, bundling.resident_bytes)
        writer.add_sittings("in context", planned)
        writer.jobs += [("operators", variant_name(place)) for place in range(len(bundling.variants))]
    writer.add_sittings("isolated", plan_sittings(sized, isolated, config, bundling.resident_bytes))
    block = random_block(config.seed)
    manifest = Manifest(
        schema=SCHEMA,
        model_name=bundling.name,
        model_sha256=model_sha256(bundling.model, proto),
        input_shapes=shapes,
        target=bundling.target,
        session_options=_session_options(bundling.target),
        clock=clock_for(bundling.target.threads, bundling.target.device),
        seed=config.seed,
        operator_runs={"warm_up": WARM_UP_RUNS, "timed": TIMED_RUNS},
        weights=Weights(BLOCK, hashlib.sha256(block.tobytes()).hexdigest(), writer.weights.files(block, MODELS)),
        models=writer.models,
        sittings=writer.sittings,
        jobs=tuple(writer.jobs),
        layers=layers,
        variants=tuple(variant.widths for variant in bundling.variants),
    )
    write_whole(folder / BLOCK, block.tobytes())
    write_whole(folder / RUNNER, runner_source())
    write_whole(folder / MANIFEST, json.dumps(to_json(manifest), indent=1, allow_nan=False) + "\n")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BadInput: It is missing, damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as err:
        raise BadInput(
            f"no bundle in {folder} ({err.strerror}: {MANIFEST}); give the folder that tools/bundle_profile.py wrote, "
            "with the device's results.jsonl in it"
        ) from err
    except ValueError as err:
        raise BadInput(f"{path} is damaged ({err}); write the bundle again with tools/bundle_profile.py") from err
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BadInput(f"{path} is no manifest of schema {SCHEMA}; write the bundle again with tools/bundle_profile.py")
    return from_json(Manifest, document, str(path))


def runner_source() -> str:
    """Join the parts of the runner into one file that imports none of them."""
    folder = Path(bundled.__file__).parent
    sources = [(folder / f"{part}.py").read_text("utf-8") for part in PARTS]
    parts = [_Part.of(source) for source in sources]
    docstring = ast.get_docstring(ast.parse(sources[-1]), clean=False)
    imports = "\n".join(sorted({line for part in parts for line in part.imports}))
    return "\n".join(
        ["#!/usr/bin/env python3", f'"""{docstring}"""', "", "from __future__ import annotations", "", imports, ""]
        + [part.body for part in parts]
    )


@dataclass(frozen=True)
class _Part:
    """A module of the runner: its imports of other packages, and the rest of it."""

    imports: tuple[str, ...]
    body: str

    @classmethod
    def of(cls, source: str) -> _Part:
        tree, lines = ast.parse(source), source.splitlines()
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in (tree.body[0], *nodes):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        others = [node for node in nodes if not ast.unparse(node).startswith(("from runtimes", "from __future__"))]
        return cls(tuple(ast.unparse(node) for node in others), "\n" + "\n".join(lines).strip() + "\n")


class _Writer:
    """Writes networks one by one, since all of them together may not fit into memory."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.weights = folder, SharedWeights()
        self.models: dict[str, BundledModel] = {}
        self.sittings: dict[str, BundledSitting] = {}
        self.jobs: list[tuple[str, str]] = []

    def add_sittings(self, title: str, planned: Sequence[PlannedSitting]) -> None:
        for number, sitting in enumerate(planned, start=1):
            turns: dict[str, tuple[str, ...]] = {}
            for name, (turn, build) in sitting.models.items():
                turns[turn] = (*turns.get(turn, ()), name)
                if name not in self.models:
                    self.models[name] = self._write(name, build())
            name = f"{title} {number} of {len(planned)}"
            self.sittings[name] = BundledSitting(sitting.effort, turns)
            self.jobs.append(("sitting", name))

    def _write(self, name: str, model: onnx.ModelProto) -> BundledModel:
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        self.weights.replace_(bare)
        _strip_(bare)
        _set_oldest_opset_(bare)
        data = to_bytes(bare)
        file = f"{MODELS}/{len(self.models):03}-{re.sub('[^a-zA-Z0-9.]+', '-', name)[:60]}.onnx"
        write_whole(self._folder / file, data)
        return BundledModel(file, hashlib.sha256(data).hexdigest(), _feeds(bare))


def _feeds(model: onnx.ModelProto) -> dict[str, Feed]:
    shapes = input_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {
        name: Feed(shape, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(types[name])).name)
        for name, shape in shapes.items()
    }


def _strip_(model: onnx.ModelProto) -> None:
    """Drop what an exporter noted, paths of this machine included, and inferred shapes, which runtimes infer again."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]


def _set_oldest_opset_(model: onnx.ModelProto) -> None:
    """Ask for the oldest opset in which every operator is the same as now, so that older runtimes take the file."""
    opset = next((entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    nested = any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute)
    if opset is None or len(model.opset_import) > 1 or model.functions or nested:
        return
    kinds = {node.op_type for node in model.graph.node}
    opset.version = max(onnx.defs.get_schema(kind, opset.version, "").since_version for kind in kinds)
    model.ir_version = max(OLDEST_IR, onnx.helper.find_min_ir_version_for(list(model.opset_import)))


def _session_options(target: Target) -> dict[str, str]:
    threads = str(target.threads)
    if target.runtime == "onnxruntime":
        return SESSION_OPTIONS["onnxruntime"] | {"intra_op_num_threads": threads}
    chosen = {"INFERENCE_PRECISION_HINT": target.precision, "INFERENCE_NUM_THREADS": threads}
    return SESSION_OPTIONS["openvino"] | chosen
