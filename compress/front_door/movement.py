"""What only moves elements, in ONNX, each as torch's exporter writes it.

The name and parameters of each function are those of torch's operator, and so is what it does.
"""
# ruff: noqa: ARG001, D103 - which parameters there are is torch's choice, its manual describes them

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from compress.front_door.writer import Sizes, Untranslated, Value, Writer, as_result, each, integers, positive

LAST = np.iinfo(np.int64).max
FIRST = np.iinfo(np.int64).min


def reshape(writer: Writer, x: Value, *_: Any) -> Value:
    return writer.add("Reshape", [x, integers(*writer.result.shape)], allowzero=1)


def view(writer: Writer, x: Value, sizes: Sequence[int]) -> Value:
    return writer.add("Reshape", [x, integers(*sizes)], allowzero=1)


def permute(writer: Writer, x: Value, axes: Sequence[int]) -> Value:
    return writer.add("Transpose", [x], perm=[positive(axis, len(x.shape)) for axis in axes])


def transpose(writer: Writer, x: Value, first: int = 0, second: int = 1) -> Value:
    order = list(range(len(x.shape)))
    order[first], order[second] = order[second], order[first]
    return writer.add("Transpose", [x], perm=order)


def concat(writer: Writer, parts: Sequence[Value], axis: int = 0) -> Value:
    if len({len(part.shape) for part in parts}) > 1 or (0,) in [part.shape for part in parts]:
        raise Untranslated("a concatenation with nothing")
    return parts[0] if len(parts) == 1 else writer.add("Concat", [as_result(writer, p) for p in parts], axis=axis)


def stack(writer: Writer, parts: Sequence[Value], axis: int = 0) -> Value:
    shape = list(writer.result.shape)
    shape[axis] = 1
    return writer.add("Concat", [writer.add("Unsqueeze", [p, integers(axis)], shape) for p in parts], axis=axis)


def split(writer: Writer, x: Value, _: Any, axis: int = 0) -> list[Value]:
    shapes = [tuple(part.shape) for part in writer.result]
    sizes = integers(*(shape[axis] for shape in shapes))
    if len(shapes) == 1:
        return [x]
    return writer.split("Split", [x, sizes], shapes, dtype=x.dtype, axis=positive(axis, len(x.shape)))


def unbind(writer: Writer, x: Value, axis: int = 0) -> list[Value]:
    results = []
    for index, part in enumerate(writer.result):
        shape = list(x.shape)
        shape[axis] = 1
        bounds = [integers(index), integers(index + 1), integers(axis)]
        sliced = writer.add("Slice", [x, *bounds], shape, dtype=x.dtype)
        results.append(writer.add("Squeeze", [sliced, integers(axis)], part.shape, dtype=x.dtype))
    return results


def slice_(
    writer: Writer, x: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    bounds = (0 if start is None else start, LAST if end is None else end, axis, step)
    return writer.add("Slice", [x, *map(integers, bounds)])


def select(writer: Writer, x: Value, axis: int, index: int) -> Value:
    return writer.add("Gather", [x, np.array(index, np.int64)], axis=axis)


def index_select(writer: Writer, x: Value, axis: int, index: Value) -> Value:
    if len(index.shape) != 1:
        raise Untranslated("an index without an axis")
    return writer.add("Gather", [x, index], axis=positive(axis, len(x.shape)))


def unsqueeze(writer: Writer, x: Value, axis: int) -> Value:
    return writer.add("Unsqueeze", [x, integers(axis)])


def squeeze(writer: Writer, x: Value, axes: Sizes) -> Value:
    ones = [axis for axis in each(axes, 1) if x.shape[axis] == 1]
    return writer.add("Squeeze", [x, integers(*ones)]) if ones else x


def expand_as(writer: Writer, x: Value, _: Value) -> Value:
    return writer.add("Expand", [x, integers(*writer.result.shape)])


def expand(writer: Writer, x: Value, sizes: Sequence[int], *, implicit: bool = False) -> Value:
    return writer.add("Expand", [x, integers(*(1 if size == -1 else size for size in sizes))])


def flip(writer: Writer, x: Value, axes: Sequence[int]) -> Value:
    count = len(axes)
    steps = integers(*[-1] * count)
    return writer.add("Slice", [x, steps, integers(*[FIRST] * count), integers(*axes), steps])


def roll(writer: Writer, x: Value, shifts: Sizes, axes: Sizes = ()) -> Value:
    if not each(axes, 1) or 0 in x.shape:
        raise Untranslated("a roll over everything")
    for shift, given in zip(each(shifts, 1), each(axes, 1), strict=True):
        axis = positive(given, len(x.shape))
        size = x.shape[axis]
        cut, parts = -shift % size, []
        for start, end in ((cut, size), (0, cut)):
            shape = (*x.shape[:axis], end - start, *x.shape[axis + 1 :])
            parts.append(writer.add("Slice", [x, integers(start), integers(end), integers(axis)], shape))
        x = writer.add("Concat", parts, axis=axis)
    return x


def pad(writer: Writer, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    every = [*pad, *[0] * (2 * len(x.shape) - len(pad))]
    number = None if value is None else as_result(writer, value)
    return writer.add("Pad", [x, integers(*every[-2::-2], *every[-1::-2]), number], mode=modes[mode])


def index(writer: Writer, x: Value, indices: Sequence[Value | None]) -> Value:
    if len(indices) != 1 or indices[0] is None or indices[0].dtype != torch.int64:
        raise Untranslated("an indexing of several axes")
    same, picked = list(range(len(x.shape))), indices[0]
    each = writer.add("Unsqueeze", [picked, integers(-1)], (*picked.shape, 1), dtype=torch.int64)
    rows = writer.add("GatherND", [writer.add("Transpose", [x], x.shape, perm=same), each], batch_dims=0)
    return writer.add("Transpose", [rows], perm=list(range(len(writer.result.shape))))


def pixel_shuffle(writer: Writer, x: Value, factor: int) -> Value:
    if len(x.shape) != 4:
        raise Untranslated("a pixel shuffle without a batch")
    return writer.add("DepthToSpace", [x], blocksize=factor, mode="CRD")
