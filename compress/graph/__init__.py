"""The channel graph of an ONNX network: which channels belong together, and their exact removal."""
