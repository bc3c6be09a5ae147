"""Every converter of ours against onnxruntime, compiled, and its gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxtune import tree_ops
from onnxtune.errors import UnsupportedError
from onnxtune.onnx2torch_bridge import onnx2torch_convert
from onnxtune.runtime import run
from onnxtune.torch_ops import CONVERTERS
from rewrites.core.builder import PRIVATE_DOMAIN

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
HUGE = 2**63 - 1


def floats(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values: Any) -> Array:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node: arrays are computed inputs, `held` constants by place; None leaves an input out."""

    operator: str
    inputs: tuple[Array | None, ...]
    held: dict[int, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    compiles: bool = True

    @property
    def fed(self) -> dict[str, Array]:
        return {f"i{n}": array for n, array in enumerate(self.inputs) if array is not None}

    def model(self) -> onnx.ModelProto:
        names = []
        for place in range(max([len(self.inputs), *(p + 1 for p in self.held)])):
            there = place in self.held or f"i{place}" in self.fed
            names.append(f"i{place}" if there else "")
        node = helper.make_node(self.operator, names, ["out"], name="n", **self.attributes)
        kinds = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in self.fed.items()}
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(name, kinds[name], [None] * a.ndim)
                for name, a in self.fed.items()
            ],
            [helper.make_empty_tensor_value_info("out")],
            [numpy_helper.from_array(array, f"i{place}") for place, array in self.held.items()],
        )
        imports = [helper.make_opsetid("", self.opset)]
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
NAMES = [f"{number}-{each.operator}" for number, each in enumerate(CASES)]


def converted(model: onnx.ModelProto) -> torch.nn.Module:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.opset_import.append(helper.make_opsetid(PRIVATE_DOMAIN, 1))
    for node in model.graph.node:
        node.domain = PRIVATE_DOMAIN
    return onnx2torch_convert()(model)


def tensors(each: Case) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(array)) for array in each.fed.values()]


def test_every_converter_has_a_case() -> None:
    # These have no ONNX form: test_tree_paths.py and test_svm.py hold them to a reference.
    private = {*tree_ops.CONVERTERS, "Held"}
    assert {each.operator for each in CASES} == set(CONVERTERS) - private


@pytest.mark.parametrize("each", CASES, ids=NAMES)
def test_converter_equals_onnxruntime(each: Case) -> None:
    model = each.model()
    expected = run(model, each.fed)["out"]
    got = converted(model)(*tensors(each)).numpy()
    assert got.shape == expected.shape and got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


# One compilation takes half a second: the first two cases of each operator.
_SEEN: dict[str, int] = {}
COMPILED = []
for _name, _each in zip(NAMES, CASES, strict=True):
    _SEEN[_each.operator] = _SEEN.get(_each.operator, 0) + 1
    if _each.compiles and _SEEN[_each.operator] <= 2:
        COMPILED.append(pytest.param(_each, id=_name))


@pytest.mark.parametrize("each", COMPILED)
def test_converter_compiles_as_one_graph(each: Case) -> None:
    torch._dynamo.reset()
    module = converted(each.model())
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    got, expected = compiled(*tensors(each)), module(*tensors(each))
    assert torch.equal(got.nan_to_num(), expected.nan_to_num())


def _flows(each: Case) -> bool:
    smooth = each.operator not in ("Equal", "Greater", "Less", "IsNaN", "Shape", "ConstantOfShape")
    first = [array for array in each.fed.values() if array.dtype == np.float32]
    kept = each.operator != "Cast" or each.attributes["to"] == TensorProto.DOUBLE
    ordered = not each.operator.endswith("OrEqual")
    usable = bool(first) and all(f.size and np.isfinite(f).all() for f in first)
    return smooth and kept and ordered and usable


DIFFERENTIABLE = [
    pytest.param(each, id=name) for name, each in zip(NAMES, CASES, strict=True) if _flows(each)
]


@pytest.mark.parametrize("each", DIFFERENTIABLE)
def test_gradients_equal_finite_differences(each: Case) -> None:
    module = converted(each.model()).double()
    inputs = [t.double() if t.dtype == torch.float32 else t for t in tensors(each)]
    for tensor in inputs:
        tensor.requires_grad_(tensor.is_floating_point())
    assert torch.autograd.gradcheck(module, inputs, eps=1e-6, atol=1e-5)


def test_norm_of_zeros_has_a_finite_gradient() -> None:
    each = case("ReduceL2", MATRIX, attributes={"axes": [1]})
    rows = torch.zeros(4, 3, requires_grad=True)
    converted(each.model())(rows).sum().backward()
    assert torch.isfinite(rows.grad).all()


REFUSED = [
    case("Slice", CUBE, held={1: whole(3), 2: whole(0), 3: whole(2), 4: whole(-1)}),
    case("Slice", CUBE, whole(0), whole(1)),
    case("Reshape", CUBE, whole(-1)),
    case("Clip", MATRIX, np.array(0, np.float32)),
    case("Squeeze", floats(1, 3), whole(0)),
    case("Cast", MATRIX, attributes={"to": TensorProto.STRING}),
]


@pytest.mark.parametrize("each", REFUSED, ids=lambda each: each.operator)
def test_what_torch_cannot_do_is_refused_with_the_node(each: Case) -> None:
    with pytest.raises(UnsupportedError, match="'n'"):
        converted(each.model())


SCRIPT = """
import sys
import numpy as np
try:
    import torchvision
except RuntimeError as error:
    assert "nms" in str(error), error
else:
    raise SystemExit("the broken torchvision was not found first")
import onnx
import onnxtune
model = onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g (float[N, 2] x) => (float[N, 1] y) {
        y = ai.onnx.ml.LinearRegressor <coefficients = [2.0, 3.0], intercepts = [1.0]> (x)
    }''')
module = onnxtune.to_torch(model)
found = module.predict(np.ones((1, 2), np.float32))["y"]
assert found.item() == 6.0, found
left = [name for name in sys.modules if name.split(".")[0] == "torchvision"]
assert not left, left
"""


def test_a_torchvision_that_does_not_import_is_no_obstacle(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    message = "operator torchvision::nms does not exist"
    (package / "__init__.py").write_text(f"raise RuntimeError({message!r})\n")
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([str(tmp_path), root])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
