"""The operators of our own cores in torch.

They replace onnx2torch's: before the conversion such a node moves to a private domain, so
onnx2torch's registry stays as it is, and what it lacks, ties to one version of an operator, or does
in a way that cannot be tuned or compiled is not met. Integer constants (axes, shapes, bounds)
become Python numbers, index arrays become buffers; so `torch.compile(fullgraph=True)` sees no
data-dependent control flow.
"""

from __future__ import annotations

from onnxtune import (
    torch_arithmetic,
    torch_comparisons,
    torch_layers,
    torch_neighbours,
    torch_selection,
    torch_shapes,
    torch_subgraphs,
    tree_ops,
)
from onnxtune.differentiability import ELSEWHERE
from onnxtune.torch_node import Converter

CONVERTERS: dict[str, Converter] = {
    **tree_ops.CONVERTERS,
    **torch_arithmetic.CONVERTERS,
    **torch_comparisons.CONVERTERS,
    **torch_layers.CONVERTERS,
    **torch_neighbours.CONVERTERS,
    **torch_selection.CONVERTERS,
    **torch_shapes.CONVERTERS,
    **torch_subgraphs.CONVERTERS,
}


def is_ours(domain: str, operator: str, private: str) -> bool:
    """Whether a node is converted by this package."""
    return (domain in ("", private) and operator in CONVERTERS) or (domain, operator) in ELSEWHERE
