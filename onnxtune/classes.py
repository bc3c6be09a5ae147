"""What a classifier's graph says of its classes: their labels, and which scores go with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxtune.flow import Array, attributes_of
from onnxtune.runtime import output_types

Labels = tuple[int | str, ...]

_CLASSIFIERS = ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")
_CLASS_ATTRIBUTES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
# They hand on labels as they are, or as many scores in the same order.
_SAME_LABELS = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_SAME_SCORES = (
    *_SAME_LABELS,
    *("Normalizer", "LpNormalization", "Softmax", "LogSoftmax", "Sigmoid", "Exp", "Log", "Clip"),
    *("Mul", "Div", "Add", "Sub", "Neg"),
)


def class_labels(model: onnx.ModelProto, output: str | None = None) -> Labels | None:
    """The class labels, in the order of the columns of the scores.

    They stand in ZipMap, in the classifier nodes of ai.onnx.ml, or in the constant from which the
    position of the highest score picks the label.

    Args:
        model: the model.
        output: name of a graph output, labels or scores; None takes the first that tells.

    Returns:
        Integers or strings; None where the graph does not say, as for a regressor.
    """
    graph, kinds = _Graph(model), _kinds(model)
    names = [name for name in kinds if output in (None, name)]
    for find, kind in (
        (_zip_map_labels, "score"),
        (_labels_of, "label"),
        (_labels_of_scores, "score"),
    ):
        for name in names:
            found = find(graph, name) if kinds[name] == kind else None
            if found:
                return found
    return None


def scored_labels(model: onnx.ModelProto, output: str, labels: Labels | None) -> Labels | None:
    """The labels in the order in which an output's columns score them.

    Support vectors without probabilities score pairs of classes. Of one pair onnxruntime writes
    (-s, s), s being positive for the first class; the columns of more pairs are no classes.
    """
    for made, node in _Graph(model).upwards(output, (*_SAME_LABELS, "ZipMap")):
        if node.op_type == "SVMClassifier" and made in node.output[1:]:
            held = attributes_of(node)
            if np.sum(held.get("vectors_per_class", 0)) and not len(held.get("prob_a", ())):
                return labels[::-1] if labels is not None and len(labels) == 2 else None
    return labels


def label_outputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the graph outputs that hold integers, strings or booleans."""
    return tuple(name for name, kind in _kinds(model).items() if kind == "label")


def score_output(model: onnx.ModelProto, label: str | None = None) -> str | None:
    """Name of the graph output with the scores (one column a class) that go with a label output.

    Args:
        model: the model.
        label: name of a label output; None takes the first.

    Returns:
        The float tensor or ZipMap that is made from what the label is made from; None where
        there is none, or nothing tells which one it is.
    """
    scores = [name for name, kind in _kinds(model).items() if kind == "score"]
    labels = label_outputs(model)
    label = label or (labels[0] if labels else None)
    if len(scores) < 2 or label is None:
        return scores[0] if len(scores) == 1 else None
    graph = _Graph(model)
    anchor = _anchor(graph, label)
    if anchor is None:
        return None
    above, flat = graph.ancestors(anchor), _one_dimensional(model)
    related = [name for name in scores if name in above or anchor in graph.ancestors(name)]
    return next((name for name in related if name not in flat), None)


def zip_map_keys(model: onnx.ModelProto, output: str) -> Labels | None:
    """The keys of a ZipMap output in the order of the tensor's columns; None for other outputs."""
    return _zip_map_labels(_Graph(model), output)


def _kinds(model: onnx.ModelProto) -> dict[str, str]:
    """Graph output -> "label", "score", or "" for anything else."""
    types = {value.name: value.type for value in model.graph.output}
    told: dict[str, str] = {}
    for name, declared in types.items():
        kind = declared.WhichOneof("value")
        if kind == "tensor_type" and declared.tensor_type.elem_type:
            element = onnx.TensorProto.DataType.Name(declared.tensor_type.elem_type).lower()
            told[name] = f"tensor({element})"
        elif kind == "sequence_type":
            inner = declared.sequence_type.elem_type.WhichOneof("value")
            told[name] = "seq(map)" if inner == "map_type" else "seq"
    if len(told) < len(types):
        told = {value.name: value.kind for value in output_types(model)}
    return {name: _role(kind) for name, kind in told.items()}


def _one_dimensional(model: onnx.ModelProto) -> set[str]:
    """Outputs declared as [N]: one class of many each, where there are several of them."""
    return {
        value.name
        for value in model.graph.output
        if value.type.WhichOneof("value") == "tensor_type"
        and len(value.type.tensor_type.shape.dim) == 1
    }


def _role(kind: str) -> str:
    element = kind.removeprefix("tensor(").removesuffix(")")
    if element in ("float", "double", "float16", "bfloat16") or kind.startswith("seq(map"):
        return "score"
    return "label" if kind.startswith("tensor(") else ""


