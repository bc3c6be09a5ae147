"""Through which inputs of which operators a gradient flows."""

from __future__ import annotations

import onnx

from onnxtune.subgraphs import places, subgraphs
from rewrites.core.graph_pass import STANDARD_DOMAINS
from rewrites.core.registry import find

_ALL = None

# Operators of other domains that torch has as they are; graphs inside nodes are never rewritten.
ELSEWHERE = frozenset([("com.microsoft", "CDist")])

# Standard operator -> the inputs that carry a gradient to every output. Bounds (Clip) and pad
# values that are no data stay constants.
_ALL_INPUTS = "Add Sub Mul Div Pow MatMul Gemm Sum Mean Max Min Concat Einsum"
_FIRST_INPUT = (
    "Abs Acos Acosh Asin Asinh Atan Atanh AveragePool Cast CastLike Celu Clip Compress Cos Cosh "
    "CumSum Det Dropout Elu Erf Exp Expand Flatten Gather GatherElements GatherND Gelu "
    "GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu Log LogSoftmax "
    "LpNormalization MaxPool MeanVarianceNormalization Mish Mod Neg Pad Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape Selu Shrink Sigmoid Sin Sinh Slice Softmax Softplus Softsign "
    "Split Sqrt Squeeze Swish Tan Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze"
)
_INPUTS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(_ALL_INPUTS.split(), _ALL),
    **dict.fromkeys(_FIRST_INPUT.split(), (0,)),
    "PRelu": (0, 1),
    "Conv": (0, 1, 2),
    "BatchNormalization": (0, 1, 2, 3, 4),
    "InstanceNormalization": (0, 1, 2),
    "LayerNormalization": (0, 1, 2),
    "OneHot": (2,),
    "RMSNormalization": (0, 1),
    "RNN": (0, 1, 2, 3, 5),
    "Scatter": (0, 2),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Where": (1, 2),
}


def gradient_paths(node: onnx.NodeProto) -> list[tuple[int | None, int]]:
    """(input, output) places of a node between which a gradient flows; empty where none does.

    The input is None where only tensors of the node's own, in its attributes, reach the output.
    Behind the inputs stand the values that the node's graphs capture (`subgraphs.places`).
    """
    if node.domain in STANDARD_DOMAINS:
        if node.op_type == "TopK":
            return [(0, 0)]
        if node.op_type in ("Scan", "If"):
            return _through_graphs(node) if _is_standard_inside(node) else []
        if node.op_type not in _INPUTS:
            return []
        wanted = _INPUTS[node.op_type]
        inputs = range(len(node.input)) if wanted is None else wanted
        return [(i, o) for i in inputs if i < len(node.input) for o in range(len(node.output))]
    rewrite = find(node.domain, node.op_type)
    if rewrite is None:
        return []
    if rewrite.differentiable == "every input":
        return [(place, 0) for place in range(len(node.input))]
    return list(rewrite.differentiable)


def _is_standard_inside(node: onnx.NodeProto) -> bool:
    return all(
        (inner.domain in STANDARD_DOMAINS or (inner.domain, inner.op_type) in ELSEWHERE)
        and _is_standard_inside(inner)
        for graph in subgraphs(node)
        for inner in graph.node
    )


def _through_graphs(node: onnx.NodeProto) -> list[tuple[int | None, int]]:
    """Along the gradient paths of the graphs inside; of a Scan, over any number of steps."""
    taken = places(node)
    found: set[tuple[int, int]] = set()
    for graph in subgraphs(node):
        # An If hands nothing in: its branches only capture.
        given = {value.name: place for place, value in enumerate(graph.input)}
        given |= {name: place for place, name in enumerate(taken) if name and name not in given}
        carried = {name: {place} for name, place in given.items()}
        for inner in graph.node:
            names = places(inner)
            for source, target in gradient_paths(inner):
                if source is not None and source < len(names) and names[source] in carried:
                    made = carried.setdefault(inner.output[target], set())
                    made |= carried[names[source]]
        for out, value in enumerate(graph.output):
            found |= {(place, out) for place in carried.get(value.name, ())}
    if node.op_type == "Scan":
        found = _over_steps(node, found)
    return [*sorted(found)]


def _over_steps(node: onnx.NodeProto, paths: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """What reaches a state reaches, a step later, whatever that state reaches."""
    scanned = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    states = len(node.input) - scanned
    while True:
        more = {
            (source, out)
            for source, state in paths
            if state < states
            for place, out in paths
            if place == state
        }
        if more <= paths:
            return paths
        paths = paths | more
