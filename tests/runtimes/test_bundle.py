from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.target import Target
from runtimes import ort, ov
from runtimes.bundle import Bundling, read_manifest, runner_source, write_bundle
from runtimes.bundled.runner import expand_weights, main
from runtimes.bundled.sessions import RUNTIMES
from tests.runtimes.bundles import QUICK, bundle
from tests.runtimes.networks import conv, network, node, random, unet, zoo


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_bundle_is_written_again_to_the_byte(tmp_path: Path) -> None:
    assert files(bundle(tmp_path / "a")) == files(bundle(tmp_path / "b"))


def test_no_weight_travels(tmp_path: Path) -> None:
    model = unet()
    model.graph.node[0].doc_string = "/home/someone/secret.py"
    write_bundle(tmp_path, Bundling(model, "net", Target("onnxruntime"), QUICK))
    everything = b"".join(files(tmp_path).values())
    assert b"secret" not in everything
    assert b"down.0.weight" in everything
    for tensor in model.graph.initializer:
        if (tensor.name.endswith("weight") and len(tensor.dims) > 1) or tensor.name == "up.1.bias":
            assert tensor.raw_data[:64] not in everything


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = write_bundle(tmp_path, Bundling(unet(), "net", Target("openvino", precision="f32"), QUICK))
    assert read_manifest(tmp_path) == written


def test_old_runtimes_take_the_files(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path, Bundling(unet(), "net", Target("onnxruntime"), QUICK))
    for model in manifest.models.values():
        proto = onnx.load(tmp_path / model.file, load_external_data=False)
        assert (proto.opset_import[0].version, proto.ir_version) <= (16, 8)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sessions_are_set_up_as_they_are_here(runtime: str, tmp_path: Path) -> None:
    target = Target(runtime, threads=2)
    manifest = write_bundle(tmp_path, Bundling(conv(), "net", target, QUICK))
    expand_weights(
        tmp_path, {**vars(manifest.weights), "files": {k: vars(v) for k, v in manifest.weights.files.items()}}
    )
    file = tmp_path / next(iter(manifest.models.values())).file
    there = RUNTIMES[runtime](manifest.session_options, vars(target)).effective_options(file)
    with (ort if runtime == "onnxruntime" else ov).open_session(conv(), target) as session:
        assert there == session.options


@pytest.mark.parametrize("model", [unet(), zoo()], ids=["unet", "zoo"])
def test_activations_stay_normal_numbers(model: onnx.ModelProto, tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path, Bundling(model, "net", Target("onnxruntime"), QUICK))
    assert main(["--folder", str(tmp_path)]) == 0
    whole = onnx.load(tmp_path / manifest.models["the whole network"].file, load_external_data=False)
    tensors = [name for made in whole.graph.node for name in made.output if made.op_type != "Constant"]
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    onnx.save(whole, tmp_path / "models" / "all.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "models" / "all.onnx")
    for values in session.run(None, {"x": random(*manifest.input_shapes["x"]) * 4}):
        assert np.isfinite(values).all()
        assert not ((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)).any()


def test_the_runner_is_one_file_in_the_syntax_of_python_3_8(tmp_path: Path) -> None:
    source = runner_source()
    tree = ast.parse(source, feature_version=(3, 8))
    names = [part.name for part in tree.body if isinstance(part, ast.FunctionDef | ast.ClassDef)]
    names += [target.id for part in tree.body if isinstance(part, ast.Assign) for target in ast.walk(part.targets[0])
              if isinstance(target, ast.Name)]  # fmt: skip
    assert len(names) == len(set(names))
    assert "from runtimes" not in source
    assert "import runtimes" not in source
    (tmp_path / "run_bundle.py").write_text(source)
    isolated = subprocess.run(
        [sys.executable, "-I", "run_bundle.py", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Measure the networks of a profile bundle" in isolated.stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("tensorrt", "cuda"), r"target \(='tensorrt-cuda'\) cannot be bundled"),
        (Target("openvino", "gpu"), "a bundle runs on the CPU"),
        (Target("onnxruntime", precision="f16"), r"precision \(='f16'\) must be 'f32' with onnxruntime"),
    ],
)
def test_targets_that_cannot_be_bundled_are_refused(target: Target, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Bundling(unet(), "net", target, QUICK)


def test_a_network_without_layers_is_refused(tmp_path: Path) -> None:
    model = network([node("Relu", "x", "y")], {})
    with pytest.raises(UnsupportedModel, match="'plain' has no convolution or matrix product"):
        write_bundle(tmp_path, Bundling(model, "plain", Target("onnxruntime"), replace(QUICK, narrow=False)))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        write_bundle(tmp_path / "file", Bundling(conv(), "net", Target("onnxruntime"), QUICK))
