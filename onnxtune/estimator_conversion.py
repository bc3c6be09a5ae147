"""A fitted estimator goes through skl2onnx, and gets the names of its columns back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from textwrap import shorten
from typing import Any

import numpy as np
import onnx
from skl2onnx import convert_sklearn
from skl2onnx.common import data_types
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer

from onnxtune import boosting, converters
from onnxtune.errors import ModelError, OnnxTuneError, UnsupportedError
from onnxtune.estimator_rows import FLOAT, INT64, STRING
from onnxtune.members import members
from onnxtune.runtime import ValueType, one_line, output_types

# Old enough for the runtimes in use; the newer one is for converters that refuse it.
_OPSETS = ({"": 17, "ai.onnx.ml": 3}, {"": 18, "ai.onnx.ml": 3})
_DOUBLE = "tensor(double)"
_ELEMENTS = {FLOAT: "FLOAT", _DOUBLE: "DOUBLE", INT64: "INT64", STRING: "STRING"}
_TENSOR_TYPES = {
    FLOAT: data_types.FloatTensorType,
    _DOUBLE: data_types.DoubleTensorType,
    INT64: data_types.Int64TensorType,
    STRING: data_types.StringTensorType,
}


def convert(
    estimator: Any,
    inputs: list[ValueType],
    exact: converters.Digits | None = None,
    functions: Mapping[type, converters.Converter] | None = None,
) -> onnx.ModelProto:
    """The estimator as ONNX, at opset 17 where skl2onnx can.

    Args:
        estimator: a fitted estimator, whose converters are registered.
        inputs: what the model is to take.
        exact: scalers compute step by step in numbers of this type, as scikit-learn does on them.
        functions: converters in the place of skl2onnx's; those of `converters.replaced` without.

    Raises:
        UnsupportedError: a step has no converter.
    """
    own = dict(converters.replaced(exact) if functions is None else functions)
    error: Exception | None = None
    for versions in _OPSETS:
        try:
            return _finished(_converted(estimator, inputs, versions, own), inputs, versions)
        except OnnxTuneError:
            raise
        except Exception as raised:  # converters raise anything, down to KeyError
            error = error or raised
            if "opset" not in str(raised):
                break
    assert error is not None
    raise UnsupportedError(_refusal(estimator, error)) from error


def alternatives(
    estimator: Any, inputs: list[ValueType], rounded: bool
) -> Iterator[onnx.ModelProto]:
    """Further exports, for where last bits turn answers over.

    First scalers that compute step by step as scikit-learn does on float64, and on float32, then,
    where rounding the inputs to float32 changes answers (`rounded`), inputs of float64, with such
    scalers and without.
    """
    scales = converters.scales(estimator)
    if scales:
        for digits in converters.DIGITS:
            with suppress(OnnxTuneError):  # the export that there is stays
                yield convert(estimator, inputs, digits)
    floats = any(value.kind == FLOAT for value in inputs)
    if not (rounded and floats) or _has_infinite_thresholds(estimator):
        return
    double = [
        ValueType(value.name, _DOUBLE if value.kind == FLOAT else value.kind, value.shape)
        for value in inputs
    ]
    ways: tuple[converters.Digits | None, ...] = ("float64", None) if scales else (None,)
    for exact in ways:
        with suppress(OnnxTuneError, KeyError):  # few converters take doubles
            yield _redeclared(convert(estimator, double, exact))


def _redeclared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With the types that its outputs have: skl2onnx declares doubles where trees make floats."""
    for output in proto.graph.output:
        output.ClearField("type")
    for output, known in zip(proto.graph.output, output_types(proto), strict=True):
        element = onnx.TensorProto.DataType.Value(_ELEMENTS[known.kind])
        output.CopyFrom(onnx.helper.make_tensor_value_info(known.name, element, known.shape))
    return proto


def _has_infinite_thresholds(estimator: Any) -> bool:
    """Trees that met missing numbers have some, and skl2onnx 1.20 never ends on them as doubles."""
    tree = getattr(estimator, "tree_", None)
    if tree is not None:
        return not np.isfinite(tree.threshold).all()
    held = vars(estimator).values() if hasattr(estimator, "get_params") else ()
    if isinstance(estimator, list | tuple) or getattr(estimator, "dtype", None) == np.dtype(object):
        held = list(np.ravel(estimator)) if isinstance(estimator, np.ndarray) else estimator
    return any(
        _has_infinite_thresholds(value)
        for value in held
        if hasattr(value, "get_params") or isinstance(value, list | tuple | np.ndarray)
    )


