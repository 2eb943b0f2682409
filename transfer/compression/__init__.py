"""Make a model smaller: steps, the acceptance test, the compression journal, ONNX files for devices."""
