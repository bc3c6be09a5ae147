"""The gates of soft trees in float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

import onnxtune
from onnxtune import half_precision
from onnxtune.cuda_kernels import gaps
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.runtime import value_types
from onnxtune.verification import verify

X, Y = load_diabetes(return_X_y=True)
X = X.astype(np.float32)


def boosted(scale: float = 1.0) -> onnx.ModelProto:
    trees = GradientBoostingRegressor(n_estimators=30, max_depth=3, random_state=0)
    return onnxtune.to_onnx(trees.fit(X, Y * scale), X)


def forest() -> onnx.ModelProto:
    trees = RandomForestClassifier(20, max_depth=5, random_state=0)
    return onnxtune.to_onnx(trees.fit(X, Y > 140), X)


def soft(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    return onnxtune.convert(model, "soft", data=X, provider="cuda", **options)


def kinds(model: onnx.ModelProto, operator: str) -> set[str]:
    types = value_types(model)
    named = [out for node in model.graph.node if node.op_type == operator for out in node.output]
    return {types[name].kind for name in named}


# Leaves far beyond what float16 holds, and far below, are scaled.
@pytest.mark.parametrize("scale", [1.0, 1e8, 1e-9])
def test_regression(scale: float) -> None:
    model = boosted(scale)
    plain, half = soft(model), soft(model, precision="float16")
    assert verify(plain, half, X, rtol=2e-3).agrees
    assert not verify(plain, half, X, rtol=1e-7).agrees
    assert not gaps(half)


def test_classification() -> None:
    plain, half = soft(forest()), soft(forest(), precision="float16")
    assert verify(plain, half, X, rtol=2e-3).agrees
    assert not gaps(half)
    assert "tensor(float16)" in kinds(half, "MatMul") and "tensor(float16)" in kinds(half, "Mul")
    # Distances from thresholds, and the interface, stay as they were.
    sigmoids = [node for node in half.graph.node if node.op_type == "Sigmoid"]
    makers = {out: node for node in half.graph.node for out in node.output}
    for gate in sigmoids:
        cast = makers[gate.input[0]]
        assert cast.op_type == "Cast" and value_types(half)[cast.input[0]].kind == "tensor(float)"
    assert list(half.graph.input) == list(plain.graph.input)
    assert list(half.graph.output) == list(plain.graph.output)
    onnx.checker.check_model(half)


def test_the_file_is_smaller_in_work_not_in_answers() -> None:
    """Every share is float16: no value between a gate and the leaves is left in float32."""
    half = soft(forest(), precision="float16")
    types = value_types(half)
    makers = {out: node for node in half.graph.node for out in node.output}
    for node in half.graph.node:
        if node.op_type == "MatMul":
            waiting = [node]
            while waiting:
                for name in waiting.pop().input:
                    if name in makers and makers[name].op_type not in ("Sigmoid", "Cast"):
                        assert types[name].kind != "tensor(float)", name
                        waiting.append(makers[name])


def test_without_data_rows_are_sampled() -> None:
    half = onnxtune.convert(boosted(), "soft", provider="cuda", precision="float16")
    assert "tensor(float16)" in kinds(half, "MatMul")


def test_too_large_a_loss_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_precision, "TOLERANCE", 1e-7)
    with pytest.raises(
        UnsupportedError, match=r"'variable' in \d+ of 442 rows, by up to .* of its"
    ):
        soft(boosted(), precision="float16")


def test_a_model_without_gates_is_refused() -> None:
    model = onnxtune.to_onnx(LogisticRegression().fit(X, Y > 140), X)
    with pytest.raises(UnsupportedError, match="gates of soft trees"):
        soft(model, precision="float16")


@pytest.mark.parametrize(
    "options",
    [{"form": "hard", "provider": "cuda"}, {"form": "soft"}, {"form": "soft", "precision": "f16"}],
)
def test_where_it_is_not_for(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="precision"):
        onnxtune.convert(boosted(), **{"precision": "float16", **options})
