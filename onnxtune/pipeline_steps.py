"""Steps of pipelines that skl2onnx stumbles over: those that do nothing, and LinearSVC."""

from __future__ import annotations

import copy
from typing import Any

from skl2onnx._parse import (
    _parse_sklearn_feature_union,
    _parse_sklearn_pipeline,
    update_registered_parser,
)
from skl2onnx._supported_operators import sklearn_operator_name_map
from skl2onnx.common._registration import get_converter, register_converter
from skl2onnx.operator_converters.pipelines import convert_pipeline as convert_acting
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from onnxtune.converted_operators import standing_in


def register() -> None:
    """Make skl2onnx pass over steps that are "passthrough", None or "drop".

    LinearSVC never has a ZipMap; as the last step of a pipeline it is told so all the same, and
    refuses what it does not know.
    """
    update_registered_parser(Pipeline, _parse_pipeline)
    update_registered_parser(FeatureUnion, _parse_union)
    name = sklearn_operator_name_map[LinearSVC]
    known = get_converter(name)
    options = {**known.get_allowed_options(), "zipmap": [True, False]}
    register_converter(name, known._fct, overwrite=True, options=options)


def convert_pipeline(scope: Any, operator: Any, container: Any) -> None:
    """The converter of a pipeline inside an ensemble, without its idle steps."""
    with standing_in(operator, _acting(operator.raw_operator)):
        convert_acting(scope, operator, container)


def _parse_pipeline(
    scope: Any, model: Any, inputs: list[Any], custom_parsers: Any = None
) -> list[Any]:
    acting = _acting(model)
    options = (scope.options or {}).get(id(model))
    if acting is model or options is None:
        return list(_parse_sklearn_pipeline(scope, acting, inputs, custom_parsers))
    # Options are told by the identity of the pipeline, which another object may have later.
    scope.add_options(id(acting), options)
    try:
        return list(_parse_sklearn_pipeline(scope, acting, inputs, custom_parsers))
    finally:
        del scope.options[id(acting)]


def _parse_union(
    scope: Any, model: Any, inputs: list[Any], custom_parsers: Any = None
) -> list[Any]:
    acting = copy.copy(model)
    acting.transformer_list = [pair for pair in model.transformer_list if pair[1] != "drop"]
    return list(_parse_sklearn_feature_union(scope, acting, inputs, custom_parsers))


def _acting(pipeline: Any) -> Any:
    """A pipeline of the steps that do something; the same where all do."""
    steps = [pair for pair in pipeline.steps if pair[1] is not None and pair[1] != "passthrough"]
    if len(steps) == len(pipeline.steps):
        return pipeline
    acting = copy.copy(pipeline)
    acting.steps = steps or [("as_it_is", FunctionTransformer())]
    return acting
