"""Names for operators that have none of their own, so that tools that go by names can tell them apart."""

from __future__ import annotations

from collections import Counter

import onnx


def with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name every operator that has no name, or shares it, after the first tensor that it makes.

    Args:
        model: Left as it is.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    counts = Counter(node.name for node in named.graph.node)
    for node in named.graph.node:
        if not node.name or counts[node.name] > 1:
            node.name = node.output[0]
    return named
