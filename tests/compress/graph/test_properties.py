"""Random small networks of supported operators, random choices: pruning is always exact."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis
import numpy as np
import onnx
from hypothesis import strategies
from onnx import TensorProto, helper, numpy_helper

from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.graph.network import Network
from compress.graph.proof import TOLERANCE
from compress.graph.surgery import prune

SIDE = 6
FEW = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)


@dataclass
class Builder:
    """Writes an ONNX graph node by node; every tensor is a feature map [2, channels, SIDE, SIDE]."""

    draw: strategies.DrawFn
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    maps: list[tuple[str, int]] = field(default_factory=lambda: [("x", 3)])

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.draw(strategies.integers(0, 2**16)))

    def constant(self, *shape: int) -> str:
        return self.store(self.random.uniform(0.3, 1.0, shape) * self.random.choice([-1, 1], shape))

    def store(self, data: np.ndarray) -> str:
        data = data.astype(np.float32 if data.dtype.kind == "f" else np.int64)
        self.initializers.append(numpy_helper.from_array(data, f"w{len(self.initializers)}"))
        return self.initializers[-1].name

    def call(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"t{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names

    def pick(self) -> tuple[str, int]:
        return self.draw(strategies.sampled_from(self.maps))

    def conv(self) -> None:
        name, channels = self.pick()
        groups = self.draw(strategies.sampled_from([g for g in (1, 1, 2, 4, channels) if channels % g == 0]))
        outer = groups * self.draw(strategies.integers(1, 3)) if groups > 1 else self.draw(strategies.integers(2, 12))
        weight, bias = self.constant(outer, channels // groups, 3, 3), self.constant(outer)
        (result,) = self.call("Conv", name, weight, bias, group=groups, pads=[1] * 4)
        self.maps.append((result, outer))

    def conv_transpose(self) -> None:
        name, channels = self.pick()
        groups = self.draw(strategies.sampled_from([g for g in (1, 2, 4) if channels % g == 0]))
        each = self.draw(strategies.integers(1, 4))
        (result,) = self.call("ConvTranspose", name, self.constant(channels, each, 3, 3), group=groups, pads=[1] * 4)
        self.maps.append((result, each * groups))

    def elementwise(self) -> None:
        name, channels = self.pick()
        op = self.draw(strategies.sampled_from(["Relu", "Sigmoid", "Tanh", "scale", "norm", "instance"]))
        if op == "scale":
            (result,) = self.call("Mul", name, self.constant(1, channels, 1, 1))
        elif op == "norm":
            spread = self.store(self.random.uniform(0.5, 2.0, channels))
            vectors = [self.constant(channels) for _ in range(3)]
            (result,) = self.call("BatchNormalization", name, *vectors, spread)
        elif op == "instance":
            (result,) = self.call("InstanceNormalization", name, self.constant(channels), self.constant(channels))
        else:
            (result,) = self.call(op, name)
        self.maps.append((result, channels))

    def join(self) -> None:
        name, channels = self.pick()
        partners = [other for other in self.maps if other[1] == channels]
        other, _ = self.draw(strategies.sampled_from(partners))
        (result,) = self.call(self.draw(strategies.sampled_from(["Add", "Mul", "Max"])), name, other)
        self.maps.append((result, channels))

    def concat(self) -> None:
        (one, a), (two, b) = self.pick(), self.pick()
        (result,) = self.call("Concat", one, two, axis=1)
        self.maps.append((result, a + b))

    def split(self) -> None:
        name, channels = self.pick()
        if channels < 3:
            return
        first = self.draw(strategies.integers(1, channels - 1))
        sizes = self.store(np.array([first, channels - first]))
        one, two = self.call("Split", name, sizes, outputs=2, axis=1)
        self.maps += [(one, first), (two, channels - first)]

    def permute(self) -> None:
        name, channels = self.pick()
        (result,) = self.call("Gather", name, self.store(self.random.permutation(channels)), axis=1)
        self.maps.append((result, channels))

    def shuffle(self) -> None:
        name, channels = self.pick()
        groups = self.draw(strategies.sampled_from([g for g in (2, 3, 4) if channels % g == 0] or [1]))
        (split,) = self.call("Reshape", name, self.store(np.array([2, groups, channels // groups, SIDE, SIDE])))
        (turned,) = self.call("Transpose", split, perm=[0, 2, 1, 3, 4])
        (result,) = self.call("Reshape", turned, self.store(np.array([2, channels, SIDE, SIDE])))
        self.maps.append((result, channels))

    def excite(self) -> None:
        name, channels = self.pick()
        (pooled,) = self.call("GlobalAveragePool", name)
        (squeezed,) = self.call("Conv", pooled, self.constant(4, channels, 1, 1))
        (gate,) = self.call("Sigmoid", *self.call("Conv", squeezed, self.constant(channels, 4, 1, 1)))
        self.maps.append((self.call("Mul", name, gate)[0], channels))

    def attend(self) -> None:
        name, channels = self.pick()
        heads = self.draw(strategies.sampled_from([h for h in (1, 2, 4) if channels % h == 0]))
        (split,) = self.call("Reshape", name, self.store(np.array([2, heads, channels // heads, SIDE * SIDE])))
        (keys,) = self.call("Transpose", split, perm=[0, 1, 3, 2])
        (scores,) = self.call("Softmax", *self.call("MatMul", keys, split), axis=-1)
        (mixed,) = self.call("MatMul", split, scores)
        (result,) = self.call("Reshape", mixed, self.store(np.array([2, channels, SIDE, SIDE])))
        self.maps.append((result, channels))

    def finish(self) -> onnx.ModelProto:
        name, channels = self.maps[-1]
        (joined,) = self.call("Conv", name, self.constant(3, channels, 1, 1))
        flat = self.store(np.array([2, -1]))
        (vector,) = self.call("Reshape", joined, flat)
        (result,) = self.call("MatMul", vector, self.constant(3 * SIDE * SIDE, 4))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, SIDE, SIDE])
        y = helper.make_tensor_value_info(result, TensorProto.FLOAT, [2, 4])
        graph = helper.make_graph(self.nodes, "random", [x], [y], self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


STEPS = ["conv", "conv", "conv", "conv_transpose", "elementwise", "elementwise", "join", "join", "concat"]
STEPS += ["split", "permute", "shuffle", "excite", "attend"]


@strategies.composite
def networks(draw: strategies.DrawFn) -> onnx.ModelProto:
    builder = Builder(draw)
    builder.conv()
    for step in draw(strategies.lists(strategies.sampled_from(STEPS), min_size=2, max_size=10)):
        getattr(builder, step)()
    return builder.finish()


@FEW
@hypothesis.given(networks(), strategies.integers(0, 2**16))
def test_pruning_a_random_network_is_exact(model: onnx.ModelProto, seed: int) -> None:
    graph = analyse(Network.from_model(model))
    generator = np.random.default_rng(seed)
    scores = {one.name: generator.random(one.width) for one in graph.sets.values()}
    ratios = {one.family: float(generator.uniform(0.05, 1.0)) for one in graph.sets.values()}
    keep = choose(graph, scores, ratios)
    pruned = prune(graph.network, keep)
    assert pruned.proof is not None
    assert pruned.proof.max_error_of_spread <= TOLERANCE
    assert graph.layer_widths({name: len(indices) for name, indices in keep.items()}) == {
        layer.name: (layer.in_channels, layer.out_channels) for layer in analyse(pruned).layers
    }
