"""The networks that commands take: a bundled name, an .onnx file, or package.module:callable."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.graph.batch import at_batch, open_inputs
from compress.models import Argument, find, import_callable
from device_profiles.errors import BadInput
from runtimes.model_file import ModelSource, read_model
from runtimes.shapes import input_shapes, with_shapes

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadedModel:
    """A network as it would be deployed.

    Attributes:
        name: What to call it, fit for a file's name.
        model: The file, or the exported network.
        input_shapes: Graph input -> shape, where the command named one.
    """

    name: str
    model: ModelSource
    input_shapes: dict[str, Shape]


def parse_shape(text: str) -> Shape:
    """Read a shape such as "1x3x128x128".

    Raises:
        BadInput: It is something else.

    Example:
        >>> parse_shape("1x3x128x128")
        (1, 3, 128, 128)
    """
    sizes = text.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise BadInput(f"input (={text!r}) must be sizes of at least 1 joined by x, such as 1x3x128x128")
    return tuple(int(size) for size in sizes)


def load_model(
    reference: str, shapes: Sequence[Shape], batch: int, seed: int, *, dynamic_batch: bool = False
) -> LoadedModel:
    """Load a network; what torch has to build is exported.

    Args:
        reference: A bundled network's name, the path of an .onnx file, or "package.module:callable".
        shapes: Input shapes in the order of the inputs; a callable needs them.
        batch: Replaces the first axis of every input.
        seed: Of the weights that torch draws, so that the same command makes the same network again.
        dynamic_batch: Leave the first axis of every input open.

    Raises:
        BadInput: There is no such network, the shapes do not fit it, or its batch cannot be open.
        UnsupportedModel: torch cannot export it, or it has unknown operators.
    """
    if reference.endswith(".onnx"):
        path = Path(reference)
        model = read_model(path, weights=False)
        if dynamic_batch and not open_inputs(model, {}):
            raise BadInput(f"{path} has a fixed batch (or more is open), which nothing can open; export it again")
        return LoadedModel(path.stem, path, named_shapes(model, shapes))
    if ":" in reference:
        if not shapes:
            raise BadInput(
                f"model (={reference!r}) needs its input's shape; add one --input 1x3x128x128 for each input"
            )
        factory, arguments = reference, {}
        sys.path.append(os.getcwd())  # as `python -m` does; a script has its own folder there instead
    else:
        bundled = find(reference)
        factory, arguments, shapes = bundled.factory, bundled.arguments, shapes or bundled.input_shapes
    shapes = [(batch, *shape[1:]) for shape in shapes]
    exported = _export(factory, arguments, shapes, seed, dynamic_batch=dynamic_batch)
    return LoadedModel(reference.replace(":", "."), exported, {})


def load_sized(path: Path, shapes: Sequence[Shape]) -> onnx.ModelProto:
    """Load an .onnx file with fixed input shapes.

    Args:
        path: The file.
        shapes: Input shapes in the order of the inputs; none to keep those of the file, with one sample where only the
            batch is open.

    Raises:
        BadInput: The file is missing or damaged, or the shapes do not fit it.
        UnsupportedModel: It has unknown operators.
    """
    model = read_model(path)
    return with_shapes(model, named_shapes(model, shapes) or closed_batch(model))


def named_shapes(model: onnx.ModelProto, shapes: Sequence[Shape]) -> dict[str, Shape]:
    """Name the shapes that a command gives.

    Raises:
        BadInput: They are more or fewer than the inputs.
    """
    names = list(input_shapes(model))
    if shapes and len(shapes) != len(names):
        raise BadInput(f"input was given {len(shapes)} times; the model takes {len(names)}: {', '.join(names)}")
    return dict(zip(names, shapes, strict=False))


def closed_batch(model: onnx.ModelProto) -> dict[str, Shape]:
    """Take one sample where the batch is all that a model leaves open, and say so on stderr."""
    shapes = at_batch(model, tuple(open_inputs(model, {})), 1)
    if shapes:
        print(f"the batch of {', '.join(map(repr, shapes))} is open; one sample is taken", file=sys.stderr)
    return shapes


def _export(
    factory: str, arguments: dict[str, Argument], shapes: Sequence[Shape], seed: int, *, dynamic_batch: bool
) -> ModelSource:
    import torch

    from compress.export import deployable, export_module

    torch.manual_seed(seed)
    module = import_callable(factory)(**arguments)
    if not isinstance(module, torch.nn.Module):
        raise BadInput(f"model (={factory!r}) returned a {type(module).__name__}; it must return a torch.nn.Module")
    examples = [torch.randn(shape) for shape in shapes]
    return deployable(export_module(module, examples, dynamic_batch=dynamic_batch)).opened()
