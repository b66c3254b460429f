"""Run a network once in ONNX Runtime, with weights that stay where they are: no copy, and no limit of 2 GiB."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from device_profiles.target import Target
from runtimes.model_file import to_bytes
from runtimes.ort import ERRORS, OnnxRuntimeSession, refusal

Array = NDArray[np.generic]
# Smaller tensors go into the model itself, where shape inference reads them.
SMALLEST_APART_ELEMENTS = 1024
APART = frozenset(np.dtype(dtype) for dtype in (np.float16, np.float32, np.float64, np.int32, np.int64))


def run_once(model: onnx.ModelProto, weights: Mapping[str, Array], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model once on the CPU and return its outputs.

    Args:
        model: The model without its initializers.
        weights: Initializer name -> data; large ones are not copied.
        feeds: Input name -> data.

    Raises:
        BadInput: The feeds are not the model's inputs, or have another shape or element type.
        UnsupportedModel: ONNX Runtime lacks an operator of the model or refuses the model.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    options, apart = _options(), {}
    for name, data in weights.items():
        if data.size < SMALLEST_APART_ELEMENTS or data.dtype not in APART:
            whole.graph.initializer.append(numpy_helper.from_array(data, name))
        else:
            apart[name] = np.ascontiguousarray(data)
            whole.graph.initializer.append(_stub(name, data))
    if apart:
        options.add_external_initializers(
            list(apart), [onnxruntime.OrtValue.ortvalue_from_numpy(data) for data in apart.values()]
        )
    try:
        session = onnxruntime.InferenceSession(to_bytes(whole), options, providers=["CPUExecutionProvider"])
    except ERRORS as err:
        raise refusal("load", err) from err
    with OnnxRuntimeSession(session, Target("onnxruntime")) as opened:
        return opened.run(feeds)


def _stub(name: str, data: Array) -> onnx.TensorProto:
    """Describe an initializer whose data ONNX Runtime gets beside the model."""
    stub = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(data.dtype),
        dims=data.shape,
        data_location=TensorProto.EXTERNAL,
    )
    stub.external_data.add(key="location", value="beside the model")
    return stub


def _options() -> onnxruntime.SessionOptions:
    """Options for a session that runs once: what only pays off later is left out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 4  # errors come as exceptions
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options
