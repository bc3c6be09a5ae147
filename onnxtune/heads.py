"""A classifier with other classes: a linear layer on what the model knew of the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.classes import Labels, label_outputs
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.graph_names import names_of, unused
from onnxtune.links import find_source
from onnxtune.model import ModelLike, load
from onnxtune.partition import float_outputs
from onnxtune.preparation import Prepared, opset_of, prepare, set_opset
from onnxtune.saved_form import check_native
from onnxtune.targets import labels_of
from rewrites.core.rewrite import Array

# A probability of 0 has no logarithm.
_SMALLEST = 1e-6


def replace_head(
    model: ModelLike, classes: Sequence[int | str], *, data: Any = None
) -> onnx.ModelProto:
    """The model as a classifier of other classes, to be tuned.

    Where the model ends in a LinearClassifier, the new one reads what that read; else it reads the
    old scores, as logits. Rows of weights of classes that were known are kept, so that their odds
    stay (but where each class had a model of its own against the rest); those of new ones are 0.
    Outputs keep their names: the label, and the probabilities [N, len(classes)] as a tensor.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        classes: the labels, all integers or all strings, two or more.
        data: rows that tell the types of an estimator's columns.

    Raises:
        ArgumentError: the classes are no labels.
        UnsupportedError: the model is no classifier with scores.
    """
    labels = _checked(classes)
    prepared = prepare(check_native(load(model, data)))
    origin = prepared.source.origin
    scores, known = _scored(prepared)
    graph = prepared.source.proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    proto = onnx.ModelProto()
    proto.CopyFrom(prepared.source.proto)
    taken = set(names_of(graph))
    end = makers.get(_behind(prepared, scores))
    while end is not None and end.op_type in ("Normalizer", "Identity", "Cast"):
        end = makers.get(end.input[0])
    nodes: list[onnx.NodeProto] = []
    if end is not None and end.op_type == "LinearClassifier":
        features = end.input[0]
        weights, offsets = _linear(end)
    else:
        features, nodes, constants = _logits(prepared, scores, taken, len(known))
        proto.graph.initializer.extend(constants)
        weights, offsets = np.eye(len(known), dtype=np.float32), np.zeros(len(known), np.float32)
    if len(weights) != len(known):
        raise UnsupportedError(
            f"{origin}: '{scores}' scores {len(known)} classes by {len(weights)} rows of weights; "
            "its head cannot be replaced."
        )
    places = [known.index(label) if label in known else -1 for label in labels]
    rows = np.array([weights[p] if p >= 0 else np.zeros_like(weights[0]) for p in places])
    added = np.array([offsets[p] if p >= 0 else 0.0 for p in places], np.float32)
    label = next(iter(label_outputs(prepared.source.proto)), None)
    label = label or unused("label", taken)
    kind = "strings" if isinstance(labels[0], str) else "ints"
    attributes: dict[str, Any] = {
        "coefficients": rows.ravel().astype(np.float32),
        "intercepts": added,
        "multi_class": 1,
        "post_transform": "SOFTMAX",
        f"classlabels_{kind}": labels,
    }
    name = unused("head", taken)
    head = helper.make_node(
        "LinearClassifier", [features], [label, scores], name, None, "ai.onnx.ml", **attributes
    )
    _rebuild(proto, [*nodes, head], label, scores, labels)
    onnx.checker.check_model(proto)
    return proto


def _checked(classes: Sequence[int | str]) -> list[int | str]:
    """Distinct labels of one kind.

    Raises:
        ArgumentError: they are not.
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence | np.ndarray):
        raise ArgumentError("classes must be a sequence of labels, such as ['low', 'high'].")
    found = [each.item() if isinstance(each, np.generic) else each for each in classes]
    strings = [isinstance(each, str) for each in found]
    whole = [isinstance(each, int) and not isinstance(each, bool) for each in found]
    if len(found) < 2 or not (all(strings) or all(whole)):
        raise ArgumentError("classes must be two labels or more, all integers or all strings.")
    if len(set(found)) < len(found):
        twice = next(each for each in found if found.count(each) > 1)
        raise ArgumentError(f"classes holds {twice!r} {found.count(twice)} times; give each once.")
    return found


def _scored(prepared: Prepared) -> tuple[str, Labels]:
    """The output with the scores of classes, and these."""
    for name in float_outputs(prepared):
        labels = labels_of(prepared, name)
        if labels:
            return name, labels
    raise UnsupportedError(
        f"{prepared.source.origin}: has no output with the scores of classes; a head with classes "
        "stands on a classifier."
    )


def _behind(prepared: Prepared, output: str) -> str:
    return float_outputs(prepared)[output]


