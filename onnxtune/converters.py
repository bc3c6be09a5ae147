"""The converters of scikit-learn's own estimators that skl2onnx lacks, or gets wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx._parse import parse_sklearn, sklearn_parsers_map
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from skl2onnx.operator_converters.grid_search_cv import convert_sklearn_grid_search_cv
from skl2onnx.operator_converters.k_bins_discretiser import convert_sklearn_k_bins_discretiser
from skl2onnx.operator_converters.random_forest import (
    convert_sklearn_random_forest_classifier,
    convert_sklearn_random_forest_regressor_converter,
)
from skl2onnx.operator_converters.voting_classifier import convert_voting_classifier
from skl2onnx.shape_calculators.grid_search_cv import (
    convert_sklearn_grid_search_cv as shape_of_search,
)
from sklearn.base import is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from onnxtune import pipeline_steps
from onnxtune.converted_operators import standing_in
from onnxtune.errors import UnsupportedError
from onnxtune.members import members
from onnxtune.tree_container import TreeContainer

Converter = Callable[[Any, Any, Any], None]
Digits = Literal["float32", "float64"]

# The inverse of a target's function -> operators for it; a number is the second input.
_INVERSES: dict[Any, tuple[tuple[str, float | None], ...]] = {
    None: (("Identity", None),),
    np.exp: (("Exp", None),),
    np.expm1: (("Exp", None), ("Sub", 1.0)),
    np.exp2: (("Mul", float(np.log(2))), ("Exp", None)),
    np.sinh: (("Sinh", None),),
    np.square: (("Pow", 2.0),),
}


def register(estimator: Any) -> None:
    """Make skl2onnx know searches other than GridSearchCV, transformed targets and idle steps."""
    pipeline_steps.register()
    for member in members(estimator):
        kind = type(member)
        if hasattr(member, "best_estimator_") and kind not in sklearn_parsers_map:
            update_registered_converter(
                kind,
                f"Onnxtune{kind.__name__}",
                shape_of_search,
                convert_sklearn_grid_search_cv,
                parser=sklearn_parsers_map[GridSearchCV],
                options="passthrough",
            )
    update_registered_converter(
        TransformedTargetRegressor,
        "OnnxtuneTransformedTarget",
        _shape_of_target,
        _convert_target,
        overwrite=True,
        parser=_parse_target,
    )


def replaced(exact: Digits | None) -> Mapping[type, Converter]:
    """Converters in the place of skl2onnx's, for `convert_sklearn(custom_conversion_functions)`.

    Args:
        exact: scalers compute step by step as scikit-learn does on numbers of this type, and give
            floats; None leaves them to skl2onnx, which multiplies where they divide.
    """
    if exact is None:
        return _REPLACED
    return _REPLACED | dict.fromkeys(_SCALERS, partial(_convert_scaler, DIGITS[exact]))


def scales(estimator: Any) -> bool:
    """Whether `exact` makes a difference."""
    return any(type(member) in _SCALERS for member in members(estimator))


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
    convert(scope, operator, TreeContainer(container, operator))


def _with(settings: dict[str, Any], convert: Converter) -> Converter:
    """A converter that sees the estimator with other settings, which its answers do not need."""

    def converter(scope: Any, operator: Any, container: Any) -> None:
        fitted = operator.raw_operator
        changed = {
            name: value for name, (old, value) in settings.items() if getattr(fitted, name) == old
        }
        with standing_in(operator, copy.copy(fitted).set_params(**changed)):
            convert(scope, operator, container)

    return converter


# Scalers step by step


def _constant(scope: Any, container: Any, name: str, value: Any, kind: int) -> str:
    array = np.atleast_1d(np.asarray(value, np.float64))
    unique: str = scope.get_unique_variable_name(name)
    container.add_initializer(unique, kind, list(array.shape), array.tolist())
    return unique


def _convert_scaler(kind: int, scope: Any, operator: Any, container: Any) -> None:
    fitted = operator.raw_operator
    parts = []
    for given in operator.inputs:
        parts.append(given.full_name)
        if not isinstance(given.type, _TENSORS[kind]):
            parts[-1] = scope.get_unique_variable_name("number")
            _node(scope, container, "Cast", [given.full_name], parts[-1], to=kind)
    value = parts[0]
    if len(parts) > 1:
        value = scope.get_unique_variable_name("together")
        _node(scope, container, "Concat", parts, value, axis=1)
    for step, name, array in _arithmetic(fitted):
        if array is None:
            continue
        held = _constant(scope, container, name, array, kind)
        following = scope.get_unique_variable_name(name)
        _node(scope, container, step, [value, held], following)
        value = following
    if getattr(fitted, "clip", False):
        low, high = (
            _constant(scope, container, "limit", limit, kind)
            for limit in getattr(fitted, "feature_range", (-1, 1))  # MaxAbsScaler has no other
        )
        for step, held in (("Max", low), ("Min", high)):
            following = scope.get_unique_variable_name("clipped")
            _node(scope, container, step, [value, held], following)
            value = following
    made = operator.outputs[0]
    made.type = FloatTensorType(made.type.shape)  # what follows reads floats, as in scikit-learn
    if kind == TensorProto.FLOAT:
        _node(scope, container, "Identity", [value], made.full_name)
    else:
        _node(scope, container, "Cast", [value], made.full_name, to=TensorProto.FLOAT)


def _arithmetic(fitted: Any) -> list[tuple[str, str, Any]]:
    """Operators in scikit-learn's order, with their constants; None for what is left out."""
    if isinstance(fitted, MinMaxScaler):
        return [("Mul", "scale", fitted.scale_), ("Add", "offset", fitted.min_)]
    centre = getattr(fitted, "mean_" if isinstance(fitted, StandardScaler) else "center_", None)
    return [
        ("Sub", "mean", centre if getattr(fitted, "with_mean", True) else None),
        ("Div", "scale", fitted.scale_),
    ]


