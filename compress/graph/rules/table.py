"""Which rule each operator follows."""

from __future__ import annotations

from collections.abc import Sequence

from compress.graph.labels import Labelled
from compress.graph.rules import contraction, join, movement, recurrent, reduction
from compress.graph.rules.step import Rule, Step

ELEMENTWISE = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "Cast", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max",
    "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round",
    "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan",
    "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip


def unlabelled(step: Step) -> Sequence[Labelled]:
    """Operators whose result has no channels of its own: the sizes of tensors, made-up numbers."""
    return step.outputs


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, join.elementwise),
    "AveragePool": reduction.pooling,
    "BatchNormalization": reduction.batch_normalisation,
    "Concat": movement.concat,
    "Conv": contraction.convolution,
    "ConvTranspose": contraction.convolution,
    "DepthToSpace": movement.depth_to_space,
    "Dropout": reduction.pooling,
    "Einsum": contraction.einsum,
    "Expand": movement.expand,
    "Flatten": movement.reshape,
    "Gather": movement.gather,
    "GatherND": movement.gather_nd,
    "Gemm": contraction.gemm,
    "GlobalAveragePool": reduction.pooling,
    "GlobalLpPool": reduction.pooling,
    "GlobalMaxPool": reduction.pooling,
    "InstanceNormalization": reduction.instance_normalisation,
    "LayerNormalization": reduction.layer_normalisation,
    "LogSoftmax": reduction.softmax,
    "LpPool": reduction.pooling,
    "MatMul": contraction.matmul,
    "MaxPool": reduction.pooling,
    "Pad": movement.pad,
    "RMSNormalization": reduction.layer_normalisation,
    **dict.fromkeys(recurrent.GATES, recurrent.recurrent),
    **dict.fromkeys(reduction.REDUCTIONS, reduction.reduction),
    "Reshape": movement.reshape,
    "Resize": reduction.pooling,
    "Shape": unlabelled,
    "Size": unlabelled,
    "Slice": movement.slice_rule,
    "Softmax": reduction.softmax,
    "SpaceToDepth": movement.space_to_depth,
    "Split": movement.split,
    "Squeeze": movement.reshape,
    "Tile": movement.tile,
    "Transpose": movement.transpose,
    "Unsqueeze": movement.reshape,
    "Upsample": reduction.pooling,
}
