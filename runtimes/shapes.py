"""Fixed sizes for a network whose inputs leave some open, or for another batch."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from device_profiles.errors import BadInput

Shapes = Mapping[str, tuple[int, ...]]


def input_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of each graph input; an open axis is -1."""
    weights = {tensor.name for tensor in model.graph.initializer}  # old files list these among the inputs
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
        if value.name not in weights
    }


def with_batch(shapes: Shapes, batch: int) -> dict[str, tuple[int, ...]]:
    """Put a batch size in the first axis of every shape."""
    return {name: (batch, *shape[1:]) if shape else shape for name, shape in shapes.items()}


def with_shapes(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """Fix the input shapes of a model and infer the shape of every tensor in it.

    Args:
        model: Left as it is.
        shapes: Input name -> shape, at least for the inputs that change.

    Raises:
        BadInput: A name, rank or size does not fit the model, an axis stays open, or the network does not work
            with these shapes.
    """
    present = input_shapes(model)
    if unknown := sorted(shapes.keys() - present.keys()):
        raise BadInput(f"inputs (={unknown}) are not in the model, which takes {sorted(present)}")
    wanted = present | dict(shapes)
    for name, shape in wanted.items():
        if len(shape) != len(present[name]) or min(shape, default=1) < 1:
            raise BadInput(
                f"input {name!r} (={shape}) must have {len(present[name])} sizes of at least 1, like {present[name]}"
            )
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, wanted.get(value.name, ()), strict=False):
            dim.dim_value = size
    if wanted != present:  # sizes that were inferred before are stale
        del fixed.graph.value_info[:]
        for value in fixed.graph.output:
            value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as err:
        reason = " ".join(str(err).split())[:300]
        raise BadInput(
            f"the network does not work with the inputs {wanted}: {reason}; give shapes it was made for"
        ) from err
