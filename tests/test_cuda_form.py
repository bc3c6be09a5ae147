"""The form for the CUDA provider: the same answers, from nodes that it has kernels for."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import parse
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

import onnxtune
from onnxtune.cuda_kernels import gaps
from onnxtune.errors import ArgumentError
from onnxtune.runtime import run
from onnxtune.sampling import sample
from onnxtune.verification import verify
from rewrites.core.registry import all_rewrites
from rewrites.core.rewrite import TREE_FORMS, Case, Rewrite

CASES = [
    pytest.param(rewrite, case, id=f"{rewrite.operator}: {case.name}")
    for rewrite in all_rewrites().values()
    for case in rewrite.cases
]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def for_cuda(model: Any, form: str = "hard", **options: Any) -> onnx.ModelProto:
    return onnxtune.convert(model, form, provider="cuda", **options)


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_every_rewrite_has_kernels(rewrite: Rewrite, case: Case) -> None:
    """In each of its forms; words and maps alone have none."""
    model = onnx.parser.parse_model(case.text)
    forms = ("auto", *TREE_FORMS) if rewrite.ensemble else ("auto",)
    made = [for_cuda(model, trees=trees) for trees in forms]
    for converted in made:
        for gap in gaps(converted):
            words = gap.reason == "no kernel for tensor(string)"
            assert words or gap.operator == "ai.onnx.ml:ZipMap", str(gap)
        assert not gaps(onnxtune.split(converted).gpu)
    assert verify(model, made[0], rows=100).agrees


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_the_soft_form_has_kernels(rewrite: Rewrite, case: Case) -> None:
    model = onnx.parser.parse_model(case.text)
    try:
        plain = onnxtune.convert(model, "soft")
    except onnxtune.OnnxTuneError:
        pytest.skip("nothing in it has a gradient")
    soft = for_cuda(model, "soft")
    for gap in gaps(soft):
        words = gap.reason == "no kernel for tensor(string)"
        assert words or gap.operator == "ai.onnx.ml:ZipMap", str(gap)
    # Rows that the original takes: the plain form does not say which categories it knows.
    assert verify(plain, soft, sample(model, 100)).agrees


def test_constants_are_folded() -> None:
    X, y = load_iris(return_X_y=True)
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X, y)
    model = onnxtune.to_onnx(forest, X.astype(np.float32))
    plain = onnxtune.convert(model, "hard", trees="traversal")
    folded = for_cuda(model, trees="traversal")
    assert len(folded.graph.node) < len(plain.graph.node)
    made = {tensor.name for tensor in folded.graph.initializer}
    for node in folded.graph.node:
        assert not made.issuperset(name for name in node.input if name), node.name
    read = {name for node in folded.graph.node for name in node.input}
    assert made <= read


def test_sizes_that_are_fixed_are_constants() -> None:
    model = parse(
        """g (float[N, 6] x) => (float[A, B] y, float[C] z) {
            shape = Shape (x)
            rows = Gather (shape, zero)
            columns = Gather (shape, one)
            half = Div (columns, two)
            row = Unsqueeze (rows, axis)
            column = Unsqueeze (columns, axis)
            sizes = Concat <axis = 0> (row, column)
            y = Reshape (x, sizes)
            number = Cast <to = 1> (half)
            w = ReduceSum <keepdims = 0> (x, last)
            z = Mul (w, number)
        }""",
        zero=np.array(0),
        one=np.array(1),
        two=np.array(2),
        axis=np.array([0]),
        last=np.array([1]),
    )
    made = for_cuda(model)
    assert operators(made) == ["Reshape", "ReduceSum", "Mul"]
    for rows in (0, 1, 7):
        feed = {"x": np.arange(6 * rows, dtype=np.float32).reshape(rows, 6)}
        before, after = run(model, feed), run(made, feed)
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)


def test_a_size_that_varies_stays() -> None:
    model = parse(
        """g (float[N, 3] x) => (int64[1] rows) {
            rows = Shape <end = 1> (x)
        }"""
    )
    made = for_cuda(model)
    assert operators(made) == ["Shape"]
    assert run(made, {"x": np.zeros((5, 3), np.float32)})["rows"] == [5]


@pytest.mark.parametrize(
    "node",
    ["Bernoulli (half)", "RandomNormalLike (half)", "RandomUniform <shape = [2]> ()",
     "Dropout (half, ratio, training)"],
)  # fmt: skip
def test_what_is_random_is_not_folded(node: str) -> None:
    model = parse(
        f"""g (float[N, 2] x) => (float[N, 2] y)
        <float[2] half = {{0.5, 0.5}}, float ratio = {{0.5}}, bool training = {{1}}> {{
            other = {node}
            y = Add (x, other)
        }}"""
    )
    assert operators(for_cuda(model))[0] == node.split()[0]


def test_a_constant_does_not_grow_without_bound() -> None:
    model = parse(
        """g (float[N, 1] x) => (float[N, M] y) {
            wide = Expand (half, shape)
            y = Add (x, wide)
        }""",
        half=np.array([[0.5]], np.float32),
        shape=np.array([1, 100_000]),
    )
    assert operators(for_cuda(model)) == ["Expand", "Add"]


# What has no kernel, and other nodes with the same answers.
SUBSTITUTES = {
    "Clip of int32": (
        "g (int32[N] x, int32 low, int32 high) => (int32[N] y) { y = Clip (x, low, high) }",
        ["Cast", "Cast", "Cast", "Clip", "Cast"],
    ),
    "ArgMax of int32": (
        "g (int32[N, 5] x) => (int64[N, 1] y) { y = ArgMax <axis = 1> (x) }",
        ["Cast", "ArgMax"],
    ),
    "LpNormalization of doubles": (
        "g (double[N, 3] x) => (double[N, 3] y) { y = LpNormalization <axis = 1> (x) }",
        ["ReduceL2", "Equal", "Where", "Div"],
    ),
    "LpNormalization of doubles, L1, columns": (
        "g (double[N, 3] x) => (double[N, 3] y) { y = LpNormalization <axis = 0, p = 1> (x) }",
        ["ReduceL1", "Equal", "Where", "Div"],
    ),
    "CastLike": (
        "g (int64[N, 3] x, float like) => (float[N, 3] y) { y = CastLike (x, like) }",
        ["Cast"],
    ),
    "an RNN that sums": (
        """g (float[S, N, 1] x) => (float[S, D, N, H] y) <float[1, 1, 1] one = {1.0}> {
            y = RNN <hidden_size = 1, activations = ["Affine"], activation_alpha = [1.0],
                activation_beta = [0.0]> (x, one, one)
        }""",
        ["CumSum", "Unsqueeze"],
    ),
}


@pytest.mark.parametrize("name", SUBSTITUTES)
def test_substitutes(name: str) -> None:
    text, expected = SUBSTITUTES[name]
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    assert gaps(model)
    made = for_cuda(model)
    assert operators(made) == expected
    assert not gaps(made)
    random = np.random.default_rng(0)
    shapes = {"x": (4, 6, 1) if "RNN" in name else (6, 5) if "ArgMax" in name else (6, 3)}
    for _ in range(5):
        feed: dict[str, Any] = {}
        for value in model.graph.input:
            tensor = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            shape = shapes["x"] if len(tensor.shape.dim) > 1 else (6,) * len(tensor.shape.dim)
            drawn = random.normal(0, 3, shape)
            feed[value.name] = drawn.astype(dtype)
        if "low" in feed:
            feed["low"], feed["high"] = np.array(-1, np.int32), np.array(2, np.int32)
        if "double" in name:
            feed["x"][2:4] = 0
        before, after = run(model, feed)["y"], run(made, feed)["y"]
        assert before.dtype == after.dtype
        np.testing.assert_allclose(after, before, rtol=1e-6)


def test_local_functions_are_written_out() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N, 3] x) => (float[N, 3] y) { z = own.twice (x)
        y = own.twice (z) }
    <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }""")
    made = for_cuda(model)
    assert operators(made) == ["Add", "Add"] and not made.functions
    feed = sample(model, 4)
    np.testing.assert_array_equal(run(made, feed)["y"], 4 * feed["x"])


