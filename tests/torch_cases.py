"""Single nodes that test_torch_ops.py puts through onnxruntime and torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxtune.torch_ops import CONVERTERS

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
HUGE = 2**63 - 1


def floats(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values: Any) -> Array:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node: arrays are computed inputs, `held` constants by place; None leaves an input out.

    The last `captured` of the inputs are not the node's own, but what its graphs read.
    """

    operator: str
    inputs: tuple[Array | None, ...]
    held: dict[int, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    compiles: bool = True
    outputs: int = 1
    domain: str = ""
    captured: int = 0

    @property
    def fed(self) -> dict[str, Array]:
        return {f"i{n}": array for n, array in enumerate(self.inputs) if array is not None}

    def model(self) -> onnx.ModelProto:
        names = []
        own = len(self.inputs) - self.captured
        for place in range(max([own, *(p + 1 for p in self.held)])):
            there = place in self.held or f"i{place}" in self.fed
            names.append(f"i{place}" if there else "")
        outs = [f"out{number}" for number in range(self.outputs)]
        node = helper.make_node(
            self.operator, names, outs, name="n", domain=self.domain, **self.attributes
        )
        kinds = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in self.fed.items()}
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(name, kinds[name], [None] * a.ndim)
                for name, a in self.fed.items()
            ],
            [helper.make_empty_tensor_value_info(out) for out in outs],
            [numpy_helper.from_array(array, f"i{place}") for place, array in self.held.items()],
        )
        imports = [helper.make_opsetid("", self.opset)]
        if self.domain:
            imports.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def case(operator: str, *inputs: Any, **options: Any) -> Case:
    return Case(operator, inputs, **options)


def axes(operator: str, **attributes: Any) -> list[Case]:
    """A reduction with its axes as an attribute, as an input, and absent."""
    positive = np.abs(floats(3, 4, 2)) + 0.5
    new = 13 if operator == "ReduceSum" else 18
    found = []
    for keep in (0, 1):
        for places in ([1], [-1], [0, 2], [-2, -1]):
            held = {1: whole(*places)}
            found.append(
                Case(operator, (positive,), held, {"keepdims": keep} | attributes, max(new, 17))
            )
            if operator != "ReduceSum":
                found.append(
                    case(operator, positive, attributes={"axes": places, "keepdims": keep})
                )
        found.append(case(operator, positive, attributes={"keepdims": keep}))
    if operator != "ReduceMax":
        found.append(case(operator, floats(0, 3), held={1: whole(1)}, opset=max(new, 17)))
    return found


MATRIX = floats(4, 3)
CUBE = floats(2, 3, 4)
NONE = floats(0, 3)
ODD = np.array([[np.nan, 1.0, -np.inf], [np.inf, -0.0, 2.5]], np.float32)
GRID = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], np.float32)

NORMAL = (floats(3), floats(3), floats(3), np.abs(floats(3)) + 0.1)

