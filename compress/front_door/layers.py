"""Layers, pools, products, attention and resizing in ONNX, each as torch's exporter writes it.

The name and parameters of each function are those of torch's operator, and so is what it does.
"""
# ruff: noqa: ARG001, D103, PLR0913, PLR0917 - which parameters there are is torch's choice, its manual describes them

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from compress.front_door.writer import Array, Sizes, Untranslated, Value, Writer, as_result, each, integers


def convolution(
    writer: Writer,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Value:
    return writer.add("Conv", [x, weight, bias], **_window(x, weight, stride, padding, dilation, groups))


def transposed(
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
    attributes = _window(x, weight, stride, padding, dilation, groups)
    extra = each(output_padding, len(weight.shape) - 2)
    return writer.add("ConvTranspose", [x, weight, bias], output_padding=extra, **attributes)


def _window(x: Value, weight: Value, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> dict[str, Any]:
    """Return the attributes that say how a convolution's window moves."""
    count = len(weight.shape) - 2
    if len(x.shape) != len(weight.shape):
        raise Untranslated("a convolution without a batch")
    return {
        "group": groups,
        "pads": each(padding, count) * 2,
        "strides": each(stride, count),
        "dilations": each(dilation, count),
        "kernel_shape": weight.shape[2:],
    }


def linear(writer: Writer, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if len(weight.shape) != 2 or len(x.shape) < 2:
        raise Untranslated("a product with a vector")
    if len(x.shape) == 2:
        return writer.add("Gemm", [x, weight, bias], alpha=1.0, beta=1.0, transA=0, transB=1)
    product = writer.add("MatMul", [x, writer.add("Transpose", [weight], weight.shape[::-1], perm=[1, 0])])
    return writer.add("Add", [product, bias]) if bias else product


def batch_norm(
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


def layer_norm(
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
    shape = each(kernel, count)
    if len(shape) != count:
        raise Untranslated("a pooling without a batch")
    return {"kernel_shape": shape, "strides": each(stride, count) or shape, "pads": each(padding, count) * 2}


def max_pool(
    writer: Writer,
    x: Value,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Value:
    sizes = _pool(x, kernel, stride, padding)
    dilations = each(dilation, len(x.shape) - 2)
    return writer.add("MaxPool", [x], ceil_mode=int(ceil_mode), dilations=dilations, **sizes)


def average_pool(
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


def global_average(writer: Writer, x: Value, size: Sizes) -> Value:
    count = len(writer.result.shape) - (len(x.shape) - len(each(size, 1)))
    if set(writer.result.shape[-count:]) != {1}:
        raise Untranslated("an adaptive pooling to more than one position")
    return writer.add("ReduceMean", [x, integers(*range(-1, -count - 1, -1))], keepdims=1, noop_with_empty_axes=0)


def softmax(writer: Writer, x: Value, axis: int, dtype: torch.dtype | None = None) -> Value:
    return writer.add("Softmax", [as_result(writer, x)], axis=axis)


def product(writer: Writer, left: Value, right: Value) -> Value:
    return writer.add("MatMul", [left, right])


def attention(
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
    typed = mask is None or mask.dtype == torch.float32
    if dropout or is_causal or enable_gqa or len(ranks) != 1 or min(ranks) < 3 or not typed:
        raise Untranslated("an attention of a rarer kind")
    *stack, length, depth = key.shape
    root = np.sqrt(np.float32(1 / np.sqrt(np.float32(query.shape[-1])) if scale is None else scale))
    shape = (*stack, depth, length)
    if len(stack) == 2:  # the exporter's way, which takes no other ranks
        flat = writer.add("Reshape", [key, integers(-1, length, depth)], (math.prod(stack), length, depth), allowzero=0)
        turned = writer.add("Transpose", [flat], (math.prod(stack), depth, length), perm=[0, 2, 1])
        turned = writer.add("Reshape", [turned, integers(*shape)], shape, allowzero=0)
    else:
        rank = len(shape)
        turned = writer.add("Transpose", [key], shape, perm=[*range(rank - 2), rank - 1, rank - 2])
    scaled = writer.add("Mul", [query, np.array([root])], query.shape)
    turned = writer.add("Mul", [turned, np.array([root])], shape)
    scores = (*torch.broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], length)
    weights = writer.add("MatMul", [scaled, turned], scores)
    if mask is not None:
        weights = writer.add("Add", [weights, mask], scores)
    return writer.add("MatMul", [writer.add("Softmax", [weights], scores, axis=-1), value])


def resize(mode: str, writer: Writer, x: Value, size: Sequence[int] | None, *rest: Any) -> Value:
    *corners, factors = rest
    aligned = bool(corners and corners[0])
    how = ("align_corners" if aligned else "half_pixel") if corners else "asymmetric"
    if factors is not None:
        sizes: list[Array | None] = [np.array([1, 1, *factors], np.float32), None]
    else:
        sizes = [None, integers(*x.shape[:2], *writer.result.shape[2:])]
    return writer.add("Resize", [x, None, *sizes], coordinate_transformation_mode=how, mode=mode, nearest_mode="floor")
