"""Through which inputs of which operators a gradient flows."""

from __future__ import annotations

import onnx

from rewrites.core.graph_pass import STANDARD_DOMAINS
from rewrites.core.registry import find

_ALL = None

# Standard operator -> the inputs that carry a gradient to every output. Bounds (Clip), pad values
# and exponents that are no data stay constants.
_ALL_INPUTS = "Add Sub Mul Div MatMul Gemm Sum Mean Max Min Concat Einsum"
_FIRST_INPUT = (
    "Abs Acos Asin Atan AveragePool Cast Celu Clip Cos Cosh Dropout Elu Erf Exp Expand Flatten "
    "Gather GatherElements GatherND Gelu GlobalAveragePool HardSigmoid HardSwish Identity "
    "LeakyRelu Log LogSoftmax LpNormalization MaxPool Mish Neg Pad Pow Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape Selu Sigmoid Sin Sinh Slice Softmax Softplus Softsign Split Sqrt "
    "Squeeze Tanh Tile Transpose Unsqueeze"
)
_INPUTS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(_ALL_INPUTS.split(), _ALL),
    **dict.fromkeys(_FIRST_INPUT.split(), (0,)),
    "PRelu": (0, 1),
    "Conv": (0, 1, 2),
    "BatchNormalization": (0, 1, 2, 3, 4),
    "LayerNormalization": (0, 1, 2),
    "Where": (1, 2),
}


def gradient_paths(node: onnx.NodeProto) -> list[tuple[int | None, int]]:
    """(input, output) places of a node between which a gradient flows; empty where none does.

    The input is None where only tensors of the node's own, in its attributes, reach the output.
    """
    if node.domain in STANDARD_DOMAINS:
        if node.op_type not in _INPUTS:
            return []
        wanted = _INPUTS[node.op_type]
        places = range(len(node.input)) if wanted is None else wanted
        return [(i, o) for i in places if i < len(node.input) for o in range(len(node.output))]
    rewrite = find(node.domain, node.op_type)
    if rewrite is None:
        return []
    if rewrite.differentiable == "every input":
        return [(place, 0) for place in range(len(node.input))]
    return list(rewrite.differentiable)
