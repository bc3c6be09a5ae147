"""Models as ML.NET exports them: an input for each column, and a copy of every column as output."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune.conversion import convert
from onnxtune.runtime import run
from onnxtune.torch_module import to_torch
from onnxtune.tuning import tune
from onnxtune.verification import verify

RNG = np.random.default_rng(11)
COUNT = 400
AGE = RNG.uniform(18, 80, (COUNT, 1)).astype(np.float32)
FARE = RNG.gamma(2.0, 10.0, (COUNT, 1)).astype(np.float32)
TOWN = RNG.choice(["A", "B", "C"], (COUNT, 1)).astype(object)
NUMBERS = {"Age": AGE, "Fare": FARE}
TREND = (0.04 * (AGE - 45) + 0.03 * (FARE - 20))[:, 0]

COPIES = """
    Age_output = Identity (Age)
    Fare_output = Identity (Fare)
"""
# Two stumps on age, one of them below a fare.
TREES = """ai.onnx.ml.TreeEnsembleRegressor <n_targets = 1, aggregate_function = "SUM",
    post_transform = "NONE",
    nodes_treeids = [0, 0, 0, 1, 1, 1, 1, 1], nodes_nodeids = [0, 1, 2, 0, 1, 2, 3, 4],
    nodes_featureids = [0, 0, 0, 1, 0, 0, 0, 0],
    nodes_values = [40.5, 0.0, 0.0, 20.0, 50.5, 0.0, 0.0, 0.0],
    nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF",
                   "LEAF"],
    nodes_truenodeids = [1, 0, 0, 1, 3, 0, 0, 0], nodes_falsenodeids = [2, 0, 0, 2, 4, 0, 0, 0],
    nodes_hitrates = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    nodes_missing_value_tracks_true = [0, 0, 0, 0, 0, 0, 0, 0],
    target_treeids = [0, 0, 1, 1, 1], target_nodeids = [1, 2, 2, 3, 4],
    target_ids = [0, 0, 0, 0, 0], target_weights = [-0.8, 0.7, 0.6, -0.5, 0.25]>"""


def parse(inputs: str, outputs: str, body: str) -> onnx.ModelProto:
    """A model with names as ML.NET gives them: a dot stands before `output`."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 6, opset_import: ["" : 12, "ai.onnx.ml" : 2], producer_name: "ML.NET">
        model ({inputs}) => ({outputs}) {{ {body} }}"""
    )

    def dotted(name: str) -> str:
        return name.removesuffix("_output") + ".output" if name.endswith("_output") else name

    for node in model.graph.node:
        node.input[:] = map(dotted, node.input)
        node.output[:] = map(dotted, node.output)
    for value in model.graph.output:
        value.name = dotted(value.name)
    return model


def binary() -> onnx.ModelProto:
    """FastTree with Platt's calibrator."""
    return parse(
        "float[N, 1] Age, float[N, 1] Fare",
        "float[N, 1] Age_output, float[N, 1] Fare_output, bool[N, 1] PredictedLabel_output, "
        "float[N, 1] Score_output, float[N, 1] Probability_output",
        f"""
        {COPIES}
        Features = Concat <axis = 1> (Age, Fare)
        Score = {TREES} (Features)
        slope = Constant <value = float[1] {{1.25}}> ()
        offset = Constant <value = float[1] {{-0.125}}> ()
        scaled = Mul (Score, slope)
        shifted = Add (scaled, offset)
        Probability = Sigmoid (shifted)
        zero = Constant <value = float[1] {{0.0}}> ()
        PredictedLabel = Greater (Score, zero)
        PredictedLabel_output = Identity (PredictedLabel)
        Score_output = Identity (Score)
        Probability_output = Identity (Probability)
        """,
    )


