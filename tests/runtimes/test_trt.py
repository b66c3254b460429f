"""TensorRT-RTX parses and builds here for real: it needs no GPU for that."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress.export import deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.graph.magnitude import magnitudes
from compress.graph.network import Network
from compress.graph.surgery import prune
from compress.models import MODELS, build
from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes import cuda, trt_sdk
from runtimes.base import check_target
from runtimes.carve import carve
from runtimes.gpu_state import GpuState
from runtimes.half import to_half
from runtimes.layers import weighted_layers
from runtimes.shapes import with_shapes
from runtimes.trt_build import EngineOptions, build_engine, parse, timing_cache_path
from runtimes.trt_sdk import Sdk, load_sdk
from tests.runtimes.networks import conv, network, node, random, unet, zoo

if importlib.util.find_spec("tensorrt_rtx") is None and not os.environ.get("CI"):
    pytest.skip("TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13", allow_module_level=True)

# Of the bundled networks; CI takes all of them, which takes minutes: most of that goes into exporting them.
QUICK = ("unet-16", "resnet-20", "mobilenetv2-tiny", "shufflenetv1-g3")
PLACES = {"Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION"}
ELSEWHERE = {"on_this_gpu": False}  # there is none


@pytest.fixture(scope="module")
def sdk() -> Sdk:
    return load_sdk("tensorrt-rtx")


def layers_of(parsed: tuple[object, ...]) -> Iterator[tuple[str, str, set[str]]]:
    """The name, kind and result types of each layer of a parsed network."""
    _, net, _ = parsed
    for i in range(net.num_layers):  # type: ignore[attr-defined]
        layer = net.get_layer(i)  # type: ignore[attr-defined]
        yield layer.name, layer.type.name, {layer.get_output(j).dtype.name for j in range(layer.num_outputs)}


def products(model: onnx.ModelProto, sdk: Sdk) -> dict[str, tuple[str, set[str]]]:
    """Layer's name -> kind and types, of the layers with weights."""
    found = {name: (kind, types) for name, kind, types in layers_of(parse(model, sdk, "f32"))}
    return {layer.node: found[layer.node] for layer in weighted_layers(model) if layer.op in PLACES}


def expected(model: onnx.ModelProto, dtype: str) -> dict[str, tuple[str, set[str]]]:
    return {layer.node: (PLACES[layer.op], {dtype}) for layer in weighted_layers(model) if layer.op in PLACES}


def bundled(name: str) -> onnx.ModelProto:
    """A bundled network at its own size, which building in TensorRT-RTX hardly depends on."""
    torch.manual_seed(0)
    samples = [torch.randn(1, *shape[1:]) for shape in MODELS[name].input_shapes]
    return deployable(export_module(build(name), samples)).model


@pytest.mark.parametrize("name", MODELS if os.environ.get("CI") else QUICK)
def test_every_bundled_network_is_parsed_and_built_in_both_precisions(name: str, sdk: Sdk) -> None:
    model = bundled(name)
    for converted, dtype in ((model, "FLOAT"), (to_half(model).model, "HALF")):
        found = products(converted, sdk)
        assert found == expected(converted, dtype)
        assert found
        assert len(build_engine(converted, sdk, EngineOptions(**ELSEWHERE))) > 10_000


@pytest.mark.parametrize("model", [unet(), zoo()], ids=["unet", "zoo"])
def test_layers_cut_out_and_resized_are_parsed_and_built(model: onnx.ModelProto, sdk: Sdk) -> None:
    for subgraph in carve(with_shapes(model, {})):
        narrow = subgraph.resized(subgraph.layer.in_channels, subgraph.layer.out_channels)
        _, parsed, _ = parse(narrow, sdk, "f32")
        assert [parsed.get_input(0).name, parsed.get_output(0).name] == ["input", "output"]
        assert build_engine(narrow, sdk, EngineOptions(**ELSEWHERE))


