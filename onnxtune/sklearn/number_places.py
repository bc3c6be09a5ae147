"""Where a graph holds numbers, and which of them differ between two versions of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from rewrites.core.naming import node_names
from rewrites.core.rewrite import Array

# A node's name with the attribute, or with the number of the input that an initializer comes in by.
Key = tuple[str, str]

_LISTS = (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS)


@dataclass(frozen=True)
class Place:
    """Numbers of a graph: those of an attribute, flat, or of an initializer.

    `tensor` is the initializer's name, or None.
    """

    operator: str
    role: str
    values: Array
    tensor: str | None = None


@dataclass(frozen=True)
class Change:
    """The numbers of one place before and after tuning, of one shape."""

    before: Array
    after: Array

    @property
    def moved(self) -> Array:
        """Where they differ, in their shape."""
        return differs(self.before, self.after)


@dataclass(frozen=True)
class Difference:
    """What tuning changed: numbers, by place, and else, by node: what is no longer the same."""

    changes: dict[Key, Change]
    others: dict[str, str]


def differs(before: Array, after: Array) -> Array:
    """Where numbers differ; NaN is like NaN."""
    return np.asarray((before != after) & ~(np.isnan(before) & np.isnan(after)))


def places(proto: onnx.ModelProto) -> dict[Key, Place]:
    """Every list and tensor of floats, in the order of the nodes.

    An initializer that several nodes read has a place in each: skl2onnx keeps equal numbers once.
    """
    held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if _is_float(t)}
    found: dict[Key, Place] = {}
    for node, name in zip(proto.graph.node, node_names(proto.graph), strict=True):
        for attribute in node.attribute:
            values = _numbers(attribute)
            if values is not None:
                role = attribute.name.removesuffix("_as_tensor")
                found[name, role] = Place(node.op_type, role, values)
        for number, value in enumerate(node.input):
            if value in held:
                role = f"input {number}"
                found[name, role] = Place(node.op_type, role, held[value], value)
    return found


def difference(before: onnx.ModelProto, after: onnx.ModelProto) -> Difference:
    """What is not the same in two versions of a graph, node by node."""
    old, new = places(before), places(after)
    kept, there = _nodes(before), _nodes(after)
    # skl2onnx may call values, and equal numbers that it keeps once, otherwise the next time.
    held = {t.name for proto in (before, after) for t in proto.graph.initializer}
    same = dict.fromkeys(held, "")
    for name in kept.keys() & there.keys():
        same |= dict(zip(there[name].output, kept[name].output, strict=False))
    # Those that stand in for another node are called `<node>/...`.
    others = {
        name: f"was added ({node.op_type})"
        for name, node in there.items()
        if name not in kept and name.rsplit("/", 1)[0] not in kept.keys() - there.keys()
    }
    for name, node in kept.items():
        found = _apart(node, there.get(name), same)
        if found is not None:
            others[name] = found
    changes = {}
    for key, place in old.items():
        if key[0] in others or key not in new:
            continue
        values = new[key].values
        if values.shape != place.values.shape:
            others[key[0]] = f"holds another number of {key[1]}"
        elif differs(place.values, values).any():
            changes[key] = Change(place.values, values)
    return Difference(changes, others)


def paired(first: dict[Key, Place], second: dict[Key, Place]) -> dict[Key, Key]:
    """Places of one graph -> those of another with the same operator, role and numbers.

    Where several are alike, in their order; where one graph has more of them, none.
    """
    alike: dict[object, tuple[list[Key], list[Key]]] = defaultdict(lambda: ([], []))
    for side, held in enumerate((first, second)):
        for key, place in held.items():
            numbers = place.values.astype(np.float32)
            what = (place.operator, place.role, numbers.shape, numbers.tobytes())
            alike[what][side].append(key)
    return {
        key: other
        for ours, theirs in alike.values()
        if len(ours) == len(theirs)
        for key, other in zip(ours, theirs, strict=True)
    }


def _numbers(attribute: onnx.AttributeProto) -> Array | None:
    if attribute.type == onnx.AttributeProto.TENSOR and _is_float(attribute.t):
        return numpy_helper.to_array(attribute.t).ravel()
    if attribute.type not in _LISTS:
        return None
    one = attribute.type == onnx.AttributeProto.FLOAT
    return np.array([attribute.f] if one else attribute.floats, np.float32)


def _is_float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def _nodes(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return dict(zip(node_names(proto.graph), proto.graph.node, strict=True))


def _apart(
    before: onnx.NodeProto, after: onnx.NodeProto | None, same: dict[str, str]
) -> str | None:
    """What of two nodes is not the same, but for their numbers; None for nothing.

    Args:
        before: the node.
        after: the node that is called so afterwards.
        same: what values of `after` were called; "" for all initializers.
    """
    if after is None or after.op_type != before.op_type:
        return "was replaced by other nodes"
    was = ["" if same.get(name) == "" else name for name in before.input]
    if [same.get(name, name) for name in after.input] != was:
        return "reads other values"
    old, new = ({a.name: a for a in node.attribute} for node in (before, after))
    for name in sorted(old.keys() | new.keys()):
        first, second = old.get(name), new.get(name)
        if first is not None and second is not None:
            graph = first.type == onnx.AttributeProto.GRAPH  # which tuning leaves as it is
            if graph or _numbers(first) is not None:
                continue
        if first != second:
            return f"has another {name}"
    return None