@dataclass(frozen=True)
class _Graph:
    model: onnx.ModelProto

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def _tensors(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    def constant(self, name: str) -> Array | None:
        """The numbers or texts of an initializer or a Constant, flat."""
        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name]).ravel()
        node = self.makers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        value = next(iter(attributes_of(node).values()), None)
        if isinstance(value, int | float | str | list | np.ndarray):
            return np.asarray(value).ravel()
        return None

    def ancestors(self, name: str) -> set[str]:
        """The value and all values that it is made from."""
        found, open_names = set(), [name]
        while open_names:
            current = open_names.pop()
            if current and current not in found:
                found.add(current)
                node = self.makers.get(current)
                open_names += node.input if node is not None else ()
        return found

    def upwards(self, name: str, through: tuple[str, ...]) -> Iterator[tuple[str, onnx.NodeProto]]:
        """The value and its maker, then the same of what it hands on, and so forth."""
        while (node := self.makers.get(name)) is not None:
            yield name, node
            if node.op_type not in through or not node.input:
                return
            made = [held for held in node.input if self.constant(held) is None]
            name = made[0] if made else ""


def _zip_map_labels(graph: _Graph, name: str) -> Labels | None:
    for _, node in graph.upwards(name, ("Identity",)):
        if node.op_type == "ZipMap":
            return _declared(attributes_of(node))
    return None


def _declared(attributes: Mapping[str, Any]) -> Labels | None:
    for name in _CLASS_ATTRIBUTES:
        if len(attributes.get(name, ())):
            return _plain(np.asarray(attributes[name]))
    return None


def _plain(values: Array) -> Labels | None:
    """Python numbers and strings of an array; None if it holds fractions."""
    if values.dtype.kind in "iub":
        return tuple(int(value) for value in values)
    if values.dtype.kind == "f":
        whole = values.astype(np.int64)
        return tuple(whole.tolist()) if np.array_equal(whole, values) else None
    return tuple(map(str, values.tolist()))


def _labels_of(graph: _Graph, name: str) -> Labels | None:
    """Labels by the way in which a label output is made."""
    for made, node in graph.upwards(name, _SAME_LABELS):
        if node.op_type in _CLASSIFIERS and made == node.output[0]:
            return _declared(attributes_of(node))
        if node.op_type in ("ArrayFeatureExtractor", "Gather"):
            table = graph.constant(node.input[0])
            return None if table is None else _plain(table)
        if node.op_type in ("LabelEncoder", "CategoryMapper"):
            return _translated(graph, node)
        if node.op_type == "Where":
            yes, no = graph.constant(node.input[1]), graph.constant(node.input[2])
            one_each = yes is not None and no is not None and yes.size == no.size == 1
            return _plain(np.concatenate([no, yes])) if one_each else None
        if node.op_type == "ArgMax":
            return _positions(graph, node.input[0])
    return None


def _translated(graph: _Graph, node: onnx.NodeProto) -> Labels | None:
    """LabelEncoder or CategoryMapper behind labels: each of them looked up."""
    attributes = attributes_of(node)
    keys = _first(attributes, ("keys_int64s", "keys_strings", "keys_tensor", "cats_int64s"))
    values = _first(
        attributes, ("values_strings", "values_int64s", "values_tensor", "cats_strings")
    )
    if keys is None or values is None:
        return None
    table = dict(zip(keys, values, strict=False))
    inner = _labels_of(graph, node.input[0])
    if inner is None and set(keys) == set(range(len(keys))):
        inner = tuple(range(len(keys)))
    if inner is None or any(label not in table for label in inner):
        return None
    return tuple(table[label] for label in inner)


def _first(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Labels | None:
    return next(
        (_plain(np.asarray(attributes[name])) for name in names if name in attributes), None
    )


def _positions(graph: _Graph, scores: str) -> Labels | None:
    """ArgMax alone makes positions: as many as the scores, or the score output, have columns."""
    described = [*graph.model.graph.output, *graph.model.graph.value_info]
    for wanted in (scores, score_output(graph.model)):
        for value in described:
            last = value.type.tensor_type.shape.dim[-1:] if value.name == wanted else ()
            for dimension in last:
                if dimension.dim_value > 1:
                    return tuple(range(dimension.dim_value))
    return None


def _labels_of_scores(graph: _Graph, name: str) -> Labels | None:
    """Labels of the classifier node that makes the scores, where its own label is not used."""
    for made, node in graph.upwards(name, _SAME_SCORES):
        if node.op_type in _CLASSIFIERS and made in node.output[1:]:
            return _declared(attributes_of(node))
    return None


def _anchor(graph: _Graph, label: str) -> str | None:
    """The scores that a label is read off."""
    through = (*_SAME_LABELS, "ArrayFeatureExtractor", "Gather", "LabelEncoder", "CategoryMapper")
    for made, node in graph.upwards(label, (*through, "Greater", "Less", "Where")):
        if node.op_type in _CLASSIFIERS and made == node.output[0] and len(node.output) > 1:
            return str(node.output[1])
        if node.op_type in ("ArgMax", "ArgMin"):
            return str(node.input[0])
    return None
