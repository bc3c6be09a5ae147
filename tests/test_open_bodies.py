"""Scan and If as operators of the main graph: the same numbers, and which of them stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import parse
from hypothesis import given, settings
from hypothesis import strategies as st
from skl2onnx import to_onnx
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

import onnxtune
from onnxtune.runtime import run

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).astype(np.float32)
Y = rng.normal(size=40)
HELD = rng.normal(size=(5, 3)).astype(np.float32)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def check(model: onnx.ModelProto, stays: bool = False) -> onnx.ModelProto:
    """The form for CUDA gives the numbers of onnxruntime's Scan, for any number of rows."""
    assert "Scan" in operators(model)
    made = onnxtune.convert(model, "hard", provider="cuda")
    assert ("Scan" in operators(made)) == stays
    (name,) = (value.name for value in model.graph.input)
    for rows in (X[:1], X, 2 * X[:9]):
        expected, found = run(model, {name: rows}), run(made, {name: rows})
        for output, value in expected.items():
            np.testing.assert_array_equal(found[output], value)
    return made


def scan(body: str, kind: str = "", made: str = "float[M] s") -> onnx.ModelProto:
    """A Scan with one state of two axes, `a`, and the rows `b` of another matrix."""
    return parse(
        f"""g (float[N, 3] x) => ({kind or "float[5, N] y"}) {{
            one = Constant <value_ints = [1]> ()
            same, y = Scan <num_scan_inputs = 1, body = body (float[N, 3] a, float[3] b)
                => (float[N, 3] kept, {made}) {{ {body} }}> (x, held)
        }}""",
        held=HELD,
    )


@pytest.mark.parametrize("metric", [{"p": 2}, {"p": 1}, {"p": 3}, {"metric": "sqeuclidean"}])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_neighbours(metric: dict[str, Any], weights: str) -> None:
    regressor = KNeighborsRegressor(4, weights=weights, **metric).fit(X, Y)
    classifier = KNeighborsClassifier(4, weights=weights, **metric).fit(X, Y > 0)
    check(to_onnx(regressor, X[:1]))
    check(to_onnx(classifier, X[:1], options={"zipmap": False}))


STEPS = {
    "squared distances": "kept = Identity (a) d = Sub (a, b) q = Mul (d, d) s = ReduceSum "
    "<keepdims = 0> (q, one)",
    "axes in the body": "kept = Identity (a) i = Constant <value_ints = [-1]> () d = Sub (a, b) "
    "j = Identity (i) q = ReduceSumSquare <axes = [-1]> (d) s = Squeeze (q, j)",
    "a smaller value of the step's own": "kept = Identity (a) m = ReduceMax <axes = [0]> (b) "
    "d = Sub (a, m) s = ReduceMin <axes = [1], keepdims = 0> (d)",
    "without a state in it": "kept = Identity (a) s = Abs (b)",
    "what is around it": "kept = Identity (a) d = Sub (b, x) s = ReduceMean <axes = [1], "
    "keepdims = 0> (d)",
    "two times the same": "kept = Identity (a) d = Sub (a, b) m = ReduceL1 <axes = [1], "
    "keepdims = 0> (d) s = Identity (m)",
}


@pytest.mark.parametrize("name", STEPS)
def test_a_body_of_steps_by_themselves(name: str) -> None:
    made = check(scan(STEPS[name]))
    # Nothing but the body's nodes, and an axis where one is missing.
    assert len(made.graph.node) <= STEPS[name].count("=")
    assert {"kept", "s", "d"}.isdisjoint(operators(made))


STAY = {
    "a state that changes": "kept = Add (a, b) s = ReduceSum <keepdims = 0> (kept, one)",
    "the same in every step": "kept = Identity (a) s = ReduceSum <keepdims = 0> (a, one)",
    "a product of matrices": "kept = Identity (a) s = MatMul (a, b)",
}


@pytest.mark.parametrize("name", STAY)
def test_what_stays_a_scan(name: str) -> None:
    check(scan(STAY[name]), stays=True)


def test_all_axes_of_a_step() -> None:
    """At every opset: the axes are an attribute here and an input there."""
    for opset in (11, 13, 17, 18, 20):
        model = scan("kept = Identity (a) d = Sub (a, b) s = ReduceMax <keepdims = 0> (d)",
                     "float[5] y", "float s")  # fmt: skip
        model.opset_import[0].version = opset
        check(model)


def test_a_reduction_of_single_numbers_stays() -> None:
    model = parse(
        """g (float[N] x) => (float[N] y) {
            same, y = Scan <num_scan_inputs = 1, body = body (float[2] a, float b)
                => (float[2] kept, float s) {
                kept = Identity (a) s = ReduceSum <keepdims = 0> (b) }> (two, x)
        }""",
        two=np.ones(2, np.float32),
    )
    made = onnxtune.convert(model, "hard", provider="cuda")
    assert "Scan" in operators(made)
    np.testing.assert_array_equal(run(made, {"x": X[:, 0]})["y"], X[:, 0])


