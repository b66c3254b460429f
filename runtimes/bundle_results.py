"""A device profile out of what a device wrote when it ran a profile bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from device_profiles.blend import blend
from device_profiles.environment import Environment
from device_profiles.errors import BadInput, ProfileMismatch
from device_profiles.in_context import InContext
from device_profiles.json_form import from_json
from device_profiles.measurement import Measurement
from device_profiles.profile import DeviceProfile
from runtimes.base import recorded_operators
from runtimes.bundle import Manifest, read_manifest
from runtimes.bundled.records import read_records
from runtimes.bundled.runner import MANIFEST, RESULTS
from runtimes.in_context import WidthVariant, fit_layers, references_of, variant_name
from runtimes.operators import LayerTimes, attribute
from runtimes.profiler import REFERENCE, WHOLE
from runtimes.sitting import Sitting, join

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Samples:
    """The samples of one network as a device writes them; see `device_profiles.measurement.Measurement`."""

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    interruptions: tuple[int, ...]
    stable: bool
    discarded: int = 0
    others: float | None = None


def profile_from_bundle(path: Path, command: str = "") -> DeviceProfile:
    """Make the profile that measuring directly on the device would have made.

    Args:
        path: The bundle's folder with the device's results.jsonl in it, or that file.
        command: What to write into the profile as the way to repeat it.

    Raises:
        BadInput: The bundle or the results are missing, damaged or not finished.
        ProfileMismatch: The results belong to another bundle, or were measured on more than one machine or version.
    """
    folder = path.parent if path.suffix == ".jsonl" else path
    manifest = read_manifest(folder)
    records = _records(path if path.suffix == ".jsonl" else path / RESULTS, folder)
    environment, version = _machine(records)
    finished = {(record["record"], record.get("name")): record for record in records}
    if missing := [name for kind, name in manifest.jobs if (kind, name) not in finished]:
        raise BadInput(
            f"{len(missing)} of {len(manifest.jobs)} jobs are not finished in {path}, {missing[0]!r} first of all; "
            "start run_bundle.py again on the device, which goes on where it stopped, and copy results.jsonl again"
        )
    jobs = [finished[kind, name] for kind, name in manifest.jobs]
    measured = join(_sittings(jobs, manifest, "isolated"), [REFERENCE])
    profile = DeviceProfile(
        target=replace(manifest.target, version=version),
        environment=environment,
        model_name=manifest.model_name,
        model_sha256=manifest.model_sha256,
        input_shapes=manifest.input_shapes,
        layers=manifest.layers.profiles(measured),
        end_to_end=measured[WHOLE],
        created=str(jobs[-1].get("finished")),
        command=command,
        seconds=round(sum(float(job["seconds"]) for job in jobs), 1),
        probes=manifest.layers.probes(measured),
        in_context=_in_context(folder, manifest, jobs) if manifest.variants else None,
    )
    return blend(profile)


def _records(path: Path, folder: Path) -> list[dict[str, Any]]:
    records = read_records(path)
    if not records:
        raise BadInput(f"no results in {path}; run run_bundle.py on the device and copy its results.jsonl there")
    bundle = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    if any(record.get("bundle") != bundle for record in records):
        raise ProfileMismatch(
            f"{path} was measured with another bundle than {folder / MANIFEST}; put it into its own bundle's folder"
        )
    return records


def _machine(records: Sequence[Record]) -> tuple[Environment, str]:
    """Return the machine and the runtime's version, which must be the same in all records."""
    begun = [record for record in records if record["record"] == "environment"]
    if not begun:
        raise BadInput("the results do not tell which machine they come from; run the bundle again")
    machines = [from_json(Environment, record.get("environment"), "the environment") for record in begun]
    versions = sorted({str(record.get("version")) for record in begun})
    if len({machine.fingerprint for machine in machines}) > 1 or len(versions) > 1:
        names = sorted({machine.cpu_model for machine in machines})
        raise ProfileMismatch(
            f"the results come from machines {', '.join(names)} and versions {', '.join(versions)}; "
            "run the whole bundle on one of them, with an empty results.jsonl"
        )
    return machines[-1], versions[0]


def _sittings(jobs: Sequence[Record], manifest: Manifest, title: str) -> list[Sitting]:
    """The sittings of a title; each holds a measurement of all its networks."""
    found = []
    for job in jobs:
        if job["record"] == "sitting" and job["name"].startswith(title):
            samples = from_json(dict[str, Samples], job.get("samples"), f"the results of {job['name']!r}")
            wanted = {name for names in manifest.sittings[job["name"]].turns.values() for name in names}
            if samples.keys() != wanted:
                raise BadInput(f"the results of {job['name']!r} are not of the networks in the manifest; run it again")
            found.append({name: _measurement(each, manifest) for name, each in samples.items()})
    return found


def _measurement(samples: Samples, manifest: Manifest) -> Measurement:
    read = {field.name: getattr(samples, field.name) for field in fields(samples)}
    return Measurement(clock=manifest.clock, **read)


def _in_context(folder: Path, manifest: Manifest, jobs: Sequence[Record]) -> InContext:
    nodes = {job["name"]: job.get("nodes") for job in jobs if job["record"] == "operators"}
    variants, times = [], []
    for place, widths in enumerate(manifest.variants):
        model = _load(folder, manifest, variant_name(place))
        variants.append(WidthVariant(widths, partial(_load, folder, manifest, variant_name(place))))
        times.append(_times(nodes[variant_name(place)], model, manifest))
    references = [variant_name(place) for place in references_of(variants)]
    measured = join(_sittings(jobs, manifest, "in context"), references)
    return fit_layers(variants, [measured[variant_name(place)] for place in range(len(variants))], times)


def _times(nodes: object, model: onnx.ModelProto, manifest: Manifest) -> LayerTimes:
    if not isinstance(nodes, list):
        raise BadInput(f"the recorded operators (={nodes!r:.40}) must be a list; run the bundle again")
    return attribute(recorded_operators(nodes, manifest.target), model)


def _load(folder: Path, manifest: Manifest, name: str) -> onnx.ModelProto:
    """Read a network of the bundle, without weights."""
    file = manifest.models[name].file
    try:
        data = (folder / file).read_bytes()
    except OSError as err:
        raise BadInput(f"{folder / file} cannot be read ({err.strerror}); write the bundle again") from err
    if hashlib.sha256(data).hexdigest() != manifest.models[name].sha256:
        raise BadInput(f"{folder / file} is not the file that the bundle was written with; write the bundle again")
    return onnx.load_model_from_string(data)