CASES = [
    case("BatchNormalization", MATRIX, *NORMAL),
    case("BatchNormalization", floats(2, 3, 4), *NORMAL, attributes={"epsilon": 0.5}),
    case("BatchNormalization", NONE, *NORMAL),
    *[
        case("Cast", x, attributes={"to": to})
        for x, to in [
            (np.array([[-1.7, 0.0, 2.9]], np.float32), TensorProto.INT64),
            (np.array([[-1.7, 0.5, 2.9]], np.float64), TensorProto.INT32),
            (ODD, TensorProto.BOOL),
            (ODD > 0, TensorProto.FLOAT),
            (MATRIX, TensorProto.DOUBLE),
            (whole(1, -2, 2**24 + 1), TensorProto.FLOAT),
            (np.array([0.1, 1 / 3]), TensorProto.FLOAT),
            (NONE, TensorProto.INT32),
        ]
    ],
    case("Clip", MATRIX, held={1: np.float32([-0.5])[0:1].reshape(())}),
    case("Clip", MATRIX, held={2: np.array(0.5, np.float32)}),
    case("Clip", MATRIX, held={1: np.array(-0.2, np.float32), 2: np.array(0.2, np.float32)}),
    case("Clip", whole(-5, 0, 5), held={1: np.array(-1), 2: np.array(3)}),
    case("Clip", MATRIX),
    case("Clip", MATRIX, attributes={"min": -0.5, "max": 0.25}, opset=8),
    case("Clip", NONE, held={1: np.array(0, np.float32)}),
    case("Concat", MATRIX, floats(4, 2), MATRIX, attributes={"axis": 1}),
    case("Concat", MATRIX, floats(4, 2), attributes={"axis": -1}),
    case("Concat", MATRIX, NONE, attributes={"axis": 0}),
    *[case(operator, MATRIX) for operator in ("Cosh", "Sinh")],
    *[case("Gelu", MATRIX, attributes={"approximate": how}, opset=20) for how in ("none", "tanh")],
    *[
        case("LpNormalization", x, attributes={"p": p, "axis": axis})
        for p in (1, 2)
        for axis in (-1, 1)
        for x in (MATRIX, NONE)
    ],
    case("Mish", MATRIX, opset=18),
    case("ConstantOfShape", whole(2, 3), compiles=False),
    case(
        "ConstantOfShape",
        whole(0, 3),
        attributes={"value": numpy_helper.from_array(whole(7))},
        compiles=False,
    ),
    *[
        case(operator, *pair)
        for operator in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        for pair in ((ODD, GRID), (GRID, GRID[:1]), (whole(1, 2, 3), whole(3, 2, 1)), (NONE, NONE))
    ],
    case("Equal", ODD > 0, GRID > 0),
    case("Expand", MATRIX, held={1: whole(2, 1, 3)}),
    case("Expand", floats(1, 3), held={1: whole(5, 1)}),
    case("Expand", floats(0, 1), held={1: whole(1, 3)}),
    case("Expand", floats(4, 1), whole(4, 3), compiles=False),
    *[case("Flatten", CUBE, attributes={"axis": axis}) for axis in (0, 1, 2, 3, -1)],
    case("Flatten", CUBE),
    case("Flatten", floats(0, 3, 4)),
    *[
        case("Gather", CUBE, held={1: index}, attributes={"axis": axis})
        for axis in (0, 1, -1)
        for index in (
            np.array(1),
            np.array(-1),
            whole(1, 0, 1),
            whole(-1, 0),
            whole([0, 1], [1, -2]),
            whole([0, 1], [1, 1]),
            np.array([[1], [0]], np.int32),
            np.zeros(0, np.int64),
        )
    ],
    *[
        case("Gather", CUBE, index, attributes={"axis": axis})
        for axis in (0, 1, -1)
        for index in (np.array(1), whole(1, 0, 1), np.array([[0, 1], [1, 1]], np.int32))
    ],
    case("Gather", NONE, held={1: whole(2, 0)}, attributes={"axis": 1}),
    case("Gather", floats(5), np.zeros((0, 2), np.int32)),
    case("GatherElements", MATRIX, RNG.integers(0, 3, (4, 2)), attributes={"axis": 1}),
    case("GatherElements", MATRIX, RNG.integers(0, 4, (2, 3)).astype(np.int32)),
    case("GatherElements", MATRIX, RNG.integers(0, 3, (4, 5)), attributes={"axis": -1}),
    case("GatherElements", NONE, np.zeros((0, 2), np.int64), attributes={"axis": 1}),
    *[
        case(
            "Gemm",
            floats(*((3, 4) if flip_a else (4, 3))),
            floats(*((2, 3) if flip_b else (3, 2))),
            *bias,
            attributes={"transA": flip_a, "transB": flip_b, "alpha": alpha, "beta": beta},
        )
        for flip_a, flip_b in ((0, 0), (1, 0), (0, 1), (1, 1))
        for alpha, beta in ((1.0, 1.0), (0.5, -2.0))
        for bias in ((), (floats(2),), (floats(4, 1),), (floats(4, 2),))
    ],
    case("Gemm", NONE, floats(3, 2), floats(2)),
    case("IsNaN", ODD),
    case("IsNaN", NONE),
    *[
        case("Reshape", CUBE, held={1: shape})
        for shape in (whole(-1), whole(0, -1), whole(6, 4), whole(0, 0, -1, 1), whole(4, -1, 2))
    ],
    case("Reshape", floats(0, 4), held={1: whole(-1, 2)}),
    case("Reshape", floats(0, 4), held={1: whole(0, 2, 2)}),
    case("Reshape", floats(0, 4), held={1: whole(3, 0)}, attributes={"allowzero": 1}),
    case("Shape", CUBE),
    case("Shape", CUBE, attributes={"start": 1}),
    case("Shape", CUBE, attributes={"start": -2, "end": -1}),
    case("Shape", NONE),
    *[
        case("Slice", CUBE, held=dict(enumerate(bounds, start=1)))
        for bounds in (
            (whole(1), whole(HUGE)),
            (whole(1), whole(3), whole(1)),
            (whole(-2), whole(-1), whole(-1)),
            (whole(-100), whole(HUGE), whole(2)),
            (whole(0, 1), whole(1, HUGE), whole(0, -1), whole(1, 2)),
            (whole(3), whole(1), whole(1)),
            (whole(5), whole(9), whole(1)),
        )
    ],
    case("Slice", NONE, held={1: whole(1), 2: whole(3), 3: whole(1)}),
    case("Squeeze", floats(1, 3, 1)),
    case("Squeeze", floats(1, 3, 1), held={1: whole(0)}),
    case("Squeeze", floats(1, 3, 1), held={1: whole(-1, 0)}),
    case("Squeeze", floats(1, 3, 1), attributes={"axes": [2]}, opset=11),
    case("Squeeze", floats(0, 1), held={1: whole(1)}),
    case("Unsqueeze", MATRIX, held={1: whole(0)}),
    case("Unsqueeze", MATRIX, held={1: whole(-1)}),
    case("Unsqueeze", MATRIX, held={1: whole(3, 0)}),
    case("Unsqueeze", MATRIX, held={1: whole(-1, 1)}),
    case("Unsqueeze", MATRIX, attributes={"axes": [1, 2]}, opset=11),
    case("Unsqueeze", NONE, held={1: whole(1)}),
    case("Where", MATRIX > 0, MATRIX, floats(1, 3)),
    case("Where", NONE > 0, NONE, floats(1, 3)),
    case("Where", GRID > 0, ODD, np.array(1, np.float32)),
    *[found for name in sorted(CONVERTERS) if name.startswith("Reduce") for found in axes(name)],
    case("ReduceSum", CUBE, held={1: whole()}, attributes={"noop_with_empty_axes": 1}),
    case("ReduceSum", CUBE, held={1: whole()}),
    case("ReduceSum", CUBE, attributes={"noop_with_empty_axes": 1}),
    case("ReduceSum", np.array([[1, 2]], np.int32), held={1: whole(1)}),
    case("ReduceMax", np.array([[1, 5, 2]]), attributes={"axes": [1]}),
]


