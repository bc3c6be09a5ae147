"""A fitted pipeline becomes ONNX again, and it is noted which step each node comes of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from skl2onnx._supported_operators import sklearn_operator_name_map
from skl2onnx.common._registration import get_converter

from onnxtune import converters
from onnxtune.estimator_conversion import convert
from onnxtune.runtime import ValueType


@dataclass(frozen=True)
class StepExport:
    """A model, and the step of the pipeline that each node comes of, by the node's name."""

    proto: onnx.ModelProto
    owners: dict[str, Any]


def export_steps(
    estimator: Any, inputs: Sequence[ValueType], exact: converters.Digits | None
) -> StepExport:
    """Export a fitted estimator whose converters are registered.

    Args:
        estimator: the pipeline.
        inputs: what the model is to take.
        exact: scalers compute step by step in numbers of this type, as scikit-learn does on them.

    Raises:
        UnsupportedError: a step has no converter.
    """
    owners: dict[str, Any] = {}
    instead = converters.replaced(exact)

    def noted(scope: Any, operator: Any, container: Any) -> None:
        step, made = operator.raw_operator, len(container.nodes)
        own = instead.get(type(step)) or get_converter(operator.type)
        own(scope, operator, container)
        owners.update((node.name, step) for node in container.nodes[made:])

    kinds = {kind for kind in sklearn_operator_name_map if isinstance(kind, type)}
    functions = dict.fromkeys(kinds | set(instead), noted)
    return StepExport(convert(estimator, list(inputs), functions=functions), owners)
