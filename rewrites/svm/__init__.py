"""Support vector machines: kernels, votes of pairs of classes, and probabilities from them."""