def _node(
    scope: Any, container: Any, kind: str, inputs: list[str], output: str, **attributes: Any
) -> None:
    container.add_node(
        kind,
        inputs,
        [output],
        name=scope.get_unique_operator_name(kind),
        op_version=13,
        **attributes,
    )


# Transformed targets


def _parse_target(scope: Any, model: Any, inputs: list[Any], custom_parsers: Any = None) -> Any:
    inner = parse_sklearn(scope, model.regressor_, inputs, custom_parsers=custom_parsers)
    operator = scope.declare_local_operator("OnnxtuneTransformedTarget", model)
    for value in inner:
        value.init_status(is_leaf=False)  # no output of the model
        operator.inputs.append(value)
    operator.outputs.append(scope.declare_local_variable("variable", FloatTensorType()))
    return list(operator.outputs)


def _shape_of_target(operator: Any) -> None:
    operator.outputs[0].type = FloatTensorType(operator.inputs[0].type.shape)


def _convert_target(scope: Any, operator: Any, container: Any) -> None:
    value = operator.inputs[0].full_name
    steps = _inverse(operator.raw_operator)
    for number, (kind, constant) in enumerate(steps, 1):
        inputs = [value]
        if constant is not None:
            inputs.append(_constant(scope, container, "target", constant, TensorProto.FLOAT))
        value = scope.get_unique_variable_name("target")
        if number == len(steps):
            value = operator.outputs[0].full_name
        _node(scope, container, kind, inputs, value)


def _inverse(model: Any) -> list[tuple[str, Any]]:
    """Operators from what the regressor says to the target."""
    transformer = model.transformer_
    if isinstance(transformer, FunctionTransformer):
        if transformer.inverse_func in _INVERSES:
            return list(_INVERSES[transformer.inverse_func])
        called = getattr(transformer.inverse_func, "__name__", "a function")
        known = ", ".join(f"np.{key.__name__}" for key in _INVERSES if key is not None)
        raise UnsupportedError(
            f"{type(model).__name__}: its inverse_func {called} has no ONNX form; use one of "
            f"{known}, or fit the regressor itself and give tune its target_transform."
        )
    width = int(getattr(transformer, "n_features_in_", 1))
    probes = np.array([0.0, 1.0, 2.0, -3.0])[:, None] * np.ones((1, width))
    found = np.asarray(transformer.inverse_transform(probes))
    slope, start = found[1] - found[0], found[0]
    if not np.allclose(found, start + probes * slope):
        raise UnsupportedError(
            f"{type(model).__name__}: the inverse of its {type(transformer).__name__} has no ONNX "
            "form; use a scaler, or func=np.log1p with inverse_func=np.expm1."
        )
    return [("Mul", slope), ("Add", start)]


_REPLACED: dict[type, Converter] = {
    HistGradientBoostingClassifier: _convert_histogram,
    HistGradientBoostingRegressor: _convert_histogram,
    # What transform returns; skl2onnx asks for it though it only exports predict_proba.
    VotingClassifier: _with({"flatten_transform": (True, False)}, convert_voting_classifier),
    KBinsDiscretizer: _with(
        {"encode": ("onehot", "onehot-dense")}, convert_sklearn_k_bins_discretiser
    ),
    Pipeline: pipeline_steps.convert_pipeline,
}
_SCALERS = (StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler)
_TENSORS: dict[int, type] = {
    TensorProto.FLOAT: FloatTensorType,
    TensorProto.DOUBLE: DoubleTensorType,
}
DIGITS: dict[Digits, int] = {"float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT}