def test_what_stays_on_the_cpu_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = parse(
        """g (float[N, 2] x) => (string[N] label) {
            [classes] label, scores = ai.onnx.ml.LinearClassifier <coefficients = [0.5, -1.0],
                intercepts = [0.5], classlabels_strings = ["no", "yes"]> (x)
        }"""
    )
    with caplog.at_level(logging.WARNING):
        for_cuda(model)
    assert "Gather 'classes/Gather_" in caplog.text and "`onnxtune split`" in caplog.text
    caplog.clear()
    onnxtune.convert(model, "hard")
    assert not caplog.text


def test_tuned_models_are_saved_for_cuda(tmp_path: Any) -> None:
    X, y = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X[::3], y[::3])
    model = onnxtune.to_onnx(forest, X)
    result = onnxtune.tune(model, X, y, epochs=2, routing="leaves")
    for form in ("hard", "soft"):
        result.save(tmp_path / f"{form}.onnx", form=form, provider="cuda")
        saved = onnx.load(tmp_path / f"{form}.onnx")
        assert not gaps(saved)
        assert verify(result.model(form), saved, X).agrees
        facts = {entry.key: entry.value for entry in saved.metadata_props}
        assert facts["onnxtune.form"] == form
    tuner = onnxtune.Tuner(model)
    tuner.partial_fit(X[:50], y[:50])
    tuner.save(tmp_path / "online.onnx", form="hard", provider="cuda")
    online = onnx.load(tmp_path / "online.onnx")
    assert not gaps(online) and verify(tuner.model("native"), online, X).agrees
    for refused, why in (({"form": "native"}, "native form"), ({"form": "hard"}, "none of")):
        provider = "cuda" if "native" in why else "gpu"
        with pytest.raises(ArgumentError, match=why):
            result.save(tmp_path / "no.onnx", provider=provider, **refused)
    assert not (tmp_path / "no.onnx").exists()
