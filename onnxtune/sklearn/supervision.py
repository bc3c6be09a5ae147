"""A transformer's graph with a head on it, so that there is something to tune it toward."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.compose import add_prefix
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from onnxtune.preparation import set_opset
from onnxtune.runtime import output_types
from onnxtune.sklearn.inputs import feeds
from onnxtune.sklearn.predictor import Predictor
from onnxtune.sklearn.serving import cut_at, number_output

Array = np.ndarray[Any, Any]

# What the transformer hands to the head, and how the names in the head begin.
TRANSFORMED = "transformed"
HEAD = "head/"


class FileTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A model file in the place of a fitted transformer."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto

    def fit(self, X: Any, y: Any = None) -> FileTransformer:
        """Nothing: the model is as it came."""
        return self

    def transform(self, X: Any) -> Array:
        """[N, K] of its first output of numbers."""
        name = number_output(self.proto)
        ready = Predictor(self.proto.SerializeToString(), plain=False, finite=False)
        parts = [ready.run(feed, [name])[0] for feed in feeds(X, ready.inputs, False)]
        return np.concatenate(parts)


def marked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A transformer's model with one output, `transformed`, of single precision.

    Raises:
        UnsupportedError: it has no output of floats.
    """
    name = number_output(proto)
    kind = next(value for value in output_types(proto) if value.name == name)
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    single = onnx.TensorProto.FLOAT
    node = helper.make_node("Cast", [name], [TRANSFORMED], name=TRANSFORMED, to=single)
    found.graph.node.append(node)
    del found.graph.output[:]
    found.graph.output.append(helper.make_tensor_value_info(TRANSFORMED, single, kind.shape))
    return found


def unmarked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """What `marked` was given, up to the numbers; other models as they are."""
    for node in proto.graph.node:
        if node.name == TRANSFORMED and list(node.output) == [TRANSFORMED]:
            return cut_at(proto, node.input[0])
    return proto


def with_head(transformer: onnx.ModelProto, head: onnx.ModelProto) -> onnx.ModelProto:
    """One model of both: what `marked` returns, then a head of one input.

    The names of the head's tensors, nodes and outputs begin with `head/`.
    """
    found = onnx.ModelProto()
    found.CopyFrom(transformer)
    named = add_prefix(head, HEAD)
    entering = named.graph.input[0].name
    for node in named.graph.node:
        node.input[:] = [TRANSFORMED if name == entering else name for name in node.input]
    found.graph.node.extend(named.graph.node)
    found.graph.initializer.extend(named.graph.initializer)
    found.graph.value_info.extend(named.graph.value_info)
    del found.graph.output[:]
    found.graph.output.extend(named.graph.output)
    versions = {opset.domain: opset.version for opset in transformer.opset_import}
    for opset in head.opset_import:
        version = max(opset.version, versions.get(opset.domain, 0))
        set_opset(found, opset.domain, version)
    found.ir_version = max(found.ir_version, head.ir_version)
    return found


def head_for(transformed: Any, classes: bool) -> Any:
    """A linear model of a target of classes, or of numbers; what is missing is filled in first."""
    head = LogisticRegression(max_iter=1000) if classes else Ridge()
    values = transformed.data if sparse.issparse(transformed) else np.asarray(transformed)
    if values.dtype.kind == "f" and np.isnan(values).any():
        return make_pipeline(SimpleImputer(keep_empty_features=True), head)
    return head
