"""Which operators of torch are known: the ones that most networks consist of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from compress.front_door import layers, movement, pointwise
from compress.front_door.writer import Value

SAME_NAME = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "sqrt": "Sqrt", "neg": "Neg"}
SAME_NAME |= {"abs": "Abs", "erf": "Erf", "hardswish": "HardSwish", "mish": "Mish", "log": "Log"}
# Random only with a rate in training.
PASSED = {"dropout", "feature_dropout", "dropout_", "feature_dropout_", "scaled_dot_product_attention"}
# What takes its shape from its arguments alone.
CREATION = {"arange", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"}
CREATION |= {"full_like", "eye", "linspace", "scalar_tensor"}
OPERATORS: dict[str, Callable[..., Value | list[Value]]] = {
    **{name: partial(pointwise.pointwise, op_type) for name, op_type in SAME_NAME.items()},
    **{f"conv{n}d": layers.convolution for n in (1, 2, 3)},
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input"), layers.transposed),
    **{f"max_pool{n}d": layers.max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": layers.average_pool for n in (1, 2, 3)},
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "lift_fresh_copy"), pointwise.same),
    **dict.fromkeys(("to.dtype", "to.dtype_layout", "type_as"), pointwise.convert),
    **{f"{name}.{kind}": partial(pointwise.binary, op_type) for kind in ("Tensor", "Scalar") for name, op_type in {
        "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}.items()},
    "rsub.Scalar": pointwise.reversed_subtraction,
    "pow.Tensor_Scalar": partial(pointwise.binary, "Pow"),
    "dropout": pointwise.dropout,
    "feature_dropout": pointwise.dropout,
    "silu": pointwise.silu,
    "clamp": pointwise.clip,
    "relu6": pointwise.relu6,
    "hardtanh": pointwise.hard_tanh,
    "hardsigmoid": pointwise.hard_sigmoid,
    "leaky_relu": pointwise.leaky_relu,
    "prelu": pointwise.prelu,
    "gelu": pointwise.gelu,
    "linear": layers.linear,
    "matmul": layers.product,
    "bmm": layers.product,
    "batch_norm": layers.batch_norm,
    "layer_norm": layers.layer_norm,
    "adaptive_avg_pool2d": layers.global_average,
    "mean.dim": partial(pointwise.reduce, "ReduceMean"),
    "sum.dim_IntList": partial(pointwise.reduce, "ReduceSum"),
    "amax": partial(pointwise.reduce, "ReduceMax"),
    "softmax.int": layers.softmax,
    "view": movement.view,
    "reshape": movement.view,
    "flatten.using_ints": movement.reshape,
    "unflatten.int": movement.reshape,
    "permute": movement.permute,
    "transpose.int": movement.transpose,
    "t": movement.transpose,
    "cat": movement.concat,
    "stack": movement.stack,
    "chunk": movement.split,
    "split.Tensor": movement.split,
    "split.sizes": movement.split,
    "split_with_sizes": movement.split,
    "unbind.int": movement.unbind,
    "slice.Tensor": movement.slice_,
    "select.int": movement.select,
    "index_select": movement.index_select,
    "unsqueeze": movement.unsqueeze,
    "squeeze.dim": movement.squeeze,
    "squeeze.dims": movement.squeeze,
    "expand": movement.expand,
    "expand_as": movement.expand_as,
    "flip": movement.flip,
    "roll": movement.roll,
    "pad": movement.pad,
    "index.Tensor": movement.index,
    "pixel_shuffle": movement.pixel_shuffle,
    "scaled_dot_product_attention": layers.attention,
    "upsample_nearest2d.vec": partial(layers.resize, "nearest"),
    "upsample_bilinear2d.vec": partial(layers.resize, "linear"),
}  # fmt: skip
