"""From a torch module straight to ONNX, for programs of common operators: the exporter's answer in less of its time.

`torch.onnx.export` spends most of its time on bringing the captured program to a smaller set of operators, which it
traces a second time for. The operators that most networks are made of need none of that. This reads the program as
`torch.export` captures it and writes each operator as the exporter would. Whatever it does not know in every detail is
`Untranslated`, and the exporter takes the whole program.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from compress.front_door.operators import CREATION, OPERATORS, PASSED
from compress.front_door.writer import TYPES, Untranslated, Value, Writer

IR_VERSION = 10  # what torch's exporter writes
LARGEST_CONSTANT_ELEMENTS = 1 << 18  # larger ones are left to the exporter, which may keep them computed
STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
NO_EFFECT = ("aten::_assert_tensor_metadata",)
LITERAL = "lifted_tensor_"  # what torch.export calls a tensor that the code makes of numbers


def translate(program: ExportedProgram, first_names: Mapping[str, str], opset: int) -> onnx.ModelProto:
    """Write a captured program as ONNX, with every shape noted.

    Args:
        program: What `torch.export.export` made of a module in eval mode, without decompositions.
        first_names: For every further name of a shared tensor the name that it has in the model.
        opset: Version of the operators.

    Raises:
        Untranslated: The program uses something that is not known in every detail.
    """
    reading = _Reading(program, first_names)
    for node in program.graph.nodes:
        if node.op == "call_function":
            reading.call(node)
        elif node.op not in ("placeholder", "output"):
            raise Untranslated(node.op)
    writer = reading.writer
    (results,) = next(node for node in program.graph.nodes if node.op == "output").args
    outputs = reading.outputs(results)
    inputs = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    infos = {name: helper.make_tensor_value_info(name, TYPES[v.dtype], v.shape) for name, v in writer.values.items()}
    graph = helper.make_graph(
        writer.nodes,
        "main_graph",
        [infos.pop(name) for name in inputs],
        [infos.pop(name) for name in outputs],
        list(writer.initializers.values()),
        value_info=[info for name, info in infos.items() if name not in writer.initializers],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION,
        producer_name="pytorch",
        producer_version=torch.__version__,
    )


class _Reading:
    """The state of reading one program: what each node has come to.

    Attributes:
        writer: Where the operators are written.
        values: What each node is in ONNX; several tensors for an operator with several outputs.
        known: Nodes that depend on no input and no weight, with what they are.
        sharing: The nodes whose tensors lie in the same memory, by its address.
        passed: The nodes that are the same tensor in ONNX, by its name.
    """

    def __init__(self, program: ExportedProgram, first_names: Mapping[str, str]) -> None:
        self.writer = Writer({spec.arg.name for spec in program.graph_signature.input_specs})
        self.values: dict[fx.Node, Value | list[Value]] = {}
        self.known: dict[fx.Node, Any] = {}
        self.order = {node: position for position, node in enumerate(program.graph.nodes)}
        self.passed: defaultdict[str, list[fx.Node]] = defaultdict(list)
        self.sharing: defaultdict[int, list[fx.Node]] = defaultdict(list)
        for node in program.graph.nodes:
            if isinstance(node.meta.get("val"), Tensor):
                self.sharing[_storage(node)].append(node)
        self.tensors = {**program.constants, **program.state_dict}
        self.first_names = first_names
        stored = {s.arg.name: s for s in program.graph_signature.input_specs if s.kind in STORED}
        if any(spec.kind not in (*STORED, InputKind.USER_INPUT) for spec in program.graph_signature.input_specs):
            raise Untranslated("an input that is no tensor")
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.users:
                self._place(node, stored.get(node.name))
            elif node.op == "placeholder" and node.name not in stored:
                self._place(node, None)

    def _place(self, node: fx.Node, spec: Any) -> None:
        if not isinstance(node.meta.get("val"), Tensor):
            raise Untranslated("an input that is no tensor")
        if spec is None:
            self.values[node] = self.writer.note(node.name, _shape(node), node.meta["val"].dtype)
        elif spec.target.rpartition(".")[2].startswith(LITERAL):
            self.known[node] = self.tensors[spec.target].clone()
        else:
            name = self.first_names.get(spec.target, spec.target)
            self.values[node] = self.writer.store(name, self.tensors[spec.target])

    def call(self, node: fx.Node) -> None:
        """Translate one call."""
        if node.target is operator.getitem:
            whole, index = node.args
            table = self.known if whole in self.known else self.values
            table[node] = table[whole][index]
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Untranslated(str(node.target))
        if node.target.name() in NO_EFFECT:
            return
        name = node.target.name().removeprefix("aten::")
        if torch.Tag.nondeterministic_seeded in node.target.tags and name not in PASSED:
            raise Untranslated(name)
        if self._computed(node, name):
            return
        if node.target._schema.is_mutable:
            self._check_alone(node)
            kind, _, overload = name.partition(".")
            name = kind.removesuffix("_") + ("." + overload if overload else "")
        translated = OPERATORS.get(name)
        if translated is None:
            raise Untranslated(name)
        self.writer.start(name.partition(".")[0], node.meta["val"])
        arguments = fx.map_arg((node.args, dict(node.kwargs)), self._read)
        try:
            result = translated(self.writer, *arguments[0], **arguments[1])
        except TypeError as err:  # an argument the table does not know
            raise Untranslated(name) from err
        self._check(node, result)
        self.values[node] = result
        if isinstance(result, Value):
            self.passed[result.name].append(node)

    def _computed(self, node: fx.Node, name: str) -> bool:
        """Compute what depends on no input, such as a mask, also where the code writes into a part of it."""
        tensors = [each for each in node.all_input_nodes if each not in self.known]
        shape_only = name.partition(".")[0] in CREATION
        if (tensors and not shape_only) or not (shape_only or node.all_input_nodes):
            return False
        arguments = fx.map_arg((node.args, dict(node.kwargs)), self._number)
        if "empty" in name:
            raise Untranslated(name)
        self.known[node] = node.target(*arguments[0], **arguments[1])
        return True

    def _number(self, node: fx.Node) -> Any:
        # Of a tensor that is not known, only shape and type are read.
        return self.known[node] if node in self.known else torch.empty(_shape(node), dtype=node.meta["val"].dtype)

    def _read(self, node: fx.Node) -> Any:
        if node not in self.known:
            return self.values[node]
        if not isinstance(self.known[node], Tensor) or self.known[node].numel() > LARGEST_CONSTANT_ELEMENTS:
            raise Untranslated("a large constant")
        return self.writer.constant(self.known[node].numpy(force=True))

    def _check_alone(self, node: fx.Node) -> None:
        """Make sure that nobody reads what an operator writes in place, but as that operator's result."""
        written = node.args[0]
        if not isinstance(written, fx.Node) or not isinstance(self.values.get(written), Value):
            raise Untranslated("a list that is written in place")
        for other in {*self.sharing[_storage(written)], *self.passed[self.values[written].name]} - {node}:
            if self.order[other] < self.order[node]:
                later = any(self.order[user] > self.order[node] for user in other.users)
                if other.op != "call_function" or later:
                    raise Untranslated("a tensor that is read after it was written in place")

    def _check(self, node: fx.Node, result: Value | list[Value]) -> None:
        wanted = node.meta["val"]
        pairs = zip(wanted, result, strict=True) if isinstance(result, list) else [(wanted, result)]
        for meta, value in pairs:
            if tuple(meta.shape) != value.shape or meta.dtype != value.dtype:
                raise Untranslated(f"{node.target} of {value.shape}")

    def outputs(self, results: Sequence[Any]) -> list[str]:
        """Name the outputs: each the result of an operator of its own."""
        names: list[str] = []
        made = {name for node in self.writer.nodes for name in node.output}
        for result in results:
            if not isinstance(result, fx.Node):
                raise Untranslated("an output that is no tensor")
            value = self._read(result)
            if value.name in names or value.name not in made:
                self.writer.start("output", result.meta["val"])
                value = self.writer.add("Identity", [value])
            names.append(value.name)
        return names


def _storage(node: fx.Node) -> int:
    return int(node.meta["val"].untyped_storage()._cdata)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)
