from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_profiles.errors import BadInput, ProfileMismatch
from device_profiles.profile import DeviceProfile
from device_profiles.store import load_profile, save_profile
from device_profiles.target import Target
from runtimes.bundle_results import profile_from_bundle
from runtimes.bundled.records import append_record, read_records
from runtimes.bundled.runner import MANIFEST, RESULTS
from runtimes.environment import read_environment
from tests.runtimes.bundles import bundle, profiling, run_here


def grid(profile: DeviceProfile) -> dict[str, set[tuple[int, int]]]:
    return {layer.name: set(layer.measurements) for layer in profile.layers}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_bundle_gives_the_profile_that_measuring_directly_gives(runtime: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", runtime, narrow=True)
    run_here(folder)
    found = profile_from_bundle(folder, command="again")
    direct = profiling(runtime, narrow=True).profile(in_context=True)
    assert grid(found) == grid(direct)
    assert found.target == direct.target
    assert (found.model_sha256, found.input_shapes) == (direct.model_sha256, direct.input_shapes)
    assert found.environment.fingerprint == direct.environment.fingerprint
    assert found.environment.options == direct.environment.options != {}
    assert [(p.layer, p.axis, set(p.measurements)) for p in found.probes] == [
        (p.layer, p.axis, set(p.measurements)) for p in direct.probes
    ]
    assert all(ms > 0 for ms in found.latencies_ms().values())
    assert found.in_context is not None
    assert direct.in_context is not None
    assert [v.widths for v in found.in_context.variants] == [v.widths for v in direct.in_context.variants]
    assert found.in_context.merged == direct.in_context.merged
    for variant in found.in_context.variants:
        assert min(variant.layers_ms.values()) > 0
        assert sum(variant.layers_ms.values()) == pytest.approx(variant.end_to_end.ms)
    save_profile(found, tmp_path / "p.json")
    assert load_profile(tmp_path / "p.json") == found


def test_the_results_file_can_be_named_and_layers_be_measured_alone(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", in_context=False)
    run_here(folder)
    found = profile_from_bundle(folder / RESULTS)
    assert found.in_context is None
    assert found.created.endswith("+00:00")


def test_a_profile_from_elsewhere_is_refused_here_by_name(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", in_context=False)
    run_here(folder)
    edit(folder, lambda record: record["environment"].update(cpu_model="Board 5") if "environment" in record else None)
    found = profile_from_bundle(folder)
    with pytest.raises(ProfileMismatch, match=r"machine is Board 5 .*allow machine by name"):
        found.check_matches(target=Target("onnxruntime"), environment=read_environment())
    with pytest.raises(ProfileMismatch, match=r"threads is 1, here it is 2.*allow threads by name"):
        found.check_matches(target=Target("onnxruntime", threads=2))
    with pytest.raises(ProfileMismatch, match=r"version is .*, here it is 1\.0"):
        found.check_matches(target=Target("onnxruntime", version="1.0"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change every record of a bundle's results."""
    records = read_records(folder / RESULTS)
    (folder / RESULTS).unlink()
    for record in records:
        if change(record) != "drop":
            append_record(folder / RESULTS, record)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = bundle(tmp_path_factory.mktemp("bundle"))
    run_here(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "b"
    copy.mkdir()
    for name in (MANIFEST, RESULTS):
        (copy / name).write_bytes((finished / name).read_bytes())
    (copy / "models").symlink_to(finished / "models")
    return copy


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda r: r.update(bundle="other"), ProfileMismatch, "was measured with another bundle than .*manifest.json"),
        (lambda r: "drop", BadInput, "no results in .*run run_bundle.py on the device"),
        (lambda r: "drop" if "environment" in r else None, BadInput, "do not tell which machine they come from"),
        (
            lambda r: "drop" if r.get("name") == "variant 3" else None,
            BadInput,
            "1 of 11 jobs are not finished .*'variant 3'",
        ),
        (lambda r: r.get("environment", {}).pop("cores", 0), BadInput, "the environment lacks cores"),
        (lambda r: r.get("samples", {}).pop("down.1 16x32", 0), BadInput, "'isolated 1 of 1' are not of the networks"),
        (lambda r: r.get("samples", {}).get("variant 2", {}).update(wall_ms=[]), BadInput, "at least one sample"),
        (lambda r: r.get("samples", {}).get("variant 2", {}).pop("stable", 0), BadInput, "lacks stable"),
        (lambda r: r.update(nodes=[{}]) if "nodes" in r else None, BadInput, "are no records of onnxruntime"),
        (lambda r: r.update(nodes=3) if "nodes" in r else None, BadInput, r"operators \(=3\) must be a list"),
    ],
)
def test_wrong_results_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], error: type[Exception], message: str
) -> None:
    profile_from_bundle(folder)
    edit(folder, change)
    with pytest.raises(error, match=message):
        profile_from_bundle(folder)


def test_results_of_two_machines_or_versions_are_refused(folder: Path) -> None:
    first = read_records(folder / RESULTS)[0]
    append_record(folder / RESULTS, first | {"version": "1.0"})
    with pytest.raises(ProfileMismatch, match=r"versions 1\.0, .*run the whole bundle on one of them"):
        profile_from_bundle(folder)
    edit(folder, lambda record: record.update(version="1.0") if "version" in record else None)
    profile_from_bundle(folder)
    append_record(
        folder / RESULTS, first | {"environment": first["environment"] | {"cpu_model": "B"}, "version": "1.0"}
    )
    with pytest.raises(ProfileMismatch, match=r"come from machines .*B"):
        profile_from_bundle(folder)


def test_a_bundle_that_is_missing_or_damaged_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no bundle in .*nowhere .*tools/bundle_profile\.py"):
        profile_from_bundle(tmp_path / "nowhere")
    manifest = json.loads((folder / MANIFEST).read_text())
    for content, message in (("{", "is damaged"), ("[]", "is no manifest"), ('{"schema": 99}', "of schema 1")):
        (folder / MANIFEST).write_text(content)
        with pytest.raises(BadInput, match=message):
            profile_from_bundle(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest | {"extra": 1}))
    with pytest.raises(BadInput, match="unknown fields extra"):
        profile_from_bundle(folder)


def test_networks_that_changed_or_are_missing_are_refused(finished: Path, folder: Path) -> None:
    (folder / "models").unlink()
    with pytest.raises(BadInput, match=r"variant-0\.onnx cannot be read"):
        profile_from_bundle(folder)
    (folder / "models").mkdir()
    for file in (finished / "models").glob("*.onnx"):
        (folder / "models" / file.name).write_bytes(file.read_bytes() + b"\x00" * ("variant-0" in file.name))
    with pytest.raises(BadInput, match=r"variant-0\.onnx is not the file that the bundle was written with"):
        profile_from_bundle(folder)
