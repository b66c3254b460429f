"""Every name that is used of NVIDIA's packages exists in the versions that are supported.

The bindings are downloaded; TensorRT's are linked against libraries of our own that hold nothing but the nine functions
that they ask for. What is used is read from the source.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "runtimes"
TRT_FILES = ("trt.py", "trt_build.py", "trt_operators.py", "trt_sdk.py")
TENSORRT = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
CUDA = {
    "12.8": ("cuda-bindings==12.8.0",),
    "13.5": ("cuda-bindings==13.5.0", "cuda-pathfinder==1.9.0"),
}
NVML = "nvidia-ml-py==13.615.71"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
# Reads dotted names from stdin, prints those that the module lacks; "*.name" is looked for in all classes.
LOOK = """
import functools, importlib, json, sys
module = importlib.import_module(sys.argv[1])
def has(path):
    try:
        functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        return False
    return True
classes = [c for c in vars(module).values() if isinstance(c, type)]
wanted = json.load(sys.stdin)
anywhere = {name for c in classes for name in dir(c)}
print(json.dumps([p for p in wanted if not (p[2:] in anywhere if p.startswith("*.") else has(p))]))
"""


class Uses(ast.NodeVisitor):
    """Collects what a file uses of TensorRT, by the annotations of its variables."""

    def __init__(self, attributes: dict[str, str], results: Mapping[str, list[str]]) -> None:
        self.attributes, self.results = attributes, results
        self.variables: dict[str, str] = {}
        self.found: set[str] = set()
        self.unknown: set[str] = set()

    def class_of(self, node: ast.expr) -> str | None:
        """Dotted name of an expression inside the package; "" is the package itself."""
        if isinstance(node, ast.Name):
            return self.variables.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        if ast.unparse(node) in ("sdk.trt", "self.trt"):
            return ""
        owner = self.class_of(node.value)
        if owner is not None:
            return f"{owner}.{node.attr}".lstrip(".")
        return self.attributes.get(node.attr)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = dict(self.variables)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            self.declare(argument.arg, argument.annotation)
        self.generic_visit(node)
        self.variables = outer

    def declare(self, name: str, annotation: ast.expr | None) -> None:
        for found in named(annotation):
            self.variables[name] = found

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            if (owner := self.class_of(base)) is not None:
                self.found |= {f"{owner}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.declare(node.target.id, node.annotation)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            for name, found in zip(target.elts, self.results.get(node.value.func.id, []), strict=False):
                self.variables[ast.unparse(name)] = found
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.class_of(node.value)
        if owner is not None:
            self.found.add(f"{owner}.{node.attr}".lstrip("."))
        else:
            self.unknown.add(node.attr)
        self.generic_visit(node)


def named(annotation: ast.expr | None) -> list[str]:
    """Classes of TensorRT in an annotation, in order."""
    nodes = ast.walk(annotation) if annotation is not None else iter(())
    return [n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "tensorrt"]


def read_uses() -> tuple[set[str], set[str]]:
    """What our files use of TensorRT; and attributes of what is not annotated."""
    trees = [ast.parse((SOURCE / name).read_text("utf-8")) for name in TRT_FILES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    results = {function.name: found for function in functions if (found := named(function.returns))}
    attributes = {
        node.target.attr: named(node.annotation)[0]
        for node in nodes
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute) and named(node.annotation)
    }
    attributes |= {f.name: results[f.name][0] for f in functions if f.name in results and f.decorator_list}
    found, unknown = set[str](), set[str]()
    for tree in trees:
        uses = Uses(attributes, results)
        uses.visit(tree)
        found |= uses.found
        unknown |= uses.unknown
    return found, unknown


def download(specification: str, cache: Path) -> Path:
    """Fetch a wheel into a folder that outlives the test, and unpack it."""
    folder = cache / specification.replace("==", "-")
    if not folder.is_dir():
        wheels = cache / "wheels" / folder.name
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", str(wheels), specification], capture_output=True, check=False)
        if done.returncode:
            reason = f"{specification} cannot be downloaded: {done.stderr.decode()[-300:]}"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
        (wheel,) = wheels.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder.with_suffix(".part"))
        folder.with_suffix(".part").rename(folder)
    return folder


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.cache.mkdir("nvidia"))


def missing(module: str, names: set[str], folders: list[Path]) -> list[str]:
    """Import a module in a process of its own; which of the names it lacks."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, module],
        input=json.dumps(sorted(names)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "LD_LIBRARY_PATH": str(folders[0])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def link_stubs(folder: Path, major: str) -> None:
    """Build the libraries that the bindings are linked against; they do nothing."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.fail("CI needs gcc") if os.environ.get("CI") else pytest.skip("there is no C compiler")
    code = folder / "stub.c"
    code.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([compiler, *options, str(code)], check=True)


@pytest.mark.parametrize("version", TENSORRT)
def test_every_name_used_of_tensorrt_exists(version: str, cache: Path, tmp_path: Path) -> None:
    bindings = download(TENSORRT[version], cache)
    link_stubs(tmp_path, version.partition(".")[0])
    used, _ = read_uses()
    assert missing("tensorrt_bindings", {"Builder", "ICudaEngine.no_such_name"}, [tmp_path, bindings]) == [
        "ICudaEngine.no_such_name"
    ]
    assert missing("tensorrt_bindings", used, [tmp_path, bindings]) == []


def test_every_name_used_of_tensorrt_exists_in_tensorrt_rtx(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert missing("tensorrt_rtx", read_uses()[0], [tmp_path]) == []


def test_what_is_used_is_found_in_the_source() -> None:
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    used, unknown = read_uses()
    assert used >= {
        "ICudaEngine.get_tensor_name",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.report_to_profiler",
        "IBuilderConfig.avg_timing_iterations",
        "BuilderFlag.TF32",
        "Builder.error_recorder",
        "ParserError.node_name",
        "Runtime.deserialize_cuda_engine",
        "IErrorRecorder.report_error",
        "IProfiler.report_layer_time",
        "EngineInspector.get_engine_information",
    }
    classes = [found for found in vars(tensorrt_rtx).values() if isinstance(found, type)]
    vendor = {name for found in classes for name in dir(found) if "_" in name.strip("_")}
    assert unknown & vendor == set()  # a variable without an annotation would hide what is used of it


def cuda_names() -> Iterator[str]:
    """What `runtimes.cuda` uses of the CUDA runtime, all of it by name."""
    for node in ast.walk(ast.parse((SOURCE / "cuda.py").read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_call" and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_name":
            values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield ".".join(values)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "_runtime()":
            yield node.attr
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("cudaMemcpyHost", "cudaMemcpyDevice")):
            yield f"cudaMemcpyKind.{node.value}"


@pytest.mark.parametrize("version", CUDA)
def test_every_name_used_of_cuda_exists(version: str, cache: Path) -> None:
    used = set(cuda_names())
    assert used >= {"cudaMalloc", "cudaGraphLaunch", "cudaEventElapsedTime", "cudaMemcpyKind.cudaMemcpyHostToDevice"}
    folders = [download(specification, cache) for specification in CUDA[version]]
    assert missing("cuda.bindings.runtime", used, merged(folders, cache, version)) == []


def merged(folders: list[Path], cache: Path, version: str) -> list[Path]:
    """Packages that share the folder "cuda" must lie in one place."""
    place = cache / f"cuda-{version}"
    for folder in folders:
        shutil.copytree(folder, place, dirs_exist_ok=True)
    return [place]


def test_every_name_used_of_nvml_exists(cache: Path) -> None:
    used = set()
    for node in ast.walk(ast.parse((SOURCE / "gpu_state.py").read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("nvml", "self._nvml"):
            used.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._read":
            assert isinstance(node.args[0], ast.Constant)
            used.add(str(node.args[0].value))
    assert used >= {"nvmlInit", "nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksThrottleReasons"}
    assert missing("pynvml", used | {"nvmlClocksThrottleReasonSwPowerCap"}, [download(NVML, cache)]) == []
