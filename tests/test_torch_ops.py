"""Every converter of ours against onnxruntime, compiled, and its gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graphs import parse
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch_cases import CASES, IMAGES, MATRIX, NORMAL, TIES, Case, bound, case, floats, whole

from onnxtune import torch_comparisons, torch_neighbours, tree_ops
from onnxtune.differentiability import gradient_paths
from onnxtune.errors import UnsupportedError
from onnxtune.onnx2torch_bridge import Values, to_module
from onnxtune.runtime import run
from onnxtune.subgraphs import places
from onnxtune.torch_ops import CONVERTERS

NAMES = [f"{number}-{each.operator}" for number, each in enumerate(CASES)]


def converted(model: onnx.ModelProto) -> torch.nn.Module:
    return Values(to_module(onnx.ModelProto.FromString(model.SerializeToString())))


def tensors(each: Case) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(array)) for array in each.fed.values()]


def compare(got: tuple[torch.Tensor, ...], expected: Sequence[np.ndarray]) -> None:
    for tensor, wanted in zip(got, expected, strict=True):
        assert tuple(tensor.shape) == wanted.shape
        assert tensor.numpy().dtype == wanted.dtype
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-5, atol=2e-6)


def test_every_converter_has_a_case() -> None:
    # These have no ONNX form: test_tree_paths.py, test_svm.py, test_neighbours.py and
    # test_comparisons.py hold them to a reference.
    private = {*tree_ops.CONVERTERS, *torch_neighbours.CONVERTERS, *torch_comparisons.CONVERTERS}
    private.add("Held")
    assert {each.operator for each in CASES} == set(CONVERTERS) - private


@pytest.mark.parametrize("each", CASES, ids=NAMES)
def test_converter_equals_onnxruntime(each: Case) -> None:
    model = each.model()
    compare(converted(model)(*tensors(each)), list(run(model, each.fed).values()))


def _known_to_the_reference(each: Case) -> bool:
    """Not where it differs from onnxruntime, which is the judge, or fails."""
    empty = any(array.size == 0 for array in each.fed.values())
    pads = each.held.get(1, whole()) if each.operator == "Pad" else whole()
    return not (
        each.operator == "CDist"  # no operator of ONNX
        or each.operator == "Scatter"
        or each.operator == "OneHot"  # places past the end wrap around
        or (each.operator == "LpNormalization" and each.attributes["p"] == 1)  # keeps signs
        or (each.operator in ("Flatten", "GatherElements", "GatherND") and empty)
        or (each.operator == "GatherElements" and each.attributes.get("axis") == -1)
        or (pads < 0).any()
    )


@pytest.mark.parametrize(
    "each",
    [
        pytest.param(each, id=name)
        for name, each in zip(NAMES, CASES, strict=True)
        if _known_to_the_reference(each)
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the reference divides by 0
def test_converter_equals_the_reference(each: Case) -> None:
    model = each.model()
    expected = ReferenceEvaluator(model).run(None, each.fed)
    compare(converted(model)(*tensors(each)), [np.asarray(value) for value in expected])


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
    for got, expected in zip(compiled(*tensors(each)), module(*tensors(each)), strict=True):
        assert torch.equal(got.nan_to_num(), expected.nan_to_num())


def _carrying(each: Case) -> list[int]:
    """The computed inputs that a gradient flows through, where the numbers allow to measure it."""
    node = each.model().graph.node[0]
    on_paths = {node.input[place] for place, _ in gradient_paths(node) if place < len(node.input)}
    if each.operator == "Cast" and each.attributes["to"] != TensorProto.DOUBLE:
        return []
    fed = list(each.fed.items())
    flowing = [
        number
        for number, (name, array) in enumerate(fed)
        if name in on_paths and array.dtype == np.float32
    ]
    usable = all(np.isfinite(array).all() and array.size for _, array in fed)
    return flowing if usable and all(array is not TIES for _, array in fed) else []


DIFFERENTIABLE = [
    pytest.param(each, id=name) for name, each in zip(NAMES, CASES, strict=True) if _carrying(each)
]


@pytest.mark.parametrize("each", DIFFERENTIABLE)
def test_gradients_equal_finite_differences(each: Case) -> None:
    module = converted(each.model()).double()

    def floats_of(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(value for value in module(*values) if value.is_floating_point())

    inputs = [t.double() if t.dtype == torch.float32 else t for t in tensors(each)]
    for number in _carrying(each):
        inputs[number].requires_grad_()
    assert torch.autograd.gradcheck(floats_of, inputs, eps=1e-6, atol=1e-5)


def test_every_operator_with_a_gradient_has_a_measured_one() -> None:
    measured = {param.values[0].operator for param in DIFFERENTIABLE}
    known = {each.operator for each in CASES if gradient_paths(each.model().graph.node[0])}
    assert known - measured == {"If"}  # it carries only what its graphs capture


def test_gradients_flow_into_what_a_graph_inside_captures() -> None:
    each = next(each for each in CASES if each.operator == "If")
    assert places(each.model().graph.node[0]) == ["i0", "i1"]
    row = torch.ones(3, requires_grad=True)
    module = converted(each.model())
    module(torch.tensor(True), row)[0].sum().backward()
    module(torch.tensor(False), row)[0].sum().backward()
    assert row.grad.tolist() == [1.0, 1.0, 1.0]  # 2 by the one branch, -1 by the other


@pytest.mark.parametrize("function", ["Sqrt", "Log", "Reciprocal"])
def test_a_branch_that_is_not_taken_leaves_no_nan(function: str) -> None:
    """The gradient of Where is 0 there, and 0 times infinity would be NaN."""
    model = parse(
        f"""g (float[N] x) => (float[N] y) {{
            zero = Constant <value_float = 0.0> ()
            inside = Greater (x, zero)
            edge = {function} (x)
            y = Where (inside, edge, zero)
        }}"""
    )
    rows = torch.tensor([0.0, 4.0], requires_grad=True)
    converted(model)(rows)[0].sum().backward()
    assert torch.isfinite(rows.grad).all() and rows.grad[1] != 0


@pytest.mark.parametrize("function", ["Exp", "Cosh", "Sinh"])
def test_a_branch_that_overflows_leaves_the_gradient_of_the_other(function: str) -> None:
    model = parse(
        f"""g (float[N] x) => (float[N] y) {{
            zero = Constant <value_float = 0.0> ()
            large = Greater (x, zero)
            grown = {function} (x)
            y = Where (large, x, grown)
        }}"""
    )
    rows = torch.tensor([1000.0, -1.0], requires_grad=True)
    converted(model)(rows)[0].sum().backward()
    assert rows.grad[0] == 1 and torch.isfinite(rows.grad).all()


def test_norm_of_zeros_has_a_finite_gradient() -> None:
    each = case("ReduceL2", MATRIX, attributes={"axes": [1]})
    rows = torch.zeros(4, 3, requires_grad=True)
    converted(each.model())(rows)[0].sum().backward()
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Sign", {}),
        *(
            (name, {"axis": 1, "select_last_index": last})
            for name in ("ArgMax", "ArgMin")
            for last in (0, 1)
        ),
    ],
)
def test_missing_numbers(operator: str, attributes: dict[str, int]) -> None:
    nan = np.nan
    rows = np.array([[1, nan, nan, 5], [nan, 1, 2, nan], [nan] * 4, [5, 1, nan, 1]], np.float32)
    each = case(operator, rows, attributes=attributes)
    compare(converted(each.model())(*tensors(each)), list(run(each.model(), each.fed).values()))


@pytest.mark.parametrize("largest", [0, 1])
def test_the_best_beside_missing_numbers(largest: int) -> None:
    nan = np.nan
    rows = np.array([[1, nan, nan, 5], [nan, 1, 2, nan], [nan] * 4, [5, 1, nan, 1]], np.float32)
    attributes = {"axis": 1, "largest": largest}
    each = case("TopK", rows, held={1: whole(1)}, attributes=attributes, outputs=2)
    compare(converted(each.model())(*tensors(each)), list(run(each.model(), each.fed).values()))


def test_a_constant_channel_leaves_the_gradients_finite() -> None:
    module = converted(case("MeanVarianceNormalization", IMAGES).model())
    images = torch.from_numpy(IMAGES.copy())
    images[:, 1] = 3.0
    images.requires_grad_()
    module(images)[0].pow(3).sum().backward()
    assert torch.isfinite(images.grad).all()


PLAIN_REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Prod", "Sum", "SumSquare"]


@pytest.mark.parametrize("name", PLAIN_REDUCTIONS)
def test_a_reduction_over_no_axes(name: str) -> None:
    """Where that is no reduction, onnxruntime still does the rest."""
    attributes = {"noop_with_empty_axes": 1}
    each = case(f"Reduce{name}", np.abs(MATRIX) + 1, attributes=attributes, opset=18)
    compare(converted(each.model())(*tensors(each)), list(run(each.model(), each.fed).values()))


@pytest.mark.parametrize("name", PLAIN_REDUCTIONS)
def test_a_reduction_of_whole_numbers(name: str) -> None:
    numbers = np.array([[1, 2, 4], [9, 2, 4], [1, 1, 1], [40, 3, 7]])
    if name == "Mean":
        numbers[0, 0] = -7
    each = case(f"Reduce{name}", numbers, held={1: whole(1)}, opset=18)
    compare(converted(each.model())(*tensors(each)), list(run(each.model(), each.fed).values()))


@pytest.mark.parametrize("operator", ["Mul", "Div", "Pow"])
def test_a_missing_number_leaves_the_gradients_of_other_rows(operator: str) -> None:
    model = parse(
        f"""g (float[N, 2] x, float[2] w) => (float[N, 2] y) {{
            missing = IsNaN (x)
            zero = Constant <value_float = 0.0> ()
            made = {operator} (x, w)
            y = Where (missing, zero, made)
        }}"""
    )
    weights = torch.tensor([2.0, 3.0], requires_grad=True)
    rows = torch.tensor([[float("nan"), 2.0], [3.0, 2.0]])
    converted(model)(rows, weights)[0].sum().backward()
    alone = weights.grad.clone()
    weights.grad = None
    converted(model)(torch.tensor([[0.0, 2.0], [3.0, 2.0]]), weights)[0].sum().backward()
    assert alone[1] == weights.grad[1] and torch.isfinite(alone).all() and alone[0] != 0


REFUSED = [
    case("Cast", MATRIX, attributes={"to": TensorProto.STRING}),
    case("Pad", MATRIX, whole(0, 1, 0, 1), bound(1)),
    case("CDist", MATRIX, MATRIX, domain="com.microsoft", attributes={"metric": "cosine"}),
    case("BatchNormalization", MATRIX, *NORMAL, attributes={"training_mode": 1}),
    case("AveragePool", IMAGES, attributes={"kernel_shape": [2, 2], "ceil_mode": 1}),
    case(
        "Conv",
        IMAGES,
        floats(4, 4, 3, 3),
        attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"},
    ),
    case("MaxPool", IMAGES, attributes={"kernel_shape": [2, 2]}, outputs=2),
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
