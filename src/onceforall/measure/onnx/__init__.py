"""ONNX files without an exporter: of our own layers (`model.py`) and of traced networks."""
