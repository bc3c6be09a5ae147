"""Random support vector machines: standard operators answer as onnxruntime does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import assume, given
from hypothesis import strategies as st
from repeatable import examples
from test_linear_property import (
    LINKS,
    Array,
    Drawn,
    label_kind,
    labels_of,
    model,
    quarters,
    rows_of,
    runs,
)

import onnxtune
from onnxtune.runtime import run

KERNELS = ["LINEAR", "POLY", "RBF", "SIGMOID"]
FLOAT = int(onnx.TensorProto.FLOAT)


def kernel(draw: Any) -> dict[str, Any]:
    """The type and its gamma, coef0 and degree; both may be left out."""
    kind = draw(st.sampled_from([None, *KERNELS]))
    gamma = draw(st.sampled_from([0.0, 0.25, 0.5, 2.0]))
    degree = draw(st.sampled_from([0.0, 1.0, 2.0, 3.0]))
    numbers = [gamma, draw(st.sampled_from([0.0, 0.5, -1.0])), degree]
    needed = kind in ("POLY", "RBF", "SIGMOID")
    return {
        "kernel_type": kind,
        "kernel_params": numbers if needed or draw(st.booleans()) else None,
    }


def chances(draw: Any, pairs: int) -> dict[str, Any]:
    if draw(st.booleans()):
        return {}
    slopes = [-abs(number) - 0.25 for number in quarters(draw, pairs)]
    return {"prob_a": slopes, "prob_b": quarters(draw, pairs)}


@st.composite
def classifiers(draw: Any) -> Drawn:
    features, classes = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    attributes: dict[str, Any] = {"post_transform": draw(st.sampled_from([None, *LINKS]))}
    attributes |= draw(labels_of(classes))
    pairs = classes * (classes - 1) // 2
    counts = draw(st.lists(st.integers(1, 3), min_size=classes, max_size=classes))
    total = sum(counts)
    attributes |= {
        "vectors_per_class": counts,
        "support_vectors": quarters(draw, total * features),
        "coefficients": quarters(draw, (classes - 1) * total),
        "rho": quarters(draw, pairs),
        **kernel(draw),
        **chances(draw, pairs),
    }
    x = draw(rows_of(features))
    outputs = {"label": label_kind(attributes), "scores": FLOAT}
    return model("SVMClassifier", x, outputs, **attributes), x


@st.composite
def linear_classifiers(draw: Any) -> Drawn:
    """Without support vectors: rows of weights."""
    features, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    attributes = {
        **draw(labels_of(classes)),
        "post_transform": draw(st.sampled_from([None, *LINKS])),
        "coefficients": quarters(draw, classes * features),
        "rho": quarters(draw, draw(st.sampled_from([1, classes]))),
        "kernel_type": draw(st.sampled_from([None, "LINEAR"])),
        "kernel_params": draw(st.sampled_from([None, [0.0, 0.0, 0.0]])),
        "vectors_per_class": draw(st.sampled_from([None, [0] * classes])),
        **chances(draw, classes),
    }
    x = draw(rows_of(features))
    outputs = {"label": label_kind(attributes), "scores": FLOAT}
    return model("SVMClassifier", x, outputs, **attributes), x


@st.composite
def regressors(draw: Any) -> Drawn:
    features, supports = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    attributes = {
        "post_transform": draw(st.sampled_from([None, *LINKS])),
        "coefficients": quarters(draw, supports or features),
        "support_vectors": quarters(draw, supports * features) if supports else None,
        "n_supports": supports,
        "rho": quarters(draw, 1),
        "one_class": draw(st.sampled_from([None, 0, 1])),
        **kernel(draw),
    }
    x = draw(rows_of(features, ("float",)))
    return model("SVMRegressor", x, {"scores": FLOAT}, **attributes), x


def assert_same(got: dict[str, Array], wanted: dict[str, Array], loosely: bool) -> None:
    """Near the median a quantile is a difference of almost equal numbers: compared loosely."""
    for name, y in wanted.items():
        assert got[name].shape == y.shape and got[name].dtype == y.dtype, name
        if name == "label":
            np.testing.assert_array_equal(got[name], y)
        else:
            finite = y[np.isfinite(y)].astype(np.float64)
            usual = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
            slack = (1e-3 if loosely else 1e-5) * max(usual, 1)
            np.testing.assert_allclose(got[name], y, rtol=1e-4, atol=slack, err_msg=name)


def check(drawn: Drawn) -> None:
    source, x = drawn
    assume(runs(source))
    hard = onnxtune.convert(source, form="hard")
    assert {node.domain for node in hard.graph.node} == {""}
    link = next((a.s for a in source.graph.node[0].attribute if a.name == "post_transform"), b"")
    assert_same(run(hard, {"x": x}), run(source, {"x": x}), link == b"PROBIT")


@examples(100)
@given(classifiers())
def test_classifiers(drawn: Drawn) -> None:
    check(drawn)


@examples(60)
@given(linear_classifiers())
def test_classifiers_without_vectors(drawn: Drawn) -> None:
    check(drawn)


@examples(100)
@given(regressors())
def test_regressors(drawn: Drawn) -> None:
    check(drawn)
