"""Elementwise operators and reductions in ONNX, each as torch's exporter writes it.

The name and parameters of each function are those of torch's operator, and so is what it does.
"""
# ruff: noqa: ARG001, D103 - which parameters there are is torch's choice, its manual describes them

from __future__ import annotations

import math
from typing import Any

import torch

from compress.front_door.writer import Sizes, Untranslated, Value, Writer, as_result, each, integers


def same(_: Writer, x: Value, *rest: Any, **named: Any) -> Value:
    """Leave out what changes nothing in eval mode."""
    return x


def convert(writer: Writer, x: Value, *rest: Any, **named: Any) -> Value:
    if x.dtype != writer.result.dtype:
        raise Untranslated("a change of type")
    return x


def dropout(_: Writer, x: Value, probability: float, train: bool) -> Value:
    if train:
        raise Untranslated("dropout in training")
    return x


def pointwise(op_type: str, writer: Writer, x: Value, **attributes: Any) -> Value:
    return writer.add(op_type, [as_result(writer, x)], **attributes)


def binary(op_type: str, writer: Writer, left: Any, right: Any, alpha: float = 1) -> Value:
    if alpha != 1 or writer.result.dtype == torch.bool:
        raise Untranslated("alpha")
    return writer.add(op_type, [as_result(writer, left), as_result(writer, right)])


def reversed_subtraction(writer: Writer, x: Value, other: float, alpha: float = 1) -> Value:
    return binary("Sub", writer, other, x, alpha)


def silu(writer: Writer, x: Value) -> Value:
    return writer.add("Mul", [x, writer.add("Sigmoid", [x])])


def clip(writer: Writer, x: Value, smallest: float | None = None, largest: float | None = None) -> Value:
    if smallest is None and largest is None:
        return x
    bounds = [None if bound is None else as_result(writer, bound) for bound in (smallest, largest)]
    return writer.add("Clip", [as_result(writer, x), *bounds])


def relu6(writer: Writer, x: Value) -> Value:
    return clip(writer, x, 0, 6)


def hard_tanh(writer: Writer, x: Value, smallest: float = -1, largest: float = 1) -> Value:
    return clip(writer, x, smallest, largest)


def hard_sigmoid(writer: Writer, x: Value) -> Value:
    return writer.add("HardSigmoid", [x], alpha=1 / 6, beta=1 / 2)


def leaky_relu(writer: Writer, x: Value, slope: float = 0.01) -> Value:
    return writer.add("LeakyRelu", [x], alpha=slope)


def prelu(writer: Writer, x: Value, slope: Value) -> Value:
    shape = (1, math.prod(slope.shape), *[1] * (len(x.shape) - 2))
    if len(x.shape) < 2:
        raise Untranslated("slopes without channels")
    sized = writer.add("Reshape", [slope, integers(1, -1, *shape[2:])], shape, allowzero=0)
    return writer.add("PRelu", [x, sized])


def gelu(writer: Writer, x: Value, *, approximate: str = "none") -> Value:
    return writer.add("Gelu", [x], approximate=approximate)


def reduce(
    op_type: str, writer: Writer, x: Value, axes: Sizes | None, keep: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    if not axes and axes != 0:
        raise Untranslated("a reduction over everything")
    listed = integers(*each(axes, 1))
    return writer.add(op_type, [as_result(writer, x), listed], keepdims=int(keep), noop_with_empty_axes=0)