SQUARE = floats(3, 3)
INSIDE = np.clip(floats(4, 3), -0.9, 0.9)
ABOVE = np.abs(floats(4, 3)) + 1.5
TIES = np.array([[1.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]], np.float32)
IMAGES = floats(2, 4, 5, 6)
TRUTH = np.array([[True, False, True], [False, False, True]])
BITS = np.array([[1, 2, 7], [0, 5, 255]], np.uint8)
ONE_BY_ONE = "Abs Asinh Atan Cos Erf Exp Identity Neg Relu Sigmoid Sin Softsign Tan Tanh Elu Celu "
ONE_BY_ONE += "HardSigmoid HardSwish LeakyRelu Selu Shrink Softplus ThresholdedRelu"

BODY = """step (float[N, F] rows, float[F] row) => (float[N, F] same, float[N] made) {
    same = Identity (rows)
    apart = Sub (rows, row)
    made = ReduceSumSquare <axes = [1], keepdims = 0> (apart)
}"""
SUMS = """step (float[F] total, float[F] row) => (float[F] next, float[F] made) {
    next = Add (total, row)
    made = Mul (next, next)
}"""
DOUBLED = "branch () => (float[N] made) { made = Add (i1, i1) }"
NEGATED = "branch () => (float[N] made) { made = Neg (i1) }"


def graph(text: str) -> onnx.GraphProto:
    return onnx.parser.parse_graph(text)


def bound(value: Any) -> Array:
    return np.array(value, np.float32)


