"""What can be known of onnxruntime's CUDA provider on a machine without a card."""
