"""The form that a file is in: its mark, its declared shapes, and what may be asked of it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import parse
from pipelines import data_of, exported
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import onnxtune
from onnxtune.conversion import FORMS
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.export import SAVED_FORMS, native, written
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from onnxtune.torch_module import to_torch
from onnxtune.tuning import tune


def form_of(model: onnx.ModelProto) -> str | None:
    return next((e.value for e in model.metadata_props if e.key == "onnxtune.form"), None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["forest", "logistic"])
def test_only_the_native_form_is_tuned(form: Any, name: str, tmp_path: Any) -> None:
    train, valid, _ = data_of(name)
    path = tmp_path / "model.onnx"
    onnx.save(onnxtune.convert(exported(name), form), path)
    assert form_of(onnx.load(path)) == form
    expected = (
        rf"model\.onnx: is the {form} form of a model, .*tune the model that it was made from"
    )
    with pytest.raises(UnsupportedError, match=expected):
        tune(path, *train, valid=valid)
    with pytest.raises(UnsupportedError, match=expected):
        to_torch(path)
    report = onnxtune.inspect(path)
    assert report.note is not None and "form of a model" in report.note
    assert report.tunable == 0


def test_a_tuned_native_file_is_tuned_again(tmp_path: Any) -> None:
    train, valid, _ = data_of("forest")
    result = tune(exported("forest"), *train, valid=valid, routing="leaves", lr=0.03, epochs=3)
    assert result.accepted
    path = tmp_path / "tuned.onnx"
    result.save(path)
    keys = {entry.key for entry in onnx.load(path).metadata_props}
    assert "onnxtune.source_sha256" in keys and "onnxtune.form" not in keys
    again = tune(path, *train, valid=valid, routing="leaves", epochs=1)
    for form in FORMS:
        assert form_of(again.model(form)) == form
        assert form_of(again.module.model(form)) == form
    assert form_of(again.model("native")) is form_of(again.module.model("native")) is None


@pytest.mark.parametrize("name", ["forest", "logistic"])
@pytest.mark.parametrize(("first", "then"), [("hard", "soft"), ("soft", "hard")])
def test_a_form_of_a_form_stays_in_the_first(name: str, first: Any, then: Any) -> None:
    made = onnxtune.convert(onnxtune.convert(exported(name), first), then)
    assert [e.value for e in made.metadata_props if e.key == "onnxtune.form"] == [first]


@cache
def two_targets() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """skl2onnx declares one column for both."""
    X, y = data_of("regression forest")[0]
    targets = np.stack([y, -y + X[:, 0]], axis=1)
    forest = RandomForestRegressor(3, max_depth=3, random_state=0)
    model = to_onnx(make_pipeline(StandardScaler(), forest).fit(X, targets), X[:1])
    assert sizes(model)[1] == 1
    return model, X, targets


def sizes(model: onnx.ModelProto) -> list[int]:
    """0 for one that is not fixed."""
    return [size.dim_value for size in model.graph.output[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trees", ["traversal", "level-wise", "gemm"])
def test_declared_shapes_are_those_of_two_targets(form: Any, trees: Any) -> None:
    model, X, _ = two_targets()
    made = onnxtune.convert(model, form, trees="auto" if form == "soft" else trees)
    onnx.checker.check_model(made, full_check=True)
    assert sizes(made) == [0, 2]
    assert np.shape(run(made, {"X": X[:7]})["variable"]) == (7, 2)


def test_tuned_forms_declare_what_they_compute() -> None:
    model, X, y = two_targets()
    result = tune(model, X, y, routing="straight-through", lr=0.03, epochs=2)
    for form in SAVED_FORMS:
        made = result.model(form)
        onnx.checker.check_model(made, full_check=True)
        assert sizes(made) == ([0, 1] if form == "native" else [0, 2])


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        ("N, 1", [0, 2]),
        ("N", [0, 2]),
        ("7", [0, 2]),
        ("N, 2", [0, 2]),
        ("7, 2", [7, 2]),
        ("7, M", [7, 0]),
    ],
)
def test_a_replaced_node_declares_what_it_computes(declared: str, kept: list[int]) -> None:
    # onnxruntime joins the two categories, for it compares their first weights alone.
    model = parse(
        f"""g (float[N, 3] x) => (float[{declared}] y) {{
            [trees] y = ai.onnx.ml.TreeEnsembleRegressor <
                n_targets = 2, nodes_treeids = [0, 0, 0, 0, 0], nodes_nodeids = [0, 1, 2, 3, 4],
                nodes_featureids = [0, 0, 0, 0, 0], nodes_values = [1.0, 2.0, 0.0, 0.0, 0.0],
                nodes_truenodeids = [2, 3, 0, 0, 0], nodes_falsenodeids = [1, 4, 0, 0, 0],
                nodes_modes = ["BRANCH_EQ", "BRANCH_EQ", "LEAF", "LEAF", "LEAF"],
                target_treeids = [0, 0, 0, 0, 0, 0], target_nodeids = [2, 2, 3, 3, 4, 4],
                target_ids = [0, 1, 0, 1, 0, 1],
                target_weights = [1.0, -2.0, 1.0, 3.0, 0.5, 0.1]> (x)
        }}"""
    )
    prepared = prepare(load(model))
    tensors = {"trees/leaf_values": np.array([[1, 2], [3, 4]], np.float32)}
    made = native(prepared, tensors)
    assert made.replaced
    for proto in (made.proto, *(written(prepared, tensors, f, 0.1, {}, ["y"]) for f in FORMS)):
        onnx.checker.check_model(proto, full_check=True)
        assert sizes(proto) == kept


def test_shapes_that_agree_stay() -> None:
    for name in ("forest", "regression forest", "ridge"):
        for form in FORMS:
            for old, new in zip(
                exported(name).graph.output,
                onnxtune.convert(exported(name), form).graph.output,
                strict=True,
            ):
                assert old.type == new.type


def test_a_form_of_hard_trees_is_none_of_soft_ones() -> None:
    with pytest.raises(ArgumentError, match="trees='gemm' is a form of hard trees"):
        onnxtune.convert(exported("forest"), "soft", trees="gemm")
    with pytest.raises(ArgumentError, match="has none"):
        onnxtune.convert(exported("ridge"), "soft", trees="traversal")


def test_a_soft_form_may_have_hard_trees() -> None:
    """No gradient passes their way, so they stay hard, in the form that was asked for."""
    model = parse(
        """g (float[N, 3] x) => (float[N, 1] z) {
            [trees] y = ai.onnx.ml.TreeEnsembleRegressor <
                n_targets = 1, nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2],
                nodes_featureids = [0, 0, 0], nodes_values = [0.5, 0.0, 0.0],
                nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids = [1, 0, 0],
                nodes_falsenodeids = [2, 0, 0], target_treeids = [0, 0], target_nodeids = [1, 2],
                target_ids = [0, 0], target_weights = [1.0, 3.0]> (x)
            whole = Floor (y)
            z = ai.onnx.ml.LinearRegressor <coefficients = [5.0], targets = 1> (whole)
        }"""
    )
    forms = {
        trees: onnxtune.convert(model, "soft", trees=trees)  # type: ignore[arg-type]
        for trees in ("traversal", "gemm")
    }
    operators = {t: [node.op_type for node in made.graph.node] for t, made in forms.items()}
    assert operators["traversal"] != operators["gemm"]
    rows = {"x": np.array([[0, 0, 0], [1, 0, 0]], np.float32)}
    for made in forms.values():
        np.testing.assert_array_equal(run(made, rows)["z"], [[5], [15]])