def test_pruned_networks_are_parsed_with_the_widths_that_are_left_and_built(sdk: Sdk) -> None:
    model = with_shapes(unet(), {})
    graph = analyse(Network.from_model(model, {}))
    pruned = prune(graph.network, choose(graph, magnitudes(graph), 0.5)).model
    widths = [layer.out_channels for layer in weighted_layers(pruned)]
    assert widths != [layer.out_channels for layer in weighted_layers(unet())]
    _, parsed, _ = parse(pruned, sdk, "f32")
    kinds = [parsed.get_layer(i).type.name for i in range(parsed.num_layers)]
    outputs = [parsed.get_layer(i).get_output(0).shape[1] for i, kind in enumerate(kinds) if kind in PLACES.values()]
    assert outputs == widths
    assert build_engine(pruned, sdk, EngineOptions("f16", **ELSEWHERE))


def test_inputs_and_outputs_keep_their_types_in_f16(sdk: Sdk) -> None:
    _, parsed, _ = parse(unet(), sdk, "f16")
    assert (parsed.get_input(0).dtype.name, parsed.get_output(0).dtype.name) == ("FLOAT", "FLOAT")
    assert (parsed.get_input(0).name, parsed.get_output(0).name) == ("x", "y")


def test_a_file_with_weights_beside_it_is_parsed_from_where_it_lies(sdk: Sdk, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(unet(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    for precision in ("f32", "f16"):
        assert build_engine(path, sdk, EngineOptions(precision, **ELSEWHERE))  # type: ignore[arg-type]


def test_what_the_file_quantizes_stays_quantized(sdk: Sdk) -> None:
    for dtype, zero, name in ((np.int8, TensorProto.INT8, "INT8"), (None, TensorProto.FLOAT8E4M3FN, "FP8")):
        nodes = [
            node("QuantizeLinear", "x scale zero", "q"),
            node("DequantizeLinear", "q scale zero", "d"),
            node("Conv", "d a.weight", "y", pads=[1] * 4),
        ]
        model = network(nodes, {"a.weight": random(4, 4, 3, 3)})
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))
        model.graph.initializer.append(helper.make_tensor("zero", zero, [], [0]))
        found = {layer: types for layer, _, types in layers_of(parse(model, sdk, "f32"))}
        assert found["make q"] == {name}
        if dtype is not None:  # an f8 product needs weights in f8 as well
            assert build_engine(model, sdk, EngineOptions(**ELSEWHERE))


def test_an_operator_that_tensorrt_lacks_is_named(sdk: Sdk) -> None:
    model = network([node("Conv", "x w", "h"), node("Det", "h", "y")], {"w": random(4, 4, 3, 3)})
    with pytest.raises(
        UnsupportedModel, match=r"tensorrt-rtx 1.* cannot parse the model: node 'make y' \(Det\): "
    ) as e:
        build_engine(model, sdk, EngineOptions(**ELSEWHERE))
    assert "\n" not in str(e.value)


def test_a_file_that_cannot_be_parsed_is_named_too(sdk: Sdk, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(network([node("Det", "x", "y")], {}), path)
    with pytest.raises(UnsupportedModel, match=r"node 'make y' \(Det\)"):
        parse(path, sdk, "f32")


def test_what_the_builder_complains_about_is_told(sdk: Sdk) -> None:
    with pytest.raises(UnsupportedModel, match=r"cannot build the model: .*workspace"):
        build_engine(unet(), sdk, EngineOptions(workspace_bytes=0, **ELSEWHERE))


def test_tf32_is_on_by_name_only(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    postprocess = sdk.loaders.PostprocessConfig

    def spy(config: object, finish: object) -> object:
        def look(builder: object, net: object, made: object) -> None:
            finish(builder, net, made)  # type: ignore[operator]
            seen.append(
                (
                    made.get_flag(sdk.trt.BuilderFlag.TF32),  # type: ignore[attr-defined]
                    made.avg_timing_iterations,  # type: ignore[attr-defined]
                    made.get_memory_pool_limit(sdk.trt.MemoryPoolType.WORKSPACE),  # type: ignore[attr-defined]
                    made.max_aux_streams,  # type: ignore[attr-defined]
                )
            )

        return postprocess(config, look)

    monkeypatch.setattr(sdk.loaders, "PostprocessConfig", spy)
    for precision in ("f32", "tf32", "f16"):
        build_engine(conv(), sdk, EngineOptions(precision, workspace_bytes=2**26, **ELSEWHERE))  # type: ignore[arg-type]
    assert seen == [(tf32, 8, 2**26, 0) for tf32 in (False, True, False)]


def test_an_open_batch_becomes_a_range(sdk: Sdk) -> None:
    model = network([node("Conv", "x w", "y")], {"w": random(4, 4, 3, 3)}, shape=("n", 4, 8, 8))
    _, parsed, _ = parse(model, sdk, "f32")
    assert tuple(parsed.get_input(0).shape) == (-1, 4, 8, 8)
    assert build_engine(model, sdk, EngineOptions(batches=(1, 4, 16), **ELSEWHERE))


def test_other_open_axes_are_refused(sdk: Sdk) -> None:
    model = network([node("Relu", "x", "y")], {}, shape=(1, 4, "height", 8))
    with pytest.raises(BadInput, match=r"input 'x' has the open shape \(1, 4, -1, 8\); TensorRT takes an open batch"):
        build_engine(model, sdk, EngineOptions(**ELSEWHERE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "bf16"}, r"precision \(='bf16'\) must be one of f32, tf32, f16 with TensorRT"),
        ({"batches": (4, 2, 8)}, r"batches \(=\(4, 2, 8\)\) must be the smallest, usual and largest"),
        ({"batches": (0, 1, 1)}, r"batches \(=\(0, 1, 1\)\)"),
        ({"workspace_bytes": -1}, r"workspace_bytes \(=-1\) must be at least 0"),
    ],
)
def test_wrong_options_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        EngineOptions(**changes)  # type: ignore[arg-type]


def test_what_kernels_took_is_kept_for_each_version_gpu_and_clocks() -> None:
    state = GpuState("NVIDIA H200", "575.1", 1980, 3201, 700.0, 40)
    slower = GpuState("NVIDIA H200", "575.1", 1200, 3201, 700.0, 40)
    tensorrt = Sdk("tensorrt", sdk_of("11.4.0"), None, None)  # type: ignore[arg-type]
    older = Sdk("tensorrt", sdk_of("10.16.1"), None, None)  # type: ignore[arg-type]
    paths = {timing_cache_path(*each) for each in ((tensorrt, state), (tensorrt, slower), (older, state))}
    assert len(paths) == 3
    assert all(path is not None and json.dumps(path.name).isascii() and " " not in path.name for path in paths)
    assert timing_cache_path(tensorrt, None) is None
    assert timing_cache_path(Sdk("tensorrt-rtx", sdk_of("1.7"), None, None), state) is None  # type: ignore[arg-type]


def sdk_of(version: str) -> object:
    return type("Package", (), {"__version__": version})


def test_a_damaged_timing_cache_is_replaced(sdk: Sdk, tmp_path: Path) -> None:
    cache = tmp_path / "folder" / "kernels.cache"
    cache.parent.mkdir()
    cache.write_bytes(b"garbage")
    assert build_engine(conv(), sdk, EngineOptions(timing_cache=cache, **ELSEWHERE))
    assert cache.read_bytes() != b"garbage"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_sdk, "LOADERS", "nothing.loaded")
    message = r"'tensorrt' cannot be loaded .*install it with: pip install tensorrt; or use onnxruntime or openvino"
    with pytest.raises(RuntimeUnavailable, match=message) as raised:
        check_target(Target("tensorrt", device="cuda"))
    assert "\n" not in str(raised.value)


def test_one_process_drives_one_of_the_packages(sdk: Sdk) -> None:
    with pytest.raises(
        RuntimeUnavailable, match=r"runtime \(='tensorrt'\) cannot follow 'tensorrt-rtx' in one process"
    ):
        load_sdk("tensorrt")


def test_without_a_gpu_one_line_says_what_to_do(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DRIVER", "libnowhere.so.1")
    with pytest.raises(RuntimeUnavailable, match=r"needs an NVIDIA GPU and its driver \(libnowhere.*use onnxruntime"):
        check_target(Target("tensorrt-rtx", device="cuda"))
    with pytest.raises(BadInput, match=r"precision \(='bf16'\)"):
        check_target(Target("tensorrt-rtx", device="cuda", precision="bf16"))


def test_importing_our_side_loads_no_vendors_package() -> None:
    modules = "runtimes.trt, runtimes.trt_operators, runtimes.artefacts, runtimes.cuda, runtimes.gpu_state"
    names = ("tensorrt", "tensorrt_rtx", "cuda.bindings", "pynvml", "polygraphy.backend.trt", "torch")
    code = f"import sys, {modules}; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