def test_outputs_that_are_one_value() -> None:
    check(
        parse(
            """g (float[N, 3] x) => (float[5, N] y, float[5, N] z) {
                same, y, z = Scan <num_scan_inputs = 1, body = body (float[N, 3] a, float[3] b)
                    => (float[N, 3] kept, float[N] s, float[N] t) {
                    kept = Identity (a) d = Sub (a, b)
                    q = ReduceL1 <axes = [1], keepdims = 0> (d)
                    s = Identity (q) t = Identity (q) }> (x, held)
            }""",
            held=HELD,
        )
    )


def test_a_state_that_is_the_same_in_every_call() -> None:
    model = parse(
        """g (float[N, 3] x) => (float[N, 5] y) {
            same, y = Scan <num_scan_inputs = 1, body = body (float[5, 3] a, float[3] b)
                => (float[5, 3] kept, float[5] s) {
                kept = Identity (a) d = Sub (a, b)
                s = ReduceSumSquare <axes = [1], keepdims = 0> (d) }> (held, x)
        }""",
        held=HELD,
    )
    assert operators(check(model)) == ["Unsqueeze", "Sub", "ReduceSumSquare"]


def test_the_state_may_be_read() -> None:
    check(scan(STEPS["squared distances"], kind="float[N, 3] same, float[5, N] y"))


def test_other_axes_and_directions_stay() -> None:
    for attribute in ("scan_input_directions = [1]", "scan_output_axes = [1]"):
        model = scan(STEPS["squared distances"], kind="float[M, K] y")
        (node,) = (node for node in model.graph.node if node.op_type == "Scan")
        name, value = attribute.split(" = ")
        node.attribute.append(onnx.helper.make_attribute(name, [int(value[1])]))
        check(model, stays=True)


def test_values_that_would_not_fit_stay_steps() -> None:
    model = scan(STEPS["squared distances"])
    rows = 2**30 // HELD.size
    fitting = onnxtune.convert(model, "hard", provider="cuda", batch_size=rows)
    large = onnxtune.convert(model, "hard", provider="cuda", batch_size=rows + 1)
    assert "Scan" not in operators(fitting) and "Scan" in operators(large)


def choice(then: str, other: str, kind: str = "float[N, 3] y") -> onnx.ModelProto:
    return parse(
        f"""g (float[N, 3] x) => ({kind}) {{
            total = ReduceSum <keepdims = 1> (x) zero = Constant <value_float = 0.0> ()
            positive = Greater (total, zero)
            y = If (positive) <then_branch = t () => (float[N, 3] s) {{ {then} }},
                else_branch = e () => (float[N, 3] s) {{ {other} }}>
        }}""",
        held=HELD,
    )


def test_branches_of_one_shape_become_where() -> None:
    model = choice("s = Sqrt (x)", "one = Constant <value_float = 1.0> () s = Div (x, one)")
    made = onnxtune.convert(model, "hard", provider="cuda")
    assert "If" not in operators(made) and operators(made)[-1] == "Where"
    # Each of the two, and numbers that are NaN in the one that is not taken.
    for rows in (X[:7], -np.abs(X), np.abs(X), 0 * X):
        np.testing.assert_array_equal(run(made, {"x": rows})["y"], run(model, {"x": rows})["y"])


@pytest.mark.parametrize(
    "other",
    [
        "s = ReduceMax <axes = [0], keepdims = 1> (x)",
        "s = MatMul (x, square)",
        "s = Gather <axis = 1> (x, place)",
        "s = Abs (some)",
        "s = Sub (x, some)",
        "s = Add (x, held)",
        "i = Cast <to = 6> (x) s = Cast <to = 1> (i)",
        "m = ReduceMax <axes = [1], keepdims = 0> (x) s = Sub (x, m)",
    ],
)
def test_branches_that_may_differ_or_fail_stay(other: str) -> None:
    """Other lengths, and errors where they are not taken."""
    model = choice("s = Abs (x)", other, "float[N, M] y")
    held = {
        "place": np.zeros(3, np.int64),
        "square": np.eye(3, dtype=np.float32),
        "first": np.array([0]),
    }
    for name, value in held.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    some = onnx.helper.make_node("Gather", ["x", "first"], ["some"])
    model.graph.node.insert(0, some)
    made = onnxtune.convert(model, "hard", provider="cuda")
    assert "If" in operators(made)
    # Some branches can be taken with so many rows alone.
    count = 5 if "held" in other else 3 if "m =" in other else len(X)
    for rows in (np.abs(X[:9]), -np.abs(X[:count])):
        np.testing.assert_array_equal(run(made, {"x": rows})["y"], run(model, {"x": rows})["y"])


