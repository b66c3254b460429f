from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes import artefacts, cuda
from runtimes.base import open_session
from runtimes.feeds import random_feeds
from runtimes.parity import TOLERANCES, compare
from runtimes.trt_build import EngineOptions
from tests.runtimes.fake_gpu import FakeCuda, FakeNetwork, fake_sdk
from tests.runtimes.networks import network, node, random, unet, zoo
from tools.export_onnx import main

TOOL = Path(__file__).parents[2] / "tools" / "export_onnx.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(zoo(), path)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: None)
    sdk = fake_sdk(FakeNetwork(fake))
    monkeypatch.setattr(artefacts, "load_sdk", lambda runtime: sdk)
    return fake


def test_both_precisions_are_written_with_a_manifest(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main(["--model", str(model), "--output", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "net"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["schema"], manifest["model"]) == (1, "net")
    results = []
    for name, precision in (("model.onnx", "f32"), ("model.f16.onnx", "f16")):
        entry = manifest["files"][name]
        assert (entry["precision"], entry["opset"]) == (precision, 20)
        assert entry["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        with open_session(folder / name, Target("onnxruntime")) as session:
            results.append(session.run(random_feeds(session.inputs, session.dtypes)))
    assert compare(*results, TOLERANCES["f16"]).passed


def test_an_open_batch_is_written_in_both_precisions(tmp_path: Path) -> None:
    assert main(["--model", "unet-16", "--input", "1x3x128x128", "--output", str(tmp_path), "--dynamic-batch"]) == 0
    for name in ("model.onnx", "model.f16.onnx"):
        with open_session(tmp_path / name, Target("onnxruntime")) as session:
            assert session.inputs == {"image": (-1, 3, 128, 128)}
            feeds = random_feeds({"image": (3, 3, 128, 128)}, session.dtypes)
            assert next(iter(session.run(feeds).values())).shape == (3, 3, 128, 128)


def test_a_file_with_a_fixed_batch_is_not_opened(model: Path) -> None:
    with pytest.raises(BadInput, match=r"net\.onnx has a fixed batch .*; export it again"):
        main(["--model", str(model), "--dynamic-batch"])


def test_without_a_gpu_nothing_is_written_and_one_line_says_so(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--model", str(model), "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, "--runtime", "tensorrt-rtx"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "needs an NVIDIA GPU" in done.stderr or "cuda-bindings" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_needs_no_vendors_package() -> None:
    check = (
        "import sys; sys.argv = ['x', '--help']; import tools.export_onnx as t\ntry: t.main()\nexcept SystemExit: pass"
    )
    loaded = "print([m for m in ('tensorrt', 'tensorrt_rtx', 'onnxruntime', 'cuda', 'polygraphy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{check}\n{loaded}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_engine_comes_with_what_it_is_valid_for(
    gpu: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = []

    def build(model: object, sdk: object, how: EngineOptions) -> bytes:
        options.append(how)
        assert how.timing_cache is not None
        how.timing_cache.write_bytes(b"took")
        return b"plan"

    monkeypatch.setattr(artefacts, "build_engine", build)
    target = Target("tensorrt", "cuda", "f16", batch=4)
    files = artefacts.export_engine(unet(), tmp_path, target, EngineOptions("f16", (1, 4, 8), 2**20))
    assert (options[0].batches, options[0].workspace_bytes, options[0].precision) == ((1, 4, 8), 2**20, "f16")
    manifest = artefacts.write_manifest(tmp_path, "net", files)
    assert manifest["files"]["model.engine"]["valid_for"] == {
        "runtime": "tensorrt",
        "version": "1.7.fake",
        "compute_capability": "9.0",
        "gpu": None,
    }
    assert set(manifest["files"]) == {"model.engine", "timing.cache"}
    with artefacts.open_engine(tmp_path, "cuda", trusted=True) as session:
        assert session.target == Target("tensorrt", "cuda", "f16", batch=4, version="1.7.fake")


def folder_with_engine(folder: Path, **changes: object) -> Path:
    (folder / "model.engine").write_bytes(b"plan")
    valid_for = {"runtime": "tensorrt-rtx", "version": "1.7.fake", "compute_capability": "9.0", "gpu": None} | changes
    entry = {"kind": "engine", "precision": "f32", "batches": [1, 1, 1], "valid_for": valid_for}
    artefacts.write_manifest(folder, "net", {"model.engine": entry})
    return folder


def test_an_engine_is_never_loaded_unless_it_is_trusted(gpu: FakeCuda, tmp_path: Path) -> None:
    folder_with_engine(tmp_path)
    with pytest.raises(BadInput, match=r"holds code that is run when it is loaded; pass --trust-engine"):
        main(["--check-engine", str(tmp_path)])
    assert gpu.log == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"version": "9"}, r"was built for version 9 \(here: 1.7.fake\)"), ({"compute_capability": "8.6"}, "8.6")],
)
def test_an_engine_of_another_version_or_gpu_is_refused(
    gpu: FakeCuda, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        artefacts.open_engine(folder_with_engine(tmp_path, **changes), "cuda", trusted=True)


def test_a_changed_or_missing_engine_is_refused(gpu: FakeCuda, tmp_path: Path) -> None:
    (folder_with_engine(tmp_path) / "model.engine").write_bytes(b"other")
    with pytest.raises(BadInput, match=r"is not what its manifest says \(SHA-256\)"):
        artefacts.open_engine(tmp_path, "cuda", trusted=True)
    with pytest.raises(BadInput, match="holds no engine with a manifest"):
        artefacts.open_engine(tmp_path / "nowhere", "cuda", trusted=True)


def test_a_checked_engine_is_compared_with_its_file(
    gpu: FakeCuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_with_engine(tmp_path)
    onnx.save(network([node("Add", "x x", "y")], {}, shape=(1, 4)), tmp_path / "model.onnx")
    assert main(["--check-engine", str(tmp_path), "--trust-engine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["passed"]
    assert gpu.alive == {}


def test_wrong_options_and_networks_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"batch \(=0\) and workspace_mib \(=1024\) must be at least 1"):
        main(["--model", str(model), "--batch", "0"])
    with pytest.raises((BadInput, RuntimeUnavailable), match=r"precision \(='f8'\)"):
        main(["--model", str(model), "--runtime", "tensorrt-rtx", "--precision", "f8"])
    odd = network([node("Relu", "x", "y")], {"w": random(1)}, shape=(1, 4))
    del odd.opset_import[:]
    with pytest.raises(UnsupportedModel, match="cannot be converted to f16"):
        artefacts.export_onnx(odd, tmp_path)
