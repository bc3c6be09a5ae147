"""Targets on another scale, and graphs that come back from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from pipelines import data_of, exported

from onnxtune.errors import ArgumentError, DataError, UnsupportedError
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.target_transforms import TARGET_TRANSFORMS, transformed, with_inverse

INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log1p": np.expm1,
    "log": np.exp,
    "sqrt": lambda z: np.square(np.maximum(z, 0)),
    "asinh": np.sinh,
}
DTYPES = {"float": np.float32, "double": np.float64}


def parse(text: str, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "ai.onnx.ml" : 1]>'
    return onnx.parser.parse_model(header + text)


def linear(kind: str, columns: int = 1, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    return parse(
        f"g ({kind}[N, {columns}] x) => ({kind}[N, {columns}] y) {{ y = Add (x, x) }}", opset, ir
    )


def ran(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def rows(kind: str, columns: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(200, columns)) * 2).astype(DTYPES[kind])


# The target.


@pytest.mark.parametrize("name", TARGET_TRANSFORMS)
def test_there_and_back(name: str) -> None:
    target = np.abs(rows("double", 3)) + 1e-3
    found = transformed(name, target)
    assert found.dtype == np.float64 and found.shape == target.shape
    np.testing.assert_allclose(INVERSES[name](found), target, rtol=1e-12)
    np.testing.assert_allclose(transformed(name, target[:, 0]), found[:, 0], rtol=1e-15)
    assert transformed(name, np.array([1, 2, 3])).dtype == np.float64


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("log1p", -0.5, -1.0), ("log", 1e-9, 0.0), ("sqrt", 0.0, -1e-3), ("asinh", -5.0, np.inf)],
)
def test_numbers_that_a_transform_does_not_take(name: str, good: float, bad: float) -> None:
    assert np.isfinite(transformed(name, np.full(4, good))).all()
    with pytest.raises(DataError, match="in row 2 \\(counting from 0\\)") as caught:
        transformed(name, np.array([1.0, 2.0, bad, bad]))
    assert name in str(caught.value) and str(bad) in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    with pytest.raises(DataError, match="in row 1, column 1"):
        transformed(name, np.array([[1.0, 2.0], [1.0, bad]]))
    with pytest.raises(DataError, match="in row 1 "):
        transformed(name, np.array([[1.0], [np.nan]]))


def test_an_unknown_name() -> None:
    for call in (
        lambda: transformed("cube", np.ones(3)),
        lambda: with_inverse(linear("float"), "y", "cube"),
    ):
        with pytest.raises(ArgumentError, match="'cube' is none of log1p, log, sqrt, asinh"):
            call()


# The graph.


@pytest.mark.parametrize("name", TARGET_TRANSFORMS)
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(
    ("opset", "ir"), [(7, 3), (9, 3), (9, 4), (11, 6), (13, 7), (17, 8), (21, 10)]
)
def test_an_output_is_what_numpy_says(name: str, kind: str, opset: int, ir: int) -> None:
    model = linear(kind, 3, opset, ir)
    before = model.SerializeToString(deterministic=True)
    new = with_inverse(model, "y", name)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(new, full_check=True)
    assert new.ir_version == ir and new.opset_import == model.opset_import
    assert new.graph.output == model.graph.output and new.graph.input == model.graph.input
    x = rows(kind, 3)
    x[:3] = [[0.0, -0.0, 1e-3], [40.0, -40.0, 3.0], [np.nan, 1.0, 1.0]]
    found = ran(new, x)["y"]
    assert found.dtype == DTYPES[kind]
    wanted = INVERSES[name]((x + x).astype(np.float64))
    eps = np.finfo(DTYPES[kind]).eps
    finite = np.abs(wanted) < np.finfo(DTYPES[kind]).max
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=40 * eps, atol=2 * eps)
    assert np.isnan(found[2, 0])


def test_a_root_below_zero_is_zero() -> None:
    found = ran(with_inverse(linear("float"), "y", "sqrt"), np.array([[-3.0], [2.0]], np.float32))
    np.testing.assert_array_equal(found["y"], [[0], [16]])


@pytest.mark.parametrize("name", TARGET_TRANSFORMS)
@pytest.mark.parametrize("pipeline", ["ridge", "regression forest", "regression boosting"])
def test_models_that_import_only_their_own_domain(pipeline: str, name: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported(pipeline))
    assert not any(node.domain == "" for node in model.graph.node)
    x = data_of(pipeline)[0][0][:50]
    output = model.graph.output[0].name
    # Small numbers, which no inverse sends to infinity.
    model.opset_import.add(domain="", version=13)
    model.graph.node.add(op_type="Tanh", input=["old"], output=[output], name="tanh")
    for node in model.graph.node[:-1]:
        node.output[:] = ["old" if made == output else made for made in node.output]
    plain = ran(model, x)[output]
    np.testing.assert_allclose(
        ran(with_inverse(model, output, name), x)[output], INVERSES[name](plain), rtol=1e-5
    )
    bare = exported(pipeline)
    for ir, opset in ((3, 9), (8, 13)):
        own = onnx.ModelProto()
        own.CopyFrom(bare)
        own.ir_version = ir
        del own.opset_import[:]
        own.opset_import.extend([o for o in bare.opset_import if o.domain == "ai.onnx.ml"])
        new = with_inverse(own, output, name)
        assert {o.domain: o.version for o in new.opset_import}[""] == opset
        assert new.ir_version == ir
        with np.errstate(over="ignore"):
            wanted = INVERSES[name](ran(bare, x)[output])
        np.testing.assert_allclose(ran(new, x)[output], wanted, rtol=1e-4)
        assert prepare(load(new)).obstacle is None


def test_other_readers_keep_the_old_value() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z, float[N, 2] w) {
            y = Add (x, x)
            y_log1p = Neg (y)
            z = Identity (y)
            w = Add (y_log1p, y)
        }"""
    )
    model.graph.value_info.append(helper.make_tensor_value_info("y", 1, ["N", 2]))
    x = rows("float", 2)
    new = with_inverse(model, "y", "log1p")
    onnx.checker.check_model(new, full_check=True)
    found = ran(new, x)
    np.testing.assert_allclose(found["y"], np.expm1(x + x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["z"], x + x)
    np.testing.assert_array_equal(found["w"], np.zeros_like(x))
    names = [name for node in new.graph.node for name in node.output]
    assert len(set(names)) == len(names) and {"y", "y_log1p", "y_log1p_2"} < set(names)


def test_inner_graphs_keep_reading_it() -> None:
    body = onnx.parser.parse_graph("inner () => (float[N, 2] r) { r = Neg (y) }")
    same = onnx.parser.parse_graph("inner () => (float[N, 2] s) { s = Identity (y) }")
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) {
            y = Add (x, x)
            yes = Constant <value = bool {1}> ()
            z = Neg (x)
        }"""
    )
    del model.graph.node[2]
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=same)
    )
    x = rows("float", 2)
    new = with_inverse(model, "y", "asinh")
    found = ran(new, x)
    np.testing.assert_array_equal(found["z"], -(x + x))
    np.testing.assert_allclose(found["y"], np.sinh(x + x), rtol=1e-5, atol=1e-6)


def test_one_of_several_outputs_twice() -> None:
    model = parse(
        "g (double[N, 2] x) => (double[N, 2] a, double[N, 2] b) { a = Neg (x)  b = Abs (x) }"
    )
    x = rows("double", 2) / 4
    new = with_inverse(with_inverse(model, "a", "log1p"), "b", "asinh")
    again = with_inverse(new, "a", "log1p")
    found = ran(again, x)
    np.testing.assert_allclose(found["a"], np.expm1(np.expm1(-x)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["b"], np.sinh(np.abs(x)), rtol=1e-12, atol=1e-14)


def test_an_output_without_a_declared_type() -> None:
    model = linear("double")
    model.graph.output[0].ClearField("type")
    x = rows("double")
    np.testing.assert_allclose(ran(with_inverse(model, "y", "log"), x)["y"], np.exp(x + x))


def test_the_long_name_of_the_default_domain() -> None:
    model = linear("float")
    for opset in model.opset_import:
        opset.domain = opset.domain or "ai.onnx"
    new = with_inverse(model, "y", "log")
    assert new.opset_import == model.opset_import
    x = rows("float")
    np.testing.assert_allclose(ran(new, x)["y"], np.exp(x + x), rtol=1e-5)


def test_what_cannot_end_in_an_inverse() -> None:
    with pytest.raises(ArgumentError, match="'q' is no output of the model; it has 'y'"):
        with_inverse(linear("float"), "q", "log")
    with pytest.raises(UnsupportedError, match="needs opset 7 or newer, and the model has 6"):
        with_inverse(linear("float", opset=6), "y", "log")
    passed = parse("g (float[N, 2] x) => (float[N, 2] x) { y = Neg (x) }")
    with pytest.raises(UnsupportedError, match="'x' is not made by a node"):
        with_inverse(passed, "x", "log")
    whole = parse("g (int64[N, 2] x) => (int64[N, 2] y) { y = Neg (x) }")
    with pytest.raises(UnsupportedError, match="'y' is a tensor\\(int64\\)"):
        with_inverse(whole, "y", "log")
    with pytest.raises(UnsupportedError, match="needs an output of numbers"):
        with_inverse(exported("logistic", zipmap=True), "output_probability", "log")