def _linear(node: onnx.NodeProto) -> tuple[Array, Array]:
    """[K, F] weights and [K] intercepts of a LinearClassifier."""
    held = {a.name: np.array(a.floats, np.float32) for a in node.attribute if a.floats}
    flat, offsets = held["coefficients"], held.get("intercepts", np.zeros(0, np.float32))
    if len(offsets) == 1:  # one row for the second of two classes
        row = flat.reshape(1, -1)
        return np.concatenate([0 * row, row]), np.array([0, offsets[0]], np.float32)
    rows = flat.reshape(len(offsets), -1)
    link = next((a.s for a in node.attribute if a.name == "post_transform"), b"NONE")
    mirrored = np.array_equal(rows[:1], -rows[1:]) and np.array_equal(offsets[:1], -offsets[1:])
    if link == b"LOGISTIC" and mirrored:
        return rows / 2, offsets / 2  # a sigmoid of z is a softmax of -z/2 and z/2
    return rows, offsets


def _logits(
    prepared: Prepared, output: str, taken: set[str], classes: int
) -> tuple[str, list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes that make logits [N, K] of an output's scores, and the constants that they read.

    Probabilities go through their logarithm; two mirrored or single scores become two columns.
    """
    value = _behind(prepared, output)
    link = find_source(prepared.proto.graph, value).link
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        made = unused(f"logits/{kind.lower()}", taken)
        nodes.append(helper.make_node(kind, inputs, [made], name=f"{made}_node", **attributes))
        return made

    def constant(name: str, array: Any, dtype: Any) -> str:
        made = unused(f"logits/{name}", taken)
        constants.append(numpy_helper.from_array(np.asarray(array, dtype), made))
        return made

    kind = prepared.type_of(value)
    shares = link in ("softmax", "sigmoid") or _are_shares(prepared, value)
    if kind.dtype != np.float32:
        value = op("Cast", value, to=onnx.TensorProto.FLOAT)
    width = kind.shape[-1] if kind.shape else None
    value = op("Reshape", value, constant("shape", [-1, width if width else classes], np.int64))
    if width == 1:
        one = constant("one", 1.0, np.float32)
        value = op("Concat", op("Sub", one, value) if shares else op("Neg", value), value, axis=1)
    if shares:
        value = op("Log", op("Max", value, constant("least", _SMALLEST, np.float32)))
    return value, nodes, constants


def _are_shares(prepared: Prepared, value: str) -> bool:
    """Whether the values are probabilities by the operator that makes them."""
    makers = {name: node for node in prepared.proto.graph.node for name in node.output}
    node = makers.get(value)
    while node is not None and node.op_type in ("Cast", "Identity", "Reshape", "Normalizer"):
        if node.op_type == "Normalizer":
            return True
        node = makers.get(node.input[0])
    if node is None or node.op_type not in ("TreeEnsembleClassifier", "SVMClassifier"):
        return node is not None and node.op_type in ("Softmax", "Sigmoid")
    held = {attribute.name: attribute for attribute in node.attribute}
    if "post_transform" in held and held["post_transform"].s in (b"SOFTMAX", b"LOGISTIC"):
        return True
    if node.op_type == "SVMClassifier":
        return bool(held.get("prob_a") and held["prob_a"].floats)
    weights = held.get("class_weights")
    values = np.array(weights.floats) if weights is not None else np.zeros(0)
    return bool(len(values) and values.min() >= 0)


def _rebuild(
    proto: onnx.ModelProto,
    added: list[onnx.NodeProto],
    label: str,
    scores: str,
    labels: Sequence[int | str],
) -> None:
    """Put the new end into the graph, and leave out what nothing reads any more."""
    graph = proto.graph
    own = {name for node in added for name in node.output}
    before = {name: node for node in graph.node for name in node.output if name and name not in own}
    # What made these outputs before, and what the new end still reads under that name.
    renamed = {}
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name in (label, scores):
                renamed[name] = f"{name}_before"
                node.output[place] = renamed[name]
                before[renamed[name]] = node
    for node in (*graph.node, *added):
        for place, name in enumerate(node.input):
            if name in renamed:
                node.input[place] = renamed[name]
    wanted, queue = set(), [name for node in added for name in node.input]
    while queue:
        node = before.get(queue.pop())
        if node is not None and id(node) not in wanted:
            wanted.add(id(node))
            queue.extend(name for name in node.input if name)
    kept = [node for node in graph.node if id(node) in wanted]
    copies = []
    for node in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    read = {name for node in (*copies, *added) for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    held = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend([*copies, *added])
    graph.initializer.extend(held)
    kind = onnx.TensorProto.STRING if isinstance(labels[0], str) else onnx.TensorProto.INT64
    graph.output.extend(
        [
            helper.make_tensor_value_info(label, kind, [None]),
            helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, [None, len(labels)]),
        ]
    )
    del graph.value_info[:]
    if opset_of(proto, "ai.onnx.ml") is None:
        set_opset(proto, "ai.onnx.ml", 1)