CASES += [
    *[case(name, x) for name in ONE_BY_ONE.split() for x in (MATRIX, NONE)],
    *[case(name, INSIDE) for name in ("Acos", "Asin", "Atanh")],
    *[case(name, ABOVE) for name in ("Acosh", "Log", "Sqrt", "Reciprocal")],
    *[case(name, floats(4, 3) * 3) for name in ("Ceil", "Floor", "Round", "Sign")],
    case("Round", np.array([0.5, 1.5, 2.5, -0.5], np.float32)),
    case("Elu", MATRIX, attributes={"alpha": 2.0}),
    case("Celu", MATRIX, attributes={"alpha": 2.0}),
    case("LeakyRelu", MATRIX, attributes={"alpha": 0.2}),
    case("Selu", MATRIX, attributes={"alpha": 2.0, "gamma": 0.5}),
    case("HardSigmoid", MATRIX, attributes={"alpha": 0.5, "beta": 0.25}),
    case("Shrink", MATRIX, attributes={"bias": 0.5, "lambd": 0.25}),
    case("ThresholdedRelu", MATRIX, attributes={"alpha": 0.25}),
    case("IsInf", ODD),
    case("IsInf", ODD, attributes={"detect_negative": 0}),
    case("IsInf", ODD, attributes={"detect_positive": 0}),
    case("Not", TRUTH),
    *[case(name, TRUTH, TRUTH[:1]) for name in ("And", "Or", "Xor")],
    case("BitwiseNot", BITS, opset=18),
    *[case(f"Bitwise{how}", BITS, BITS[::-1], opset=18) for how in ("And", "Or", "Xor")],
    *[
        case("BitShift", BITS, np.array([[1, 0, 2]], np.uint8), attributes={"direction": way})
        for way in ("LEFT", "RIGHT")
    ],
    *[case(name, MATRIX, floats(3)) for name in ("Add", "Sub", "Mul", "Div")],
    *[case(name, whole(7, -7, 5), whole(2, 2, -3)) for name in ("Add", "Sub", "Mul", "Div")],
    case("Pow", ABOVE, floats(3)),
    case("Pow", whole(2, 3), whole(3, 2)),
    case("Pow", MATRIX, whole(2)),
    case("PRelu", MATRIX, floats(3)),
    case("Mod", whole(7, -7, 5), whole(3, 3, -3)),
    case("Mod", MATRIX * 5, np.abs(floats(3)) + 1, attributes={"fmod": 1}),
    *[
        case(name, *values)
        for name in ("Sum", "Mean", "Max", "Min")
        for values in ((MATRIX,), (MATRIX, floats(3)), (MATRIX, floats(4, 1), floats(4, 3)))
    ],
    *[
        case(name, x, attributes={"axis": axis})
        for name in ("Softmax", "LogSoftmax")
        for axis in (-1, 0)
        for x in (MATRIX, NONE)
    ],
    case("Softmax", CUBE),
    case("Hardmax", MATRIX),
    case("Hardmax", TIES, attributes={"axis": 1}),
    case("Clip", MATRIX, bound(-0.5), bound(0.5)),
    case("Clip", MATRIX, bound(-0.5)),
    case("Clip", MATRIX, None, bound(0.5)),
    *[
        case("CumSum", x, held={1: whole(axis).reshape(())}, attributes=how)
        for x, axis in ((CUBE, 1), (CUBE, -1), (NONE, 0), (whole(3, -1, 4), 0))
        for how in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1})
    ],
    case("Einsum", MATRIX, floats(3, 2), attributes={"equation": "ij,jk->ik"}),
    case("Einsum", CUBE, CUBE, attributes={"equation": "bij,bij->b"}),
    case("Slice", CUBE, held={1: whole(3), 2: whole(0), 3: whole(2), 4: whole(-1)}),
    case("Slice", CUBE, held={1: whole(-1), 2: whole(-HUGE), 3: whole(1), 4: whole(-2)}),
    case("Slice", CUBE, whole(0), whole(1), compiles=False),
    case("Slice", CUBE, attributes={"starts": [1], "ends": [3], "axes": [2]}, opset=9),
    case("Reshape", CUBE, whole(-1), compiles=False),
    case("Squeeze", floats(1, 3), whole(0), compiles=False),
    case("Unsqueeze", MATRIX, whole(0), compiles=False),
    case("ReduceSum", CUBE, whole(1), compiles=False),
    case("ConstantOfShape", held={0: whole(2, 3)}, compiles=False),
    case("Gather", CUBE, whole(-1, 0)),
    case("GatherElements", MATRIX, np.full((4, 1), -1), attributes={"axis": 1}),
    case("GatherND", CUBE, whole([0, 1], [1, -1])),
    case("GatherND", CUBE, whole([[1]], [[0]])),
    case("GatherND", CUBE, whole([1], [-2]), attributes={"batch_dims": 1}),
    case("GatherND", CUBE[:0], whole([1], [-2])[:0], attributes={"batch_dims": 1}),
    case("Tile", MATRIX, held={1: whole(2, 3)}),
    case("Tile", NONE, held={1: whole(2, 1)}),
    case("Transpose", CUBE),
    case("Transpose", CUBE, attributes={"perm": [1, 0, 2]}),
    case("Split", floats(4, 6), attributes={"axis": 1}, outputs=3),
    case("Split", floats(4, 6), held={1: whole(1, 5)}, attributes={"axis": -1}, outputs=2),
    case("Split", floats(5, 2), attributes={"num_outputs": 2}, opset=18, outputs=2),
    case("Split", floats(4, 6), attributes={"axis": 1, "split": [2, 4]}, opset=11, outputs=2),
    case("Split", floats(4, 6), held={1: whole(6)}, attributes={"axis": 1}),
    *[
        case("Pad", CUBE, held={1: whole(0, 1, 2, 0, 0, 1)}, attributes={"mode": mode})
        for mode in ("constant", "reflect", "edge")
    ],
    case(
        "Pad",
        CUBE,
        held={1: whole(0, 1, 1, 1), 3: whole(0, 2)},
        opset=19,
        attributes={"mode": "wrap"},
    ),
    case("Pad", CUBE, held={1: whole(0, -1, 2, 0, 0, -1), 2: bound(3)}),
    case("Pad", CUBE, held={1: whole(1, 2), 3: whole(-1)}, opset=18),
    case("Pad", MATRIX, attributes={"pads": [1, 0, 0, 2], "value": 0.5}, opset=2),
    case("Size", CUBE),
    case("Range", whole(1).reshape(()), whole(9).reshape(()), whole(3).reshape(()), compiles=False),
    case("Range", bound(3), bound(0), bound(-0.5), compiles=False),
    case("EyeLike", MATRIX),
    case("EyeLike", MATRIX, attributes={"k": 1, "dtype": TensorProto.INT64}),
    case("Trilu", CUBE),
    case("Trilu", CUBE, held={1: np.array(-1)}, attributes={"upper": 0}),
    case("CastLike", MATRIX, whole(1)),
    case("CastLike", MATRIX, np.zeros(1)),
    case("Dropout", MATRIX),
    case("Dropout", MATRIX, outputs=2),
    case("Dropout", MATRIX, attributes={"ratio": 0.3}, opset=10),
    *[
        case(name, x, attributes=how)
        for name in ("ArgMax", "ArgMin")
        for x in (MATRIX, TIES, -TIES)
        for how in ({}, {"axis": 1}, {"axis": -1, "keepdims": 0, "select_last_index": 1})
    ],
    *[
        case("TopK", x, held={1: whole(2)}, attributes={"axis": axis, "largest": most}, outputs=2)
        for x in (floats(3, 5), TIES)
        for axis in (-1, 0)
        for most in (0, 1)
    ],
    case("TopK", MATRIX, whole(2), outputs=2, compiles=False),
    case("TopK", NONE, held={1: whole(1)}, outputs=2),
    *[
        case("OneHot", at, held={1: whole(3), 2: values}, attributes={"axis": axis})
        for at in (whole(0, 2, 1), whole([0, -1], [5, -4]), np.zeros((0, 2), np.int64))
        for values in (bound([0, 1]), whole(7, 9))
        for axis in (-1, 0)
    ],
    case("OneHot", whole(0, 2), whole(3).reshape(()), bound([0, 1]), compiles=False),
    case("NonZero", np.array([[0, 1], [2, 0]], np.float32), compiles=False),
    case("NonZero", TRUTH, compiles=False),
    case(
        "Compress",
        MATRIX,
        np.array([True, False, True, True]),
        attributes={"axis": 0},
        compiles=False,
    ),
    case("Compress", MATRIX, np.array([False, True, True]), compiles=False),
    *[
        case(
            "ScatterElements",
            MATRIX,
            whole([0, -1], [1, 0]),
            floats(2, 2),
            opset=18,
            attributes={"axis": axis, "reduction": how},
        )
        for axis in (0, 1)
        for how in ("none", "add", "mul", "max", "min")
    ],
    case("ScatterElements", MATRIX, whole([0, -1], [1, 0]), floats(2, 2)),
    case("Scatter", MATRIX, whole([0, 1], [1, 0]), floats(2, 2), opset=10),
    *[
        case("ScatterND", CUBE, at, floats(*shape), attributes={"reduction": how}, opset=18)
        for at, shape in ((whole([0, 1], [1, -1]), (2, 4)), (whole([1], [1]), (2, 3, 4)))
        for how in ("add", "mul", "max", "min")
    ],
    case("ScatterND", CUBE, whole([0, 1], [1, -1]), floats(2, 4)),
    case("MatMul", MATRIX, floats(3, 2)),
    case("MatMul", CUBE, floats(4)),
    case("MatMul", CUBE, floats(2, 4, 3)),
    case("MatMul", NONE, floats(3, 2)),
    case("Det", SQUARE),
    *[
        case(
            "Conv",
            IMAGES,
            floats(6, 4 // groups, 3, 3),
            *more,
            attributes={"group": groups, "pads": [0, 1, 2, 0], "strides": [2, 1]},
        )
        for groups in (1, 2)
        for more in ((), (floats(6),))
    ],
    case("Conv", floats(2, 3, 7), floats(4, 3, 3), attributes={"dilations": [2]}),
    case("MaxPool", IMAGES, attributes={"kernel_shape": [2, 3], "pads": [1, 1, 1, 1]}),
    case("MaxPool", IMAGES, attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    *[
        case(
            "AveragePool",
            IMAGES,
            attributes={
                "kernel_shape": [2, 3],
                "pads": [1, 1, 0, 1],
                "count_include_pad": whole_window,
            },
        )
        for whole_window in (0, 1)
    ],
    case("AveragePool", IMAGES, attributes={"kernel_shape": [2, 2]}),
    case("GlobalAveragePool", IMAGES),
    case("GlobalMaxPool", IMAGES),
    case("InstanceNormalization", IMAGES, floats(4), floats(4)),
    case(
        "InstanceNormalization",
        IMAGES[:0],
        whole(1, 2, 3, 4).astype(np.float32),
        whole(1, 2, 3, 4).astype(np.float32),
    ),
    case(
        "InstanceNormalization",
        IMAGES[:, :, :1, 0],
        whole(1, 2, 3, 4).astype(np.float32),
        whole(1, 2, 3, 4).astype(np.float32),
    ),
    case("LayerNormalization", MATRIX, floats(3), floats(3)),
    case("LayerNormalization", CUBE, floats(3, 4), attributes={"axis": 1, "epsilon": 0.1}),
    case("LayerNormalization", CUBE, floats(4), floats(4), outputs=3),
    *[
        case(
            "RNN",
            floats(4, 2, 3),
            floats(1, 5, 3),
            floats(1, 5, 5),
            *more,
            attributes={"hidden_size": 5} | how,
            outputs=2,
        )
        for more in ((), (floats(1, 10), None, floats(1, 2, 5)))
        for how in (
            {},
            {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.25]},
        )
    ],
    case("MeanVarianceNormalization", IMAGES),
    case("RMSNormalization", CUBE, floats(3, 4), attributes={"axis": 1}, opset=23),
    case("Swish", MATRIX, attributes={"alpha": 0.5}, opset=24),
    case("MeanVarianceNormalization", MATRIX, attributes={"axes": [1]}),
    *[
        case("CDist", MATRIX, floats(5, 3), domain="com.microsoft", attributes={"metric": metric})
        for metric in ("euclidean", "sqeuclidean")
    ],
    case(
        "Scan",
        floats(5, 3),
        MATRIX,
        attributes={"body": graph(BODY), "num_scan_inputs": 1},
        outputs=2,
    ),
    case(
        "Scan",
        floats(3),
        MATRIX,
        attributes={"body": graph(SUMS), "num_scan_inputs": 1},
        outputs=2,
        compiles=False,
    ),
    *[
        case(
            "If",
            np.array(taken),
            floats(3),
            compiles=False,
            captured=1,
            attributes={"then_branch": graph(DOUBLED), "else_branch": graph(NEGATED)},
        )
        for taken in (True, False)
    ],
]
