"""Recalibrate a pruned network from sample inputs: stored statistics and biases, without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.graph.channels import ChannelGraph, Keep, Layer
from compress.graph.labels import Labelled
from compress.graph.network import Network
from compress.graph.run import run

Array = NDArray[np.generic]


def calibrate(graph: ChannelGraph, keep: Keep, pruned: Network, samples: Mapping[str, Array]) -> Network:
    """Give every layer of a pruned network the mean it had, or its normalisation the statistics it has now.

    Layer by layer in the order in which they run: where a BatchNormalization follows, its stored mean and variance
    are measured anew; where the layer has a bias, the bias moves the mean of each channel back to the original's.

    Args:
        graph: The channel graph of the original.
        keep: What was kept.
        pruned: The pruned network.
        samples: Input name -> sample inputs, of the network's own batch size.
    """
    alive = graph.alive(keep)
    probes = [layer.output for layer in graph.layers]
    original = run(graph.network.model, samples, probes)
    model = onnx.ModelProto()
    model.CopyFrom(pruned.model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in graph.layers:
        target = stored.get(layer.bias or "")
        if layer.norm is None and target is None:
            continue
        now = run(model, samples, [layer.output])[layer.output]
        if layer.norm is not None and layer.norm.mean is not None and layer.norm.var is not None:
            _store(stored[layer.norm.mean], _statistic(now, layer, np.mean))
            _store(stored[layer.norm.var], _statistic(now, layer, np.var))
        elif target is not None:
            labelled: Labelled = graph.execution.tensors[layer.output]
            wanted = _statistic(labelled.take(original[layer.output], alive), layer, np.mean)
            bias = numpy_helper.to_array(target).astype(np.float64)
            _store(target, bias + wanted - _statistic(now, layer, np.mean))
    return Network(model, batch=pruned.batch)


def _statistic(data: Array, layer: Layer, function: Callable[..., Any]) -> NDArray[np.float64]:
    axis = 1 if layer.op in ("Conv", "ConvTranspose") else data.ndim - 1
    others = tuple(a for a in range(data.ndim) if a != axis)
    result: NDArray[np.float64] = function(data.astype(np.float64), axis=others)
    return result


def _store(tensor: onnx.TensorProto, values: NDArray[np.float64]) -> None:
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(values.reshape(old.shape).astype(old.dtype), tensor.name))
