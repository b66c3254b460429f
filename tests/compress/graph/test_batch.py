"""A batch that a file leaves open stays open, or the reason is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress.export import deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.batch import OpenBatch, find_growth, open_inputs, reopen_
from compress.graph.choose import choose
from compress.graph.network import Network, check_open_batch
from compress.graph.proof import prove_batches
from compress.graph.surgery import prune
from device_profiles.errors import BadInput, ParityFailed, UnsupportedModel
from device_profiles.target import Target
from runtimes.base import open_session
from tests.compress.graph.test_fuzz import small_model

CLOSE = 1e-5  # absolute, of outputs around 1: products of other shapes are added in another order


def open_model() -> onnx.ModelProto:
    """Build the small model with a batch that is open in truth: its shapes say 0 and -1 where the batch is."""
    model = small_model()
    stated = {"split": [0, 2, 4, 4, 4], "merge": [-1, 8, 4, 4]}
    for tensor in model.graph.initializer:
        if tensor.name in stated:
            tensor.CopyFrom(numpy_helper.from_array(np.array(stated[tensor.name], np.int64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def pruned(network: Network) -> Network:
    graph = analyse(network)
    scores = {one.name: np.arange(one.width, dtype=float) for one in graph.sets.values()}
    return prune(network, choose(graph, scores, 0.5))


def outputs(model: onnx.ModelProto | Path, image: np.ndarray) -> np.ndarray:
    with open_session(model, Target("onnxruntime")) as session:
        (name,) = session.inputs
        return next(iter(session.run({name: image}).values()))


def batches(network: Network) -> None:
    """Insist that a batch of four computes what its samples compute one by one, at a fixed batch."""
    (shape,) = network.inputs.values()
    images = np.random.default_rng(1).standard_normal((4, *shape[1:])).astype(np.float32)
    together = outputs(network.opened(), images)
    for sample, result in zip(images, together, strict=True):
        assert np.abs(outputs(network.model, sample[None])[0] - result).max() < CLOSE


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_a_file_with_an_open_batch_is_pruned_and_stays_open(tmp_path: Path) -> None:
    network = pruned(Network.from_model(open_model()))
    assert network.inputs == {"x": (1, 3, 4, 4)}
    batches(network)
    network.write(tmp_path / "p.onnx")
    onnx.checker.check_model(tmp_path / "p.onnx", full_check=True)
    written = onnx.load(tmp_path / "p.onnx")
    assert (dims(written.graph.input[0]), dims(written.graph.output[0])) == (["N", 3, 4, 4], ["N", 2])
    again = Network.read(tmp_path / "p.onnx")
    assert again.batch is not None
    assert again.batch.symbol == "N"


@pytest.mark.parametrize("clear", [lambda dim: dim.Clear(), lambda dim: setattr(dim, "dim_value", -1)])
def test_a_batch_without_a_name_gets_one(clear: Callable[[onnx.TensorShapeProto.Dimension], None]) -> None:
    model = open_model()
    clear(model.graph.input[0].type.tensor_type.shape.dim[0])
    assert dims(Network.from_model(model).opened().graph.input[0])[0] == "batch"


def test_a_given_shape_closes_the_batch() -> None:
    network = Network.from_model(open_model(), {"x": (2, 3, 4, 4)})
    assert network.batch is None
    assert network.opened() is network.model


def test_the_batch_of_the_analysis_does_not_matter() -> None:
    batches(replaced := pruned(Network.from_model(open_model(), batch=1)))
    larger = pruned(Network.from_model(open_model(), batch=4))
    assert larger.inputs == {"x": (4, 3, 4, 4)}
    images = np.random.default_rng(1).standard_normal((3, 3, 4, 4)).astype(np.float32)
    assert np.array_equal(outputs(larger.opened(), images), outputs(replaced.opened(), images))


def test_other_open_sizes_still_ask() -> None:
    model = open_model()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(BadInput, match="open shape Nx3xheightx4; give every size, such as --input 1x3x1x4"):
        Network.from_model(model)


def test_inputs_of_different_batches_are_not_one_batch() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [name, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "y"], ["z"])], "g", values, [], [])
    assert open_inputs(helper.make_model(graph), {}) == {}


class Concrete(nn.Module):
    """Everything whose constants hold the batch: a token, positions, states, heads, sizes, repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = nn.functional.interpolate(x, size=(5, 5), mode="bilinear")
        n, c = x.shape[:2]
        state = x.new_full((n, 2, c), 0.5)
        x = torch.cat([self.token.expand(n, -1, -1), state, x.flatten(2).transpose(1, 2)], 1)
        q, k, v = self.qkv(x).reshape(n, -1, 3, 2, 4).permute(2, 0, 3, 1, 4).reshape(3, n * 2, -1, 4)
        y = ((q @ k.transpose(1, 2)).softmax(-1) @ v).view(n, 2, -1, 4).transpose(1, 2).reshape(n, -1, c)
        return self.head(torch.cat([x[:, 0], (x + y).mean(1)], 1))


@pytest.fixture(scope="module")
def concrete() -> Network:
    torch.manual_seed(0)
    return export_module(Concrete(), torch.randn(1, 3, 4, 4), dynamic_batch=True)


