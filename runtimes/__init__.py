"""Load, run, time, carve and compare ONNX models; never imports torch."""
