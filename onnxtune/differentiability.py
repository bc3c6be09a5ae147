"""Through which inputs of which operators a gradient flows."""

from __future__ import annotations

import onnx

from rewrites.core.graph_pass import STANDARD_DOMAINS
from rewrites.core.registry import find

_ALL = None

# Standard operator -> the inputs that carry a gradient to every output. Bounds (Clip), pad values
# and exponents that are no data stay constants.
_INPUTS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        "Add Sub Mul Div MatMul Gemm Sum Mean Max Min Concat Where Einsum".split(), _ALL
    ),
    **dict.fromkeys(
        (
            "Abs Neg Exp Log Sqrt Reciprocal Sigmoid Tanh Softmax LogSoftmax Softplus Softsign "
            "Relu Elu Selu Celu LeakyRelu Gelu HardSigmoid HardSwish Mish Erf Sin Cos Identity "
            "Cast Dropout Clip Pow Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice "
            "Split Gather GatherElements GatherND Pad ReduceSum ReduceMean ReduceMax ReduceMin "
            "ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp "
            "LpNormalization GlobalAveragePool AveragePool MaxPool Sinh Cosh Asin Acos Atan"
        ).split(),
        (0,),
    ),
    "PRelu": (0, 1),
    "Conv": (0, 1, 2),
    "BatchNormalization": (0, 1, 2, 3, 4),
    "LayerNormalization": (0, 1, 2),
    "Where": (1, 2),
}


def gradient_paths(node: onnx.NodeProto) -> list[tuple[int, int]]:
    """(input, output) places of a node between which a gradient flows; empty where none does."""
    if node.domain in STANDARD_DOMAINS:
        if node.op_type not in _INPUTS:
            return []
        wanted = _INPUTS[node.op_type]
        places = range(len(node.input)) if wanted is None else wanted
        return [(i, o) for i in places if i < len(node.input) for o in range(len(node.output))]
    rewrite = find(node.domain, node.op_type)
    return [] if rewrite is None else list(rewrite.differentiable)