def test_a_module_is_exported_with_an_open_batch_and_pruned(concrete: Network) -> None:
    network = pruned(concrete)
    assert network.proof is not None
    assert network.proof.removed_channels == 8
    batches(concrete)
    batches(network)


def test_what_is_shipped_has_an_open_batch_too(concrete: Network) -> None:
    shipped = deployable(pruned(concrete))
    assert dims(shipped.opened().graph.input[0]) == ["batch", 3, 4, 4]
    batches(shipped)


def test_what_is_shipped_is_compared_at_other_batches(concrete: Network) -> None:
    assert concrete.batch is not None
    growth = {name: grown for name, grown in concrete.batch.growth.items() if len(grown) != 3}
    wrong = Network(concrete.model, batch=OpenBatch("N", 1, concrete.batch.inputs, growth))
    with pytest.raises(UnsupportedModel, match=r"with 3 samples: onnxruntime .* cannot run"):
        check_open_batch(concrete.opened(), wrong)


def test_a_pruning_that_is_wrong_for_other_batches_is_refused(concrete: Network) -> None:
    graph = analyse(concrete)
    broken = Network(onnx.ModelProto.FromString(concrete.model.SerializeToString()), batch=concrete.batch)
    for tensor in broken.model.graph.initializer:
        if tensor.name == "head.bias":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    with pytest.raises(ParityFailed, match=r"works for one batch only \(with 1 samples: output .* differs by"):
        prove_batches(graph, {}, broken)


def of_batch(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """Build a network from "x" of N samples to "y", which may read the batch as "n"."""
    count = [
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Squeeze", ["shape"], ["n"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = helper.make_graph([*count, *nodes], "of batch", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_an_index_that_picks_everything_in_order_may_grow() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["row"]),
        helper.make_node("Mul", ["n", "four"], ["stop"]),
        helper.make_node("Range", ["zero", "stop", "one"], ["range"]),
        helper.make_node("Reshape", ["range", "square"], ["index"]),
        helper.make_node("Gather", ["row", "index"], ["grid"]),
        helper.make_node("Relu", ["grid"], ["y"]),
    ]
    constants = {"flat": [-1], "four": np.int64(4), "zero": np.int64(0), "one": np.int64(1), "square": [-1, 2, 2]}
    model = of_batch(*nodes, **constants)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 3))
    network = Network.from_model(model)
    assert [node.op_type for node in network.model.graph.node] == ["Reshape", "Reshape", "Relu"]
    batches(network)


REFUSED = {
    "computes with the number of samples": of_batch(
        helper.make_node("Cast", ["n"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "float"], ["y"]),
    ),
    "'z' differs from sample to sample": of_batch(
        helper.make_node("Cast", ["n"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Range", ["zero", "float", "one"], ["range"]),
        helper.make_node("Unsqueeze", ["range", "axis"], ["z"]),
        helper.make_node("Add", ["x", "z"], ["y"]),
        zero=np.float32(0),
        one=np.float32(1),
        axis=[1],
    ),
    "which is no multiple": of_batch(
        helper.make_node("Concat", ["x", "row"], ["y"], axis=0), row=np.ones((1, 4), np.float32)
    ),
    "cannot run the model": of_batch(helper.make_node("Reshape", ["x", "one"], ["y"]), one=[1, 4]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_computes_with_the_batch_is_refused_with_the_reason(reason: str) -> None:
    with pytest.raises(BadInput, match=rf"the batch of 'x' is open, but .*{reason}.*such as --input 1x4"):
        Network.from_model(REFUSED[reason])
    assert Network.from_model(REFUSED[reason], {"x": (1, 4)}).batch is None


def test_another_network_for_another_batch_is_refused() -> None:
    one = of_batch(helper.make_node("Relu", ["x"], ["y"]))
    two = of_batch(helper.make_node("Relu", ["x"], ["z"]), helper.make_node("Relu", ["z"], ["y"]))
    with pytest.raises(UnsupportedModel, match="another batch needs other operators"):
        find_growth(one, two, ({}, {}), 1)
    two = of_batch(helper.make_node("Tanh", ["x"], ["y"]))
    with pytest.raises(UnsupportedModel, match="Relu '' is another one for another batch"):
        find_growth(one, two, ({}, {}), 1)
    one, two = (of_batch(helper.make_node("Relu", ["x"], ["y"]), **{name: [1]}) for name in "ab")
    with pytest.raises(UnsupportedModel, match="'a' is constant for some batches only"):
        find_growth(one, two, ({}, {}), 1)


def test_a_size_that_is_no_multiple_of_the_batch_is_refused() -> None:
    nodes = [helper.make_node("Reshape", ["x", "sizes"], ["y"], name="view")]
    model = of_batch(*nodes, sizes=[3, -1], wide=np.ones((3, 2)))
    weights = Network(model).weights
    with pytest.raises(UnsupportedModel, match=r"Reshape 'view' makes \[3, -1\], which do not fit the batch"):
        reopen_(model, weights, OpenBatch("N", 2, ("x",), {"y": (1, 0)}))
    with pytest.raises(UnsupportedModel, match=r"the constant 'wide' has the shape \(3, 2\), which does not fit"):
        reopen_(model, weights, OpenBatch("N", 2, ("x",), {"wide": (1, 0)}))
