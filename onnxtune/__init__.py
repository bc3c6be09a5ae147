"""Tune trained classical pipelines end to end, as ONNX."""

__version__ = "0.1.0"