def classes() -> onnx.ModelProto:
    """One against all over a category and numbers: encoded labels, scores that sum to one."""
    return parse(
        "float[N, 1] Age, string[N, 1] Town",
        "float[N, 1] Age_output, int64[N, 1] PredictedLabel_output, float[N, 3] Score_output",
        """
        Age_output = Identity (Age)
        code = ai.onnx.ml.LabelEncoder <keys_strings = ["A", "B", "C"], values_int64s = [0, 1, 2],
            default_int64 = -1> (Town)
        hot3 = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1, 2]> (code)
        flat = Constant <value = int64[2] {-1, 3}> ()
        hot = Reshape (hot3, flat)
        mean = Constant <value = float[1] {45.0}> ()
        size = Constant <value = float[1] {0.05}> ()
        centred = Sub (Age, mean)
        normal = Mul (centred, size)
        Features = Concat <axis = 1> (normal, hot)
        one = ai.onnx.ml.LinearRegressor <coefficients = [0.5, 1.0, -1.0, 0.25],
            intercepts = [0.1]> (Features)
        two = ai.onnx.ml.LinearRegressor <coefficients = [-0.5, -1.0, 0.5, 0.25],
            intercepts = [-0.1]> (Features)
        three = ai.onnx.ml.LinearRegressor <coefficients = [0.05, 0.1, 0.5, -0.5],
            intercepts = [0.3]> (Features)
        p1 = Sigmoid (one)
        p2 = Sigmoid (two)
        p3 = Sigmoid (three)
        raw = Concat <axis = 1> (p1, p2, p3)
        total = ReduceSum <axes = [1], keepdims = 1> (raw)
        Score = Div (raw, total)
        PredictedLabel = ArgMax <axis = 1, keepdims = 1> (Score)
        PredictedLabel_output = Identity (PredictedLabel)
        Score_output = Identity (Score)
        """,
    )


def regression() -> onnx.ModelProto:
    """Missing numbers are filled in column by column, then scaled; SDCA's linear model."""
    return parse(
        "float[N, 1] Age, float[N, 1] Fare",
        "float[N, 1] Age_output, float[N, 1] Fare_output, float[N, 2] Features_output, "
        "float[N, 1] Score_output",
        f"""
        {COPIES}
        age = ai.onnx.ml.Imputer <imputed_value_floats = [45.0], replaced_value_float = nan> (Age)
        fare = ai.onnx.ml.Imputer <imputed_value_floats = [20.0], replaced_value_float = nan> (Fare)
        raw = ai.onnx.ml.FeatureVectorizer <inputdimensions = [1, 1]> (age, fare)
        means = Constant <value = float[2] {{45.0, 20.0}}> ()
        sizes = Constant <value = float[2] {{0.05, 0.1}}> ()
        centred = Sub (raw, means)
        Features = Mul (centred, sizes)
        Features_output = Identity (Features)
        weights = Constant <value = float[2, 1] {{0.5, 0.25}}> ()
        bias = Constant <value = float[1] {{0.1}}> ()
        product = MatMul (Features, weights)
        Score = Add (product, bias)
        Score_output = Identity (Score)
        """,
    )


def missing() -> dict[str, np.ndarray]:
    age = AGE.copy()
    age[::7] = np.nan
    return {"Age": age, "Fare": FARE}


EVERY = pytest.mark.parametrize(
    ("model", "feed", "tensors"),
    [
        (binary(), NUMBERS, {"thresholds", "leaf_values"}),
        (classes(), {"Age": AGE, "Town": TOWN}, {"coefficients", "intercepts"}),
        (regression(), missing(), {"weights", "means", "sizes"}),
    ],
    ids=["binary", "classes", "regression"],
)


@EVERY
def test_it_is_converted(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], tensors: set[str]
) -> None:
    hard = convert(model, form="hard")
    assert verify(model, hard, feed).agrees
    assert [value.name for value in hard.graph.output] == [v.name for v in model.graph.output]
    assert not any(node.op_type.startswith("TreeEnsemble") for node in hard.graph.node)


@EVERY
def test_it_is_computed_in_torch(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], tensors: set[str]
) -> None:
    module = to_torch(model, "hard")
    assert tensors <= {name.rsplit("/", 1)[-1] for name in module.tensors()}
    found, expected = module.predict(feed), run(model, feed)
    assert "Score.output" in found
    for name, value in found.items():
        np.testing.assert_allclose(value.detach().numpy(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "feed", "target", "output"),
    [
        (binary(), NUMBERS, TREND > 0, "Probability.output"),
        (classes(), {"Age": AGE, "Town": TOWN}, (TREND > 0) + (TOWN[:, 0] == "C"), "Score.output"),
        (regression(), NUMBERS, TREND, "Score.output"),
    ],
    ids=["binary", "classes", "regression"],
)
def test_it_is_tuned(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], target: np.ndarray, output: str
) -> None:
    result = tune(model, feed, target.astype(np.int64) if target.dtype != TREND.dtype else target,
                  output=output, epochs=5, valid=0.3)  # fmt: skip
    assert result.accepted
    native = result.model("native")
    assert [value.name for value in native.graph.output] == [v.name for v in model.graph.output]
    before, after = (run(m, feed)[output] for m in (model, native))
    assert after.shape == before.shape and not np.allclose(before, after)
