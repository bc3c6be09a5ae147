"""The converters of the boosting libraries, which skl2onnx lacks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from onnxtune.converted_operators import standing_in
from onnxtune.errors import MissingDependencyError, UnsupportedError
from onnxtune.members import members
from onnxtune.tree_container import TreeContainer

Converter = Callable[[Any, Any, Any], None]

_EXPORTERS = {
    "lightgbm": "onnxmltools",
    "xgboost": "onnxmltools",
    "catboost": "CatBoost's own export",
}
# As the text of a booster has them.
_WRONG_SETTINGS = (
    "boosting: rf",
    "linear_tree: 1",
    "zero_as_missing: 1",
    "objective: multiclassova",
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


def check_settings(estimator: Any) -> None:
    """Refuse settings of LightGBM whose export is wrong, for where no rows can show it.

    Raises:
        UnsupportedError: with the setting.
    """
    for member in members(estimator):
        booster = getattr(member, "booster_", None) if _fitted_lightgbm(member) else None
        if booster is None:
            continue
        text = booster.model_to_string(num_iteration=1)
        for setting in _WRONG_SETTINGS:
            if f"[{setting}]" in text:
                raise UnsupportedError(
                    f"{type(member).__name__}: onnxmltools exports {setting.replace(': ', '=')} "
                    "wrong. Fit it without; or give sample=X, rows to compare the export on, if "
                    "you know that they are not concerned."
                )


def _fitted_lightgbm(member: Any) -> bool:
    of_lightgbm = type(member).__module__.partition(".")[0] == "lightgbm"
    return of_lightgbm and getattr(member, "fitted_", False)


def _libraries(estimator: Any) -> set[str]:
    return {type(member).__module__.partition(".")[0] for member in members(estimator)} & set(
        _EXPORTERS
    )


@cache
def _register(library: str) -> None:
    if library == "lightgbm":
        from lightgbm import LGBMClassifier, LGBMRanker, LGBMRegressor
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        convert = _with_doubles(convert_lightgbm)
        kinds = [LGBMClassifier, LGBMRegressor, LGBMRanker]
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


def _with_doubles(convert: Converter) -> Converter:
    """A converter of trees that keeps the digits of doubles."""
    return lambda scope, operator, container: convert(
        scope, operator, TreeContainer(container, operator)
    )


def _convert_xgboost(scope: Any, operator: Any, container: Any) -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    nameless = copy.deepcopy(operator.raw_operator)
    nameless.get_booster().feature_names = None  # onnxmltools reads no names but f0, f1, ...
    with standing_in(operator, nameless):
        convert_xgboost(scope, operator, container)


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
