"""Computes what is the same in every call once: nodes on constants alone, and sizes that are fixed.

onnxruntime does that too, whenever it loads a file. Here it is done for good, so that a file says
what will run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from onnxtune.graph_parts import part
from onnxtune.preparation import constant_tensor
from onnxtune.runtime import ValueType, run, session
from onnxtune.subgraphs import reads, subgraphs
from rewrites.core.rewrite import Array

# Of a constant that is larger than what it is made of, at most so many bytes.
_MOST_GROWTH = 1 << 16

# Other numbers in every call.
_RANDOM = frozenset((
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
))  # fmt: skip

# A dimension that varies from call to call.
_VARIES = -1

# Dimensions of a tensor, or some of them in a list: `_VARIES` where the number is not fixed.
Sizes = list[int]


def fold_constants(proto: onnx.ModelProto, types: Mapping[str, ValueType]) -> None:
    """Replace, in place, what does not depend on the rows by initializers.

    Names stay what they were.

    Args:
        proto: the model; every node must have a name of its own.
        types: of its values.
    """
    _hold(proto, _fixed_sizes(proto, types))
    folded = _constant_nodes(proto)
    wanted = _still_read(proto, folded) if folded else []
    if wanted:
        whole = part(proto, [n for n in proto.graph.node if n.name in folded], [], wanted,
                     lambda name: types.get(name, ValueType(name, "")))  # fmt: skip
        values = run(session(whole, optimize=False), {})
        sizes = {t.name: len(t.raw_data) or t.ByteSize() for t in proto.graph.initializer}
        makers = {o: node for node in proto.graph.node if node.name in folded for o in node.output}
        small = {
            name: value
            for name, value in values.items()
            if _is_worth(value, _sources(makers, name), sizes)
        }
        _hold(proto, small)
    drop_unused(proto)


def drop_unused(proto: onnx.ModelProto) -> None:
    """Take out, in place, nodes and initializers that no output depends on."""
    needed = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            needed.update(reads(node))
            kept.append(node)
    _keep(proto, kept[::-1])
    made = {out for node in proto.graph.node for out in node.output}
    for listed, names in ((proto.graph.initializer, needed), (proto.graph.value_info, made)):
        for place in reversed(range(len(listed))):
            if listed[place].name not in names:
                del listed[place]


def _hold(proto: onnx.ModelProto, values: Mapping[str, Array]) -> None:
    """Make these values initializers, in the place of the nodes that made each of them alone."""
    _keep(proto, [node for node in proto.graph.node if values.keys().isdisjoint(node.output)])
    for name, value in values.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _keep(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Let a graph have these nodes of its own, and no others."""
    if len(nodes) < len(proto.graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(copies)


def _constant_nodes(proto: onnx.ModelProto) -> set[str]:
    """Names of the nodes that depend on constants alone; none that makes a graph's output."""
    known = {tensor.name for tensor in proto.graph.initializer}
    known -= {value.name for value in proto.graph.input}
    final = {value.name for value in proto.graph.output}
    strings = {t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.STRING}
    found = set()
    for node in proto.graph.node:
        plain = node.domain in ("", "ai.onnx") and not any(subgraphs(node))
        taken = reads(node)
        if (
            plain
            and len(node.output) == 1
            and node.op_type not in _RANDOM
            and known.issuperset(taken)
            and strings.isdisjoint(taken)
            and final.isdisjoint(node.output)
        ):
            found.add(node.name)
            known.update(node.output)
    return found


def _still_read(proto: onnx.ModelProto, folded: set[str]) -> list[str]:
    """The values of folded nodes that others read."""
    made = {out for node in proto.graph.node if node.name in folded for out in node.output}
    taken = (v for node in proto.graph.node if node.name not in folded for v in reads(node))
    return [value for value in dict.fromkeys(taken) if value in made]


def _sources(makers: Mapping[str, onnx.NodeProto], value: str) -> set[str]:
    """The initializers that a folded value is made of."""
    found, seen, waiting = set(), set(), [value]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in makers:
            waiting.extend(reads(makers[name]))
        else:
            found.add(name)
    return found


def _is_worth(value: Array, sources: set[str], sizes: Mapping[str, int]) -> bool:
    before = sum(sizes.get(name, 0) for name in sources)
    return bool(np.asarray(value).nbytes <= before + _MOST_GROWTH)


def _fixed_sizes(proto: onnx.ModelProto, types: Mapping[str, ValueType]) -> dict[str, Array]:
    """Values that nodes compute from the sizes of tensors, where these are fixed.

    A list of sizes to reshape to, of which one varies, has -1 in that one's place.
    """
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) <= 1
    }
    known: dict[str, tuple[Sizes, bool]] = {
        name: ([int(n) for n in np.ravel(value)], value.ndim == 0)
        for name, value in constants.items()
        if value.size <= 16
    }
    shaping = _only_reshape(proto)
    final = {value.name for value in proto.graph.output}
    found: dict[str, Array] = {}
    for node in proto.graph.node:
        sizes = _sizes(node, known, types)
        if sizes is None:
            continue
        known[node.output[0]] = sizes
        numbers, scalar = sizes
        varying = numbers.count(_VARIES)
        fixed = varying == 0 or (varying == 1 and 0 not in numbers and node.output[0] in shaping)
        if fixed and node.output[0] not in final:
            found[node.output[0]] = np.array(numbers[0] if scalar else numbers, np.int64)
    return found


