"""From a torch module to a network, and from a network to the file that is shipped."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx
import torch
from onnxscript import rewriter
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)
from torch import Tensor, nn
from torch.export import ExportedProgram

from compress.front_door.reading import translate
from compress.front_door.writer import Untranslated
from compress.graph.fold import fold_constants, remove_unused
from compress.graph.network import Network, check_open_batch
from compress.graph.offsets import fold_added_constants
from compress.graph.prepare import check
from compress.surgery import plain
from device_profiles.errors import BadInput, UnsupportedModel
from runtimes.data_dependence import rewrite_scalar_prelu_

OPSET = 20
FOLD_NORMS = (fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule, fuse_batchnorm_into_gemm_rule)
EXPORT_ERRORS = (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError, NotImplementedError)
CAPTURE_ERRORS = (*EXPORT_ERRORS, ArithmeticError, AssertionError, AttributeError, LookupError)


def export_module(module: nn.Module, example: Tensor | Sequence[Tensor], *, dynamic_batch: bool = False) -> Network:
    """Export a module as it computes in eval mode, with its weights under their torch names.

    Normalisations stay separate from the layers, since methods and the surgery need them; `deployable` folds them.

    Args:
        module: What to export; its training mode is as before afterwards.
        example: Its input, or several in the order of `forward`.
        dynamic_batch: Leave the first axis of every input open in what `Network.write` writes.

    Raises:
        BadInput: The batch cannot stay open, since the network computes with its size.
        UnsupportedModel: torch cannot export the module, or not in the opset this toolkit reads.
    """
    inputs = tuple(each.contiguous() for each in ((example,) if isinstance(example, Tensor) else example))
    opened = None
    if dynamic_batch:  # torch takes an axis of size 1 for one that is never anything else
        inputs, opened = tuple(torch.cat([each, each]) for each in inputs), tuple({0: "batch"} for _ in inputs)
    module = _contiguous(plain(module))
    modes = {one: one.training for one in module.modules()}
    module.eval()
    try:
        with _silence():
            model = (None if dynamic_batch else _directly(module, inputs)) or _by_exporter(module, inputs, opened)
    except EXPORT_ERRORS as err:
        raise UnsupportedModel(
            f"torch.onnx cannot export {type(module).__name__} ({_reason(err)}); rewrite that part with plain tensor "
            "operations"
        ) from err
    finally:
        for one, training in modes.items():
            one.training = training
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset != OPSET:
        raise UnsupportedModel(f"torch.onnx wrote opset {opset} in place of {OPSET}; use a supported torch version")
    _rename(model.graph, _first_names(module))
    strip(model)
    network = Network.from_model(model, sound_weights=True)
    if dynamic_batch and network.batch is None:
        raise UnsupportedModel(
            f"torch.onnx fixed the batch of {type(module).__name__}, whose code computes with its size; use "
            "-1 for the batch there, or export it with a fixed one"
        )
    return network


def _directly(module: nn.Module, inputs: tuple[Tensor, ...]) -> onnx.ModelProto | None:
    """Export without torch's exporter, in a fraction of its time; None where it takes the exporter."""
    try:
        program = torch.export.export(module, inputs, strict=False)
        return translate(program, _first_names(module), OPSET)
    except Untranslated:
        return _by_exporter(program, ())
    except CAPTURE_ERRORS:  # the exporter has other ways to capture a module, and says what is wrong
        return None


def _by_exporter(
    module: nn.Module | ExportedProgram, inputs: tuple[Tensor, ...], shapes: tuple[dict[int, str], ...] | None = None
) -> onnx.ModelProto:
    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
        dynamic_shapes=shapes,
    )
    assert program is not None, "the dynamo exporter returns a program"
    return program.model_proto


def _contiguous(module: nn.Module) -> nn.Module:
    """Return a module whose weights lie in the order of their axes: with channels last the exporter adds transposes."""
    if all(tensor.is_contiguous() for tensor in module.parameters()):
        return module
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in copied.parameters():
            tensor.data = tensor.data.contiguous()
    return copied


def deployable(network: Network) -> Network:
    """Return the network as it is shipped, timed and validated.

    Normalisations with stored statistics are folded into the convolution or product before them (the layers keep
    their names), constants are folded to the end, operators whose latency depends on signs give way to others that
    compute the same, and notes for developers are dropped. A batch that was open stays so.

    Raises:
        ParityFailed: The result computes something else for another batch.
        UnsupportedModel: The result would not be valid ONNX.
    """
    model = onnx.ModelProto()
    model.CopyFrom(fold_added_constants(network).model)
    fold_constants(model, network.shapes, keep_weights=False)
    model = rewriter.rewrite(model, list(FOLD_NORMS))
    rewrite_scalar_prelu_(model.graph)
    _name_biases(model.graph)
    strip(model)
    remove_unused(model.graph)
    shipped = replace(Network.from_model(model, sound_weights=True), batch=network.batch)  # all is checked below
    check_open_batch(network.opened(), shipped)
    try:
        check(shipped.model, fully=True)
    except BadInput as err:
        raise UnsupportedModel(f"the folded network is not valid ONNX ({err}); ship the network unfolded") from err
    return shipped


def _name_biases(graph: onnx.GraphProto) -> None:
    """Give the biases that folding made the names torch would give them."""
    names = {tensor.name for tensor in graph.initializer}
    renamed = {}
    for name in names:
        wanted = name.removesuffix(".weight_bias") + ".bias"
        if name.endswith(".weight_bias") and wanted not in names:
            renamed[name] = wanted
    _rename(graph, renamed)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Map every further name of a shared tensor, one of which the exporter takes, to the name torch gives it first."""
    every = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, tensor in every:
        first.setdefault(id(tensor), name)
    return {name: first[id(tensor)] for name, tensor in every if first[id(tensor)] != name}


def _rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Give initializers other names, in place."""
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)


def strip(model: onnx.ModelProto) -> None:
    """Drop what only a developer of the exporter reads, paths of this machine included, in place."""
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's warnings and log lines from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(err: Exception) -> str:
    cause: BaseException = err
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__
