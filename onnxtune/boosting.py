"""The converters that skl2onnx lacks, or gets wrong: all of them for boosted trees."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from skl2onnx.operator_converters.random_forest import (
    convert_sklearn_random_forest_classifier,
    convert_sklearn_random_forest_regressor_converter,
)
from sklearn.base import is_classifier
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from onnxtune.errors import MissingDependencyError, UnsupportedError

_EXPORTERS = {
    "lightgbm": "onnxmltools",
    "xgboost": "onnxmltools",
    "catboost": "CatBoost's own export",
}


def members(estimator: Any) -> Iterator[Any]:
    """The estimator and every estimator among its parameters, however deep."""
    yield estimator
    if hasattr(estimator, "get_params"):
        yield from (
            value
            for value in estimator.get_params(deep=True).values()
            if hasattr(value, "get_params")
        )


def exporter(estimator: Any) -> str:
    """The packages that export this estimator, for messages."""
    return " with ".join(
        ["skl2onnx", *sorted({_EXPORTERS[name] for name in _libraries(estimator)})]
    )


def register(estimator: Any) -> None:
    """Make skl2onnx know the converters of the boosting libraries that the estimator needs.

    Raises:
        MissingDependencyError: their package is not installed.
    """
    for library in sorted(_libraries(estimator)):
        try:
            _register(library)
        except ImportError:
            raise MissingDependencyError(
                f"{type(estimator).__name__}: exporting {library} needs onnxmltools: "
                "pip install 'onnxtune[boosting]'."
            ) from None


def _libraries(estimator: Any) -> set[str]:
    return {type(member).__module__.partition(".")[0] for member in members(estimator)} & set(
        _EXPORTERS
    )


@cache
def _register(library: str) -> None:
    if library == "lightgbm":
        from lightgbm import LGBMClassifier, LGBMRanker, LGBMRegressor
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        convert, kinds = convert_lightgbm, [LGBMClassifier, LGBMRegressor, LGBMRanker]
    elif library == "xgboost":
        import onnxmltools  # noqa: F401  (fails here rather than in the middle of a conversion)
        from xgboost import XGBClassifier, XGBRegressor, XGBRFClassifier, XGBRFRegressor

        convert = _convert_xgboost
        kinds = [XGBClassifier, XGBRegressor, XGBRFClassifier, XGBRFRegressor]
    else:
        from catboost import CatBoostClassifier, CatBoostRegressor

        convert, kinds = _convert_catboost, [CatBoostClassifier, CatBoostRegressor]
    for kind in kinds:
        if kind.__name__.endswith("Classifier"):
            shapes = calculate_linear_classifier_output_shapes
            options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
        else:
            shapes, options = calculate_linear_regressor_output_shapes, None
        # skl2onnx's parser gives two outputs to subclasses of ClassifierMixin only.
        parser = _parse_catboost_classifier if kind.__name__ == "CatBoostClassifier" else None
        update_registered_converter(
            kind, kind.__name__, shapes, convert, options=options, parser=parser
        )


def _convert_xgboost(scope: Any, operator: Any, container: Any) -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    fitted = operator.raw_operator
    nameless = copy.deepcopy(fitted)
    nameless.get_booster().feature_names = None  # onnxmltools reads no names but f0, f1, ...
    operator.raw_operator = nameless
    try:
        convert_xgboost(scope, operator, container)
    finally:
        operator.raw_operator = fitted


def _parse_catboost_classifier(
    scope: Any, model: Any, inputs: list[Any], custom_parsers: Any = None
) -> list[Any]:
    operator = scope.declare_local_operator(type(model).__name__, model)
    operator.inputs = inputs
    for name in ("label", "probabilities"):  # their true types follow from the shapes
        operator.outputs.append(scope.declare_local_variable(name, FloatTensorType()))
    return list(operator.outputs)


def _convert_catboost(scope: Any, operator: Any, container: Any) -> None:
    from catboost.utils import convert_to_onnx_object

    trees = convert_to_onnx_object(operator.raw_operator).graph.node[0]  # a ZipMap may follow
    container.add_node(
        trees.op_type,
        operator.input_full_names,
        operator.output_full_names,
        op_domain="ai.onnx.ml",
        op_version=1,
        name=scope.get_unique_operator_name(trees.op_type),
        **{item.name: onnx.helper.get_attribute_value(item) for item in trees.attribute},
    )


class _PlainIntegers:
    """A skl2onnx container that hands on Python integers: onnx 1.20 and later refuse booleans."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *arguments: Any, **attributes: Any) -> None:
        integers = (int, np.integer, np.bool_)
        for name, value in attributes.items():
            if isinstance(value, list) and all(isinstance(item, integers) for item in value):
                attributes[name] = [int(item) for item in value]
        self._container.add_node(*arguments, **attributes)


def _convert_histogram(scope: Any, operator: Any, container: Any) -> None:
    fitted = operator.raw_operator
    name = type(fitted).__name__
    # skl2onnx exports both without a word, and wrong.
    if getattr(fitted, "is_categorical_", None) is not None:
        raise UnsupportedError(
            f"{name}: skl2onnx cannot export categorical_features. Encode the categories in a "
            "step before it."
        )
    if fitted.loss in ("poisson", "gamma"):
        raise UnsupportedError(
            f"{name}: skl2onnx leaves out the exponential of loss={fitted.loss!r}. Use LightGBM or "
            "XGBoost for this loss."
        )
    convert = (
        convert_sklearn_random_forest_classifier
        if is_classifier(fitted)
        else convert_sklearn_random_forest_regressor_converter
    )
    convert(scope, operator, _PlainIntegers(container))


# In place of skl2onnx's own, for `convert_sklearn(custom_conversion_functions=...)`.
REPLACED_CONVERTERS = {
    HistGradientBoostingClassifier: _convert_histogram,
    HistGradientBoostingRegressor: _convert_histogram,
}