def _only_reshape(proto: onnx.ModelProto) -> set[str]:
    """Values that nothing but Reshape reads, as the shape to be."""
    readers: dict[str, list[bool]] = {}
    for node in proto.graph.node:
        zero = any(a.name == "allowzero" and a.i for a in node.attribute)
        for place, value in enumerate(reads(node)):
            shape = node.op_type == "Reshape" and node.domain == "" and place == 1
            readers.setdefault(value, []).append(shape and not zero)
    return {value for value, shapes in readers.items() if all(shapes)}


def _sizes(
    node: onnx.NodeProto, known: Mapping[str, tuple[Sizes, bool]], types: Mapping[str, ValueType]
) -> tuple[Sizes, bool] | None:
    """The sizes that a node's output lists, and whether it is a single number; None if neither."""
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    held = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Shape":
        shape = types[node.input[0]].shape if node.input[0] in types else None
        if shape is None:
            return None
        sizes = [_VARIES if size is None else size for size in shape]
        return sizes[held.get("start", 0) : held.get("end", len(sizes))], False
    if constant_tensor(node) is not None or not node.input:
        return None
    if any(name and name not in known for name in node.input):
        return None
    given = [known[name] for name in node.input if name]
    return _moved(node.op_type, given, held)


def _moved(
    operator: str, given: Sequence[tuple[Sizes, bool]], held: Mapping[str, object]
) -> tuple[Sizes, bool] | None:
    """What an operator that only moves numbers does to lists of sizes."""
    first, scalar = given[0]
    others = [sizes for sizes, _ in given[1:]]
    if any(_VARIES in sizes and operator != "Concat" for sizes in others):
        return None
    if operator == "Identity" or (operator == "Cast" and held.get("to") == onnx.TensorProto.INT64):
        return first, scalar
    if operator == "Concat" and not any(single for _, single in given):
        return [size for sizes, _ in given for size in sizes], False
    if operator == "Gather" and not scalar and held.get("axis", 0) == 0:
        return [first[place] for place in others[0]], given[1][1]
    if operator == "Slice" and not scalar and len(others[0]) == 1:
        step = others[3][0] if len(others) > 3 else 1
        return first[others[0][0] : others[1][0] : step], False
    if operator == "Unsqueeze" and scalar and others and others[0] in ([0], [-1]):
        return first, False
    if operator == "Squeeze" and not scalar and len(first) == 1:
        return first, True
    return None
