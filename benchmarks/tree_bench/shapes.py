"""The fitted ensembles that the tree benchmark measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightgbm
import onnx
import onnxmltools
import skl2onnx
from onnxmltools.convert.common.data_types import FloatTensorType as BoostingFloats
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import IsolationForest, RandomForestRegressor

from tree_bench.ensembles import FEATURES, OPSETS, Array, rows


@dataclass(frozen=True)
class Shape:
    """A fitted ensemble, its export, and how its own library predicts."""

    name: str
    estimator: Any
    proto: onnx.ModelProto
    library: str
    predict: Callable[[Array], Any]
    method: str  # of the estimator, which Hummingbird's container has, too
    output: str  # the float output

    @property
    def plain(self) -> bool:
        """Whether the graph is a single ensemble and nothing else."""
        kinds = [node.op_type for node in self.proto.graph.node if node.op_type != "Identity"]
        return kinds == ["TreeEnsembleRegressor"]


def boosted(trees: int, depth: int, count: int, threads: int) -> Shape:
    """LightGBM of nearly perfect trees: a large penalty makes splits that even out the rows."""
    X, y = rows(count)
    estimator = lightgbm.LGBMRegressor(
        n_estimators=trees, num_leaves=2**depth, max_depth=depth, min_child_samples=2,
        reg_lambda=count / 40, random_state=0, n_jobs=threads, verbose=-1,
    ).fit(X, y)  # fmt: skip
    proto = onnxmltools.convert_lightgbm(
        estimator, initial_types=[("X", BoostingFloats([None, FEATURES]))], target_opset=15
    )
    booster = estimator.booster_
    return Shape(
        f"LightGBM, {trees} x depth {depth}",
        estimator,
        proto,
        "LightGBM",
        lambda batch: booster.predict(batch, num_threads=threads),
        "predict",
        proto.graph.output[0].name,
    )


def forest(trees: int, count: int, threads: int) -> Shape:
    """A random forest of default settings: trees of unlimited depth."""
    X, y = rows(count)
    estimator = RandomForestRegressor(trees, random_state=0, n_jobs=-1).fit(X, y)
    estimator.set_params(n_jobs=threads)
    proto = _exported(estimator)
    name = f"RandomForest, {trees} on {count:,} rows"
    output = proto.graph.output[0].name
    return Shape(name, estimator, proto, "scikit-learn", estimator.predict, "predict", output)


def isolation(trees: int, count: int, threads: int) -> Shape:
    """An isolation forest of default settings; what is compared is the decision function."""
    X, _ = rows(count)
    estimator = IsolationForest(n_estimators=trees, random_state=0, n_jobs=threads).fit(X)
    proto = _exported(estimator)
    return Shape(
        f"IsolationForest, {trees} trees",
        estimator,
        proto,
        "scikit-learn",
        estimator.decision_function,
        "decision_function",
        "scores",
    )


def _exported(estimator: Any) -> onnx.ModelProto:
    inputs = [("X", FloatTensorType([None, FEATURES]))]
    proto = skl2onnx.convert_sklearn(estimator, initial_types=inputs, target_opset=OPSETS)
    assert isinstance(proto, onnx.ModelProto)
    return proto
