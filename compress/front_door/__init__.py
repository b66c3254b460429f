"""From a torch module straight to ONNX, for programs of common operators."""
