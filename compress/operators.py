"""A module as a list of its operators, so that a part of it runs by itself from values that are kept.

torch.export traces the module in eval mode; nothing of the module's own code runs afterwards. So what comes before a
layer is computed once, and what follows, up to some later tensor, as often as a method likes and with other weights.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from device_profiles.errors import UnsupportedModel

Values = dict[str, Tensor]  # by the name of the operator that made them
WEIGHTED = {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "convolution", "linear"}
EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, NotImplementedError)


class Operators:
    """The operators of a module in execution order, with batches of one size as input.

    Args:
        module: Traced as it computes in eval mode; its own mode stays.
        example: A batch of the size that every later batch has.

    Raises:
        UnsupportedModel: torch cannot export the module, or it has several outputs.
    """

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        with _evaluating(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                program = torch.export.export(module, (example,), strict=False).run_decompositions({})
            except EXPORT_ERRORS as err:
                raise UnsupportedModel(
                    f"torch.export cannot trace {type(module).__name__} ({str(err).splitlines()[0][:200]}); rewrite "
                    "that part with plain tensor operations"
                ) from err
        signature = program.graph_signature
        self._names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._constants = {
            name: program.constants[target] for name, target in signature.inputs_to_lifted_tensor_constants.items()
        }
        (self.input,) = signature.user_inputs
        if len(signature.user_outputs) != 1:
            raise UnsupportedModel(
                f"{type(module).__name__} has {len(signature.user_outputs)} outputs; only one is read"
            )
        (self.output,) = signature.user_outputs
        self.nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        self.positions = {node.name: position for position, node in enumerate(self.nodes)}
        self._last_use = {
            name: max((self.positions.get(user.name, len(self.nodes)) for user in node.users), default=-1)
            for node in program.graph.nodes
            for name in [node.name]
        }

    def layers(self) -> dict[str, int]:
        """Return the position of every convolution and product by its weight's name, unless it is used twice."""
        found: dict[str, list[int]] = {}
        for position, node in enumerate(self.nodes):
            if kind(node) in WEIGHTED and node.args[1].name in self._names:
                found.setdefault(self._names[node.args[1].name], []).append(position)
        return {name: positions[0] for name, positions in found.items() if len(positions) == 1}

    def operand(self, position: int) -> str:
        """Return the name of the value that an operator takes first."""
        return self.nodes[position].args[0].name

    def result(self, position: int) -> str:
        """Return the name of the value that an operator makes."""
        return self.nodes[position].name

    def run(
        self, values: Values, span: tuple[int, int], tensors: Mapping[str, Tensor], wanted: Collection[str] = ()
    ) -> Values:
        """Run some of the operators.

        Args:
            values: What operators before the span made, or the input.
            span: Position of the first operator and of the one after the last.
            tensors: Every parameter and buffer by its name in the module; put others in place of some to try them.
            wanted: Names of values to return though nothing needs them any more.

        Returns:
            The values that operators after the span need, and the wanted ones.
        """
        known = dict(values)
        for position in range(*span):
            node = self.nodes[position]
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: self._value(one.name, known, tensors))
            known[node.name] = node.target(*args, **kwargs)
            for one in node.all_input_nodes:
                if self._last_use[one.name] <= position and one.name not in wanted:
                    known.pop(one.name, None)
        return {name: value for name, value in known.items() if name in wanted or self._last_use[name] >= span[1]}

    def _value(self, name: str, known: Values, tensors: Mapping[str, Tensor]) -> Tensor:
        if name in known:
            return known[name]
        return self._constants[name] if name in self._constants else tensors[self._names[name]]


def kind(node: fx.Node) -> str:
    """Return an operator's plain name, "conv2d" for aten.conv2d.default; "output" for the end of the graph."""
    return getattr(node.target, "__name__", node.op).split(".")[0]


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