def test_a_choice_of_truths_stays() -> None:
    model = parse(
        """g (float[N, 3] x) => (bool[N, 3] y) {
            total = ReduceSum <keepdims = 0> (x) zero = Constant <value_float = 0.0> ()
            positive = Greater (total, zero)
            y = If (positive) <then_branch = t () => (bool[N, 3] s) { s = Greater (x, zero) },
                else_branch = e () => (bool[N, 3] s) { s = Less (x, zero) }>
        }"""
    )
    made = onnxtune.convert(model, "hard", provider="cuda")
    np.testing.assert_array_equal(run(made, {"x": X})["y"], run(model, {"x": X})["y"])


@pytest.mark.parametrize(
    "values",
    [("int64 s", "value_int = 0", "value_int = 2"),
     ("bool[1] s", "value = bool[1] {1}", "value = bool[1] {0}")],
)  # fmt: skip
def test_a_choice_of_constants_stays(values: tuple[str, str, str]) -> None:
    kind, then, other = values
    use = (
        "y = Gather <axis = 1> (x, k)" if "int" in kind else "f = Cast <to = 1> (k) y = Mul (x, f)"
    )
    model = parse(
        f"""g (float[N, 3] x, bool p) => (float y) {{
            k = If (p) <then_branch = t () => ({kind}) {{ s = Constant <{then}> () }},
                else_branch = e () => ({kind}) {{ s = Constant <{other}> () }}>
            {use}
        }}"""
    )
    made = onnxtune.convert(model, "hard", provider="cuda")
    for taken in (True, False):
        feed = {"x": X, "p": np.array(taken)}
        np.testing.assert_array_equal(run(made, feed)["y"], run(model, feed)["y"])


def test_initializers_that_a_caller_may_replace_have_any_length() -> None:
    model = choice("s = Neg (x)", "s = Add (x, held)", "float[N, 3] y")
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(HELD[:1], "held"))
    model.graph.input.add().CopyFrom(
        onnx.helper.make_tensor_value_info("held", onnx.TensorProto.FLOAT, ["M", 3])
    )
    assert "If" in operators(onnxtune.convert(model, "hard", provider="cuda"))


def test_rows_of_another_input_stay_apart() -> None:
    for dims, stays in (("M", True), ("N", False)):
        model = parse(
            f"""g (float[N, 3] x, float[{dims}, 3] z, bool p) => (float[L, 3] y) {{
                y = If (p) <then_branch = t () => (float[N, 3] s) {{ s = Neg (x) }},
                    else_branch = e () => (float[{dims}, 3] s) {{ s = Abs (z) }}>
            }}"""
        )
        made = onnxtune.convert(model, "hard", provider="cuda")
        assert ("If" in operators(made)) == stays
        for taken in (True, False):
            feed = {"x": X, "z": X[:1] if stays else X, "p": np.array(taken)}
            np.testing.assert_array_equal(run(made, feed)["y"], run(model, feed)["y"])


def test_for_a_cpu_it_stays() -> None:
    assert "Scan" in operators(onnxtune.convert(scan(STEPS["squared distances"]), "hard"))


_OF_ONE_AXIS = [(0, 0), (-1, 0), (0, 1), (-1, 1)]


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Operators on the state and the step, of any shapes that go together."""
    ranks = {"a": 2, "b": 1, "x": 2}
    stepped = {"b"}
    lines = ["kept = Identity (a)"]
    for number in range(draw(st.integers(1, 5))):
        name = f"v{number}"
        first = draw(st.sampled_from(sorted(ranks)))
        if draw(st.booleans()):
            second = draw(st.sampled_from(sorted(ranks)))
            operator = draw(st.sampled_from(["Add", "Sub", "Mul", "Max"]))
            lines.append(f"{name} = {operator} ({first}, {second})")
            ranks[name] = max(ranks[first], ranks[second])
            made_of = {first, second}
        elif ranks[first] and draw(st.booleans()):
            operator = draw(st.sampled_from(["ReduceMax", "ReduceL1", "ReduceMin"]))
            # [N, 3] becomes [N, 1] or [3]; [N] goes with nothing else.
            choices = [(1, 1), (-1, 1), (0, 0), (-2, 0)] if ranks[first] == 2 else _OF_ONE_AXIS
            axis, keeps = draw(st.sampled_from(choices))
            lines.append(f"{name} = {operator} <axes = [{axis}], keepdims = {keeps}> ({first})")
            ranks[name] = ranks[first] - 1 + keeps
            made_of = {first}
        else:
            operator = draw(st.sampled_from(["Abs", "Neg", "Tanh", "Identity"]))
            lines.append(f"{name} = {operator} ({first})")
            ranks[name] = ranks[first]
            made_of = {first}
        if made_of & stepped:
            stepped.add(name)
    last = draw(st.sampled_from(sorted(stepped)))
    if ranks[last] == 2:
        lines.append(f"w = Add (a, {last}) s = ReduceSum <keepdims = 0> (w, one)")
    else:
        lines.append(f"w = Add (a, {last}) s = ReduceMax <axes = [1], keepdims = 0> (w)")
    return " ".join(lines)


@settings(deadline=None, max_examples=60)
@given(bodies())
def test_random_bodies(body: str) -> None:
    check(scan(body))