def _converted(
    estimator: Any,
    inputs: list[ValueType],
    versions: dict[str, int],
    functions: dict[type, converters.Converter],
) -> onnx.ModelProto:
    types = [(value.name, _TENSOR_TYPES[value.kind](list(value.shape or ()))) for value in inputs]
    arguments: dict[str, Any] = {
        "name": type(estimator).__name__,
        "initial_types": types,
        "target_opset": versions,
        "custom_conversion_functions": functions,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            options = {"zipmap": False} if is_classifier(estimator) else None
            proto = convert_sklearn(estimator, options=options, **arguments)
        except NameError:  # classifiers that never have a ZipMap refuse the option
            proto = convert_sklearn(estimator, **arguments)
    assert isinstance(proto, onnx.ModelProto)
    return proto


def _finished(
    proto: onnx.ModelProto, inputs: list[ValueType], versions: dict[str, int]
) -> onnx.ModelProto:
    _merge_opsets(proto, versions[""])
    _rename_inputs(proto, [value.name for value in inputs])
    return proto


def _merge_opsets(proto: onnx.ModelProto, least: int) -> None:
    """One version per operator set: skl2onnx may import the default domain twice, or below 17."""
    versions = {"": least}
    for opset in proto.opset_import:
        versions[opset.domain] = max(versions.get(opset.domain, 0), opset.version)
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())


def _rename_inputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Give inputs the names of their columns, where skl2onnx made `a-b` a C identifier."""
    graph = proto.graph
    renamed = {value.name: name for value, name in zip(graph.input, names, strict=True)}
    taken = {name for node in graph.node for name in node.output}
    for name in sorted(taken.intersection(names)):  # a column called `label`, say
        free = f"{name}_output"
        while free in taken.union(names):
            free += "_"
        renamed[name] = free
    for value in (*graph.input, *graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


# What cannot be exported


def check_can_answer(estimator: Any) -> None:
    """Refuse estimators that no export can stand for.

    Raises:
        ModelError: it says nothing of new rows.
        UnsupportedError: it decides by a threshold of its own.
    """
    name = type(estimator).__name__
    if not (hasattr(estimator, "predict") or hasattr(estimator, "transform")):
        raise ModelError(
            f"{name} has neither predict nor transform: it says nothing of new rows. Pass one that "
            "does (LocalOutlierFactor with novelty=True, KMeans in the place of DBSCAN)."
        )
    if name in ("FixedThresholdClassifier", "TunedThresholdClassifierCV"):
        raise UnsupportedError(
            f"{name}: skl2onnx leaves out its threshold. Pass its estimator_, and compare the "
            "probabilities with the threshold afterwards."
        )


def _refusal(estimator: Any, error: Exception) -> str:
    """What skl2onnx has against an estimator, and what to do."""
    name, exporter = type(estimator).__name__, boosting.exporter(estimator)
    unknown = re.search(r"for type '<class '([\w.]+)'>'", str(error))
    if unknown:
        kind = unknown[1].rpartition(".")[2]
        step = "it" if kind == name else f"its step {kind}"
        if unknown[1].startswith("onnxtune.sklearn."):
            return (
                f"{name}: its step {kind} holds a tuned model of its own. Tune the whole in one, "
                f"{kind}({name}(...)) with the plain estimator as the step, and take its onnx_."
            )
        return (
            f"{name}: {exporter} cannot export {step}: there is no converter for it. Replace "
            f"{kind}, register a converter (skl2onnx.update_registered_converter), or export the "
            "model by another tool and pass the file."
        )
    advice = "Replace that step, or export the model by another tool and pass the file."
    encode = "Encode its categories in a step before it (OrdinalEncoder or OneHotEncoder)."
    if "1 input(s) is(are) supported" in str(error):
        columns = any(isinstance(member, ColumnTransformer) for member in members(estimator))
        advice = (
            encode
            if not columns
            else (
                f"Put the ColumnTransformer before it: make_pipeline(columns, {name}(...)) in the "
                f"place of {name}(make_pipeline(columns, ...))."
            )
        )
    elif "gbtree_model_param" in str(error):
        advice = "Of XGBoost only booster='gbtree' has an export: fit it with that."
    elif "must be object or string" in str(error) or "categorical" in str(error).lower():
        advice = encode
    return f"{name}: {exporter} cannot export it: {reason(error)}. {advice}"


def reason(error: BaseException) -> str:
    """An error of another package, in a few words."""
    text = one_line(error).partition(" You may raise an")[0].rstrip(". ")
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    return shorten(text, 160, placeholder=" ...")
