"""Graph rewrites: each operator of ai.onnx.ml as standard operators over named tensors.

One file is one operator. This package knows numpy and onnx_ir only.
"""
