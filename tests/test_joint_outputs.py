"""Several outputs tuned at once: the weighted sum of their losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

import onnxtune
from onnxtune.errors import ArgumentError, DataError
from onnxtune.runtime import run

TWO_HEADS = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
g (float[N, 3] x) => (float[N, 1] size, string[N] kind, float[N, 2] shares) {
    [scaler] scaled = ai.onnx.ml.Scaler <offset = [0.5, 0.0, -0.5], scale = [1.0, 2.0, 0.5]> (x)
    [size] size = ai.onnx.ml.LinearRegressor <coefficients = [0.5, -0.25, 0.1],
        intercepts = [0.1]> (scaled)
    [kinds] kind, shares = ai.onnx.ml.LinearClassifier <classlabels_strings = ["a", "b"],
        coefficients = [-0.5, 0.2, -0.1, 0.5, -0.2, 0.1], intercepts = [0.1, -0.1],
        post_transform = "LOGISTIC"> (scaled)
}"""


def data(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    score = x[:, 0] - 2 * x[:, 2] + rng.normal(size=rows) / 2
    return x, {"size": 2 * x[:, 1] + x[:, 0], "shares": np.where(score > 0, "b", "a")}


def losses(model: onnx.ModelProto) -> tuple[float, float]:
    """The squared and the log loss on other rows."""
    x, y = data(seed=1)
    found = run(model, {"x": x}, ["size", "shares"])
    right = np.where(y["shares"] == "b", found["shares"][:, 1], found["shares"][:, 0])
    return float(np.square(found["size"][:, 0] - y["size"]).mean()), float(-np.log(right).mean())


def test_both_get_better_and_what_was_added_is_gone() -> None:
    model = onnx.parser.parse_model(TWO_HEADS)
    x, y = data()
    result = onnxtune.tune(model, x, y, output=["size", "shares"], valid=data(seed=2), epochs=20)
    assert result.accepted
    assert result.report["loss"] == "1 squared of size + 1 log of shares"
    for form in ("native", "hard"):
        tuned = result.model(form)  # type: ignore[arg-type]
        onnx.checker.check_model(tuned)
        assert [o.name for o in tuned.graph.output] == ["size", "kind", "shares"]
        assert not any(node.name.startswith("joint") for node in tuned.graph.node)
        for before, after in zip(losses(model), losses(tuned), strict=True):
            assert after < before
    assert [n.op_type for n in result.model().graph.node] == [n.op_type for n in model.graph.node]
    assert result.continue_(x, y).report["loss"] == result.report["loss"]


def test_the_verdict_is_on_the_weighted_sum() -> None:
    model = onnx.parser.parse_model(TWO_HEADS)
    x, y = data()
    result = onnxtune.tune(
        model, x, y, output=("size", "shares"), loss={"size": "absolute"},
        output_weight={"shares": 3.0}, valid=data(seed=1), epochs=1,
    )  # fmt: skip
    held, target = data(seed=1)
    found = run(model, {"x": held}, ["size", "shares"])
    right = np.where(target["shares"] == "b", found["shares"][:, 1], found["shares"][:, 0])
    smallest = 1e-3  # as the log loss of probabilities has it
    log = -np.log((right + smallest) / (1 + 2 * smallest))
    expected = np.abs(found["size"][:, 0] - target["size"]).mean() + 3 * log.mean()
    assert result.report["candidates"][0]["before"] == pytest.approx(expected, rel=1e-4)
    assert result.report["loss"] == "1 absolute of size + 3 log of shares"


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ArgumentError, "no float output", {"output": ["size", "kind"]}),
        (ArgumentError, "several different", {"output": ["size", "size"]}),
        (ArgumentError, "several different", {"output": ["size"]}),
        (ArgumentError, "loss: 'kind' is none", {"loss": {"kind": "log"}}),
        (ArgumentError, "output_weight: 'kind' is none", {"output_weight": {"kind": 1}}),
        (ArgumentError, "above 0", {"output_weight": {"size": 0}}),
        (ArgumentError, "for one output", {"max_size": 0.5}),
        (ArgumentError, "for one output", {"companion": True}),
        (ArgumentError, "y must be a mapping", {"y": [1.0] * 400}),
        (ArgumentError, "y must be a mapping", {"y": {"size": [1.0] * 400}}),
        (DataError, "other numbers of rows", {"y": {"size": [1.0] * 9, "shares": ["a"] * 400}}),
        (DataError, "does not know", {"y": {"size": [1.0] * 400, "shares": ["c"] * 400}}),
        (ArgumentError, "are for several outputs", {"output": "size", "loss": {"size": "log"}}),
    ],
)
def test_what_does_not_fit(error: type[Exception], message: str, arguments: Any) -> None:
    x, y = data()
    given = {"y": y, "output": ["size", "shares"]} | arguments
    with pytest.raises(error, match=message):
        onnxtune.tune(onnx.parser.parse_model(TWO_HEADS), x, **given)


def test_columns_beside_the_rows() -> None:
    x, y = data()
    table = pd.DataFrame(x, columns=["p", "q", "r"]).assign(w=1.0, g=np.arange(400) % 7)
    model = onnx.parser.parse_model(TWO_HEADS)
    result = onnxtune.tune(
        model, table, y, output=["size", "shares"], valid="g", sample_weight="w", epochs=1
    )
    assert result.report["folds"] == 5
    held = data(seed=2)
    listed = onnxtune.tune(model, x, y, output=["size", "shares"], valid=list(held), epochs=1)
    assert listed.report["validation_rows"] == 400
