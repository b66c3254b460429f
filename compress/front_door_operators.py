"""How the operators of torch that most networks consist of are written in ONNX, each as torch's exporter writes it.

The parameters of each function are those of torch's operator.
"""
# ruff: noqa: ARG001, PLR0913, PLR0917 - which parameters there are is torch's choice

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from compress.front_door_writer import Array, Untranslated, Value, Writer

Sizes = int | Sequence[int]
LAST = np.iinfo(np.int64).max
FIRST = np.iinfo(np.int64).min


def _integers(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def _each(sizes: Sizes, count: int) -> list[int]:
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    return listed * count if len(listed) == 1 else listed


def _positive(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def _as_result(writer: Writer, operand: Any) -> Value:
    """Return an operand of the result's type: a number becomes a constant, a tensor of another type is not known."""
    if isinstance(operand, Value):
        if operand.dtype != writer.result.dtype:
            raise Untranslated(f"an operand of type {operand.dtype}")
        return operand
    return writer.constant(torch.tensor(operand, dtype=writer.result.dtype).numpy())


def _same(_: Writer, x: Value, *rest: Any, **named: Any) -> Value:
    """Leave out what changes nothing in eval mode."""
    return x


def _convert(writer: Writer, x: Value, *rest: Any, **named: Any) -> Value:
    if x.dtype != writer.result.dtype:
        raise Untranslated("a change of type")
    return x


def _dropout(_: Writer, x: Value, probability: float, train: bool) -> Value:
    if train:
        raise Untranslated("dropout in training")
    return x


def _pointwise(op_type: str, writer: Writer, x: Value, **attributes: Any) -> Value:
    return writer.add(op_type, [_as_result(writer, x)], **attributes)


def _binary(op_type: str, writer: Writer, left: Any, right: Any, alpha: float = 1) -> Value:
    if alpha != 1 or writer.result.dtype == torch.bool:
        raise Untranslated("alpha")
    return writer.add(op_type, [_as_result(writer, left), _as_result(writer, right)])


def _reversed_subtraction(writer: Writer, x: Value, other: float, alpha: float = 1) -> Value:
    return _binary("Sub", writer, other, x, alpha)


def _silu(writer: Writer, x: Value) -> Value:
    return writer.add("Mul", [x, writer.add("Sigmoid", [x])])


def _clip(writer: Writer, x: Value, smallest: float | None = None, largest: float | None = None) -> Value:
    if smallest is None and largest is None:
        return x
    bounds = [None if bound is None else _as_result(writer, bound) for bound in (smallest, largest)]
    return writer.add("Clip", [_as_result(writer, x), *bounds])


def _relu6(writer: Writer, x: Value) -> Value:
    return _clip(writer, x, 0, 6)


def _hard_tanh(writer: Writer, x: Value, smallest: float = -1, largest: float = 1) -> Value:
    return _clip(writer, x, smallest, largest)


def _hard_sigmoid(writer: Writer, x: Value) -> Value:
    return writer.add("HardSigmoid", [x], alpha=1 / 6, beta=1 / 2)


def _leaky_relu(writer: Writer, x: Value, slope: float = 0.01) -> Value:
    return writer.add("LeakyRelu", [x], alpha=slope)


def _prelu(writer: Writer, x: Value, slope: Value) -> Value:
    shape = (1, math.prod(slope.shape), *[1] * (len(x.shape) - 2))
    if len(x.shape) < 2:
        raise Untranslated("slopes without channels")
    sized = writer.add("Reshape", [slope, _integers(1, -1, *shape[2:])], shape, allowzero=0)
    return writer.add("PRelu", [x, sized])


def _gelu(writer: Writer, x: Value, *, approximate: str = "none") -> Value:
    return writer.add("Gelu", [x], approximate=approximate)


def _convolution(
    writer: Writer,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Value:
    count = len(weight.shape) - 2
    if len(x.shape) != len(weight.shape):
        raise Untranslated("a convolution without a batch")
    return writer.add(
        "Conv",
        [x, weight, bias],
        group=groups,
        pads=_each(padding, count) * 2,
        strides=_each(stride, count),
        dilations=_each(dilation, count),
        kernel_shape=weight.shape[2:],
    )


def _transposed(
    writer: Writer,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Value:
    count = len(weight.shape) - 2
    if len(x.shape) != len(weight.shape):
        raise Untranslated("a convolution without a batch")
    return writer.add(
        "ConvTranspose",
        [x, weight, bias],
        group=groups,
        pads=_each(padding, count) * 2,
        strides=_each(stride, count),
        dilations=_each(dilation, count),
        output_padding=_each(output_padding, count),
        kernel_shape=weight.shape[2:],
    )


def _linear(writer: Writer, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if len(weight.shape) != 2 or len(x.shape) < 2:
        raise Untranslated("a product with a vector")
    if len(x.shape) == 2:
        return writer.add("Gemm", [x, weight, bias], alpha=1.0, beta=1.0, transA=0, transB=1)
    product = writer.add("MatMul", [x, writer.add("Transpose", [weight], weight.shape[::-1], perm=[1, 0])])
    return writer.add("Add", [product, bias]) if bias else product


def _batch_norm(
    writer: Writer,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    epsilon: float,
    _: bool,
) -> Value:
    tensors = [x, weight, bias, mean, variance]
    if training or None in tensors:
        raise Untranslated("a normalisation without stored statistics or scales")
    return writer.add("BatchNormalization", tensors, epsilon=epsilon, momentum=1 - momentum)


def _layer_norm(
    writer: Writer,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    epsilon: float = 1e-5,
    _: bool = True,
) -> Value:
    if weight is None:
        raise Untranslated("a normalisation without a scale")
    return writer.add("LayerNormalization", [x, weight, bias], axis=-len(shape), epsilon=epsilon, stash_type=1)


def _pool(x: Value, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0) -> dict[str, Any]:
    count = len(x.shape) - 2
    shape = _each(kernel, count)
    if len(shape) != count:
        raise Untranslated("a pooling without a batch")
    return {"kernel_shape": shape, "strides": _each(stride, count) or shape, "pads": _each(padding, count) * 2}


def _max_pool(
    writer: Writer,
    x: Value,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Value:
    sizes = _pool(x, kernel, stride, padding)
    dilations = _each(dilation, len(x.shape) - 2)
    return writer.add("MaxPool", [x], ceil_mode=int(ceil_mode), dilations=dilations, **sizes)


def _average_pool(
    writer: Writer,
    x: Value,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    if divisor is not None:
        raise Untranslated("a divisor")
    sizes = _pool(x, kernel, stride, padding)
    return writer.add("AveragePool", [x], ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad), **sizes)


def _global_average(writer: Writer, x: Value, size: Sizes) -> Value:
    count = len(writer.result.shape) - (len(x.shape) - len(_each(size, 1)))
    if set(writer.result.shape[-count:]) != {1}:
        raise Untranslated("an adaptive pooling to more than one position")
    return writer.add("ReduceMean", [x, _integers(*range(-1, -count - 1, -1))], keepdims=1, noop_with_empty_axes=0)


def _reduce(
    op_type: str, writer: Writer, x: Value, axes: Sizes | None, keep: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    if not axes and axes != 0:
        raise Untranslated("a reduction over everything")
    listed = _integers(*_each(axes, 1))
    return writer.add(op_type, [_as_result(writer, x), listed], keepdims=int(keep), noop_with_empty_axes=0)


def _softmax(writer: Writer, x: Value, axis: int, dtype: torch.dtype | None = None) -> Value:
    return writer.add("Softmax", [_as_result(writer, x)], axis=axis)


def _reshape(writer: Writer, x: Value, *_: Any) -> Value:
    return writer.add("Reshape", [x, _integers(*writer.result.shape)], allowzero=1)


def _view(writer: Writer, x: Value, sizes: Sequence[int]) -> Value:
    return writer.add("Reshape", [x, _integers(*sizes)], allowzero=1)


def _permute(writer: Writer, x: Value, axes: Sequence[int]) -> Value:
    return writer.add("Transpose", [x], perm=[_positive(axis, len(x.shape)) for axis in axes])


def _transpose(writer: Writer, x: Value, first: int = 0, second: int = 1) -> Value:
    order = list(range(len(x.shape)))
    order[first], order[second] = order[second], order[first]
    return writer.add("Transpose", [x], perm=order)


def _concat(writer: Writer, parts: Sequence[Value], axis: int = 0) -> Value:
    if len({len(part.shape) for part in parts}) > 1 or (0,) in [part.shape for part in parts]:
        raise Untranslated("a concatenation with nothing")
    return parts[0] if len(parts) == 1 else writer.add("Concat", [_as_result(writer, p) for p in parts], axis=axis)


def _stack(writer: Writer, parts: Sequence[Value], axis: int = 0) -> Value:
    shape = list(writer.result.shape)
    shape[axis] = 1
    return writer.add("Concat", [writer.add("Unsqueeze", [p, _integers(axis)], shape) for p in parts], axis=axis)


def _split(writer: Writer, x: Value, _: Any, axis: int = 0) -> list[Value]:
    shapes = [tuple(part.shape) for part in writer.result]
    sizes = _integers(*(shape[axis] for shape in shapes))
    if len(shapes) == 1:
        return [x]
    return writer.split("Split", [x, sizes], shapes, dtype=x.dtype, axis=_positive(axis, len(x.shape)))


def _unbind(writer: Writer, x: Value, axis: int = 0) -> list[Value]:
    results = []
    for index, part in enumerate(writer.result):
        shape = list(x.shape)
        shape[axis] = 1
        bounds = [_integers(index), _integers(index + 1), _integers(axis)]
        sliced = writer.add("Slice", [x, *bounds], shape, dtype=x.dtype)
        results.append(writer.add("Squeeze", [sliced, _integers(axis)], part.shape, dtype=x.dtype))
    return results


def _slice(
    writer: Writer, x: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    bounds = (0 if start is None else start, LAST if end is None else end, axis, step)
    return writer.add("Slice", [x, *map(_integers, bounds)])


def _select(writer: Writer, x: Value, axis: int, index: int) -> Value:
    return writer.add("Gather", [x, np.array(index, np.int64)], axis=axis)


def _unsqueeze(writer: Writer, x: Value, axis: int) -> Value:
    return writer.add("Unsqueeze", [x, _integers(axis)])


def _squeeze(writer: Writer, x: Value, axes: Sizes) -> Value:
    ones = [axis for axis in _each(axes, 1) if x.shape[axis] == 1]
    return writer.add("Squeeze", [x, _integers(*ones)]) if ones else x


def _expand_as(writer: Writer, x: Value, _: Value) -> Value:
    return writer.add("Expand", [x, _integers(*writer.result.shape)])


def _expand(writer: Writer, x: Value, sizes: Sequence[int], *, implicit: bool = False) -> Value:
    return writer.add("Expand", [x, _integers(*(1 if size == -1 else size for size in sizes))])


def _flip(writer: Writer, x: Value, axes: Sequence[int]) -> Value:
    count = len(axes)
    steps = _integers(*[-1] * count)
    return writer.add("Slice", [x, steps, _integers(*[FIRST] * count), _integers(*axes), steps])


def _roll(writer: Writer, x: Value, shifts: Sizes, axes: Sizes = ()) -> Value:
    if not _each(axes, 1) or 0 in x.shape:
        raise Untranslated("a roll over everything")
    for shift, given in zip(_each(shifts, 1), _each(axes, 1), strict=True):
        axis = _positive(given, len(x.shape))
        size = x.shape[axis]
        cut, parts = -shift % size, []
        for start, end in ((cut, size), (0, cut)):
            shape = (*x.shape[:axis], end - start, *x.shape[axis + 1 :])
            parts.append(writer.add("Slice", [x, _integers(start), _integers(end), _integers(axis)], shape))
        x = writer.add("Concat", parts, axis=axis)
    return x


def _pad(writer: Writer, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    every = [*pad, *[0] * (2 * len(x.shape) - len(pad))]
    number = None if value is None else _as_result(writer, value)
    return writer.add("Pad", [x, _integers(*every[-2::-2], *every[-1::-2]), number], mode=modes[mode])


def _index(writer: Writer, x: Value, indices: Sequence[Value | None]) -> Value:
    if len(indices) != 1 or indices[0] is None or indices[0].dtype != torch.int64:
        raise Untranslated("an indexing of several axes")
    same, picked = list(range(len(x.shape))), indices[0]
    each = writer.add("Unsqueeze", [picked, _integers(-1)], (*picked.shape, 1), dtype=torch.int64)
    rows = writer.add("GatherND", [writer.add("Transpose", [x], x.shape, perm=same), each], batch_dims=0)
    return writer.add("Transpose", [rows], perm=list(range(len(writer.result.shape))))


def _product(writer: Writer, left: Value, right: Value) -> Value:
    return writer.add("MatMul", [left, right])


def _pixel_shuffle(writer: Writer, x: Value, factor: int) -> Value:
    if len(x.shape) != 4:
        raise Untranslated("a pixel shuffle without a batch")
    return writer.add("DepthToSpace", [x], blocksize=factor, mode="CRD")


def _attention(
    writer: Writer,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    ranks = {len(each.shape) for each in (query, key, value)}
    if dropout or is_causal or enable_gqa or ranks != {4} or (mask is not None and mask.dtype != torch.float32):
        raise Untranslated("an attention of a rarer kind")
    batch, heads, length, depth = key.shape
    root = np.sqrt(np.float32(1 / np.sqrt(np.float32(query.shape[-1])) if scale is None else scale))
    flat = writer.add("Reshape", [key, _integers(-1, length, depth)], (batch * heads, length, depth), allowzero=0)
    turned = writer.add("Transpose", [flat], (batch * heads, depth, length), perm=[0, 2, 1])
    shape = (batch, heads, depth, length)
    turned = writer.add("Reshape", [turned, _integers(*shape)], shape, allowzero=0)
    scaled = writer.add("Mul", [query, np.array([root])], query.shape)
    turned = writer.add("Mul", [turned, np.array([root])], shape)
    scores = (*torch.broadcast_shapes(query.shape[:2], key.shape[:2]), query.shape[2], length)
    weights = writer.add("MatMul", [scaled, turned], scores)
    if mask is not None:
        weights = writer.add("Add", [weights, mask], scores)
    return writer.add("MatMul", [writer.add("Softmax", [weights], scores, axis=-1), value])


def _resize(mode: str, writer: Writer, x: Value, size: Sequence[int] | None, *rest: Any) -> Value:
    *corners, factors = rest
    aligned = bool(corners and corners[0])
    how = ("align_corners" if aligned else "half_pixel") if corners else "asymmetric"
    if factors is not None:
        sizes: list[Array | None] = [np.array([1, 1, *factors], np.float32), None]
    else:
        sizes = [None, _integers(*x.shape[:2], *writer.result.shape[2:])]
    return writer.add("Resize", [x, None, *sizes], coordinate_transformation_mode=how, mode=mode, nearest_mode="floor")


SAME_NAME = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "sqrt": "Sqrt", "neg": "Neg"}
SAME_NAME |= {"abs": "Abs", "erf": "Erf", "hardswish": "HardSwish", "mish": "Mish", "log": "Log"}
# Random only with a rate in training.
PASSED = {"dropout", "feature_dropout", "dropout_", "feature_dropout_", "scaled_dot_product_attention"}
# What takes its shape from its arguments alone.
CREATION = {"arange", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"}
CREATION |= {"full_like", "eye", "linspace", "scalar_tensor"}
OPERATORS: dict[str, Callable[..., Value | list[Value]]] = {
    **{name: partial(_pointwise, op_type) for name, op_type in SAME_NAME.items()},
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input"), _transposed),
    **{f"max_pool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _average_pool for n in (1, 2, 3)},
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "lift_fresh_copy"), _same),
    **dict.fromkeys(("to.dtype", "to.dtype_layout", "type_as"), _convert),
    **{f"{name}.{kind}": partial(_binary, op_type) for kind in ("Tensor", "Scalar") for name, op_type in {
        "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}.items()},
    "rsub.Scalar": _reversed_subtraction,
    "pow.Tensor_Scalar": partial(_binary, "Pow"),
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "silu": _silu,
    "clamp": _clip,
    "relu6": _relu6,
    "hardtanh": _hard_tanh,
    "hardsigmoid": _hard_sigmoid,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "gelu": _gelu,
    "linear": _linear,
    "matmul": _product,
    "bmm": _product,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "adaptive_avg_pool2d": _global_average,
    "mean.dim": partial(_reduce, "ReduceMean"),
    "sum.dim_IntList": partial(_reduce, "ReduceSum"),
    "amax": partial(_reduce, "ReduceMax"),
    "softmax.int": _softmax,
    "view": _view,
    "reshape": _view,
    "flatten.using_ints": _reshape,
    "unflatten.int": _reshape,
    "permute": _permute,
    "transpose.int": _transpose,
    "t": _transpose,
    "cat": _concat,
    "stack": _stack,
    "chunk": _split,
    "split.Tensor": _split,
    "split.sizes": _split,
    "split_with_sizes": _split,
    "unbind.int": _unbind,
    "slice.Tensor": _slice,
    "select.int": _select,
    "unsqueeze": _unsqueeze,
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "expand": _expand,
    "expand_as": _expand_as,
    "flip": _flip,
    "roll": _roll,
    "pad": _pad,
    "index.Tensor": _index,
    "pixel_shuffle": _pixel_shuffle,
    "scaled_dot_product_attention": _attention,
    "upsample_nearest2d.vec": partial(_resize, "nearest"),
    "upsample_bilinear2d.vec": partial(_resize, "linear"),
}  # fmt: skip
