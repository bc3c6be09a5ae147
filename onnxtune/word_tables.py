"""Tables of floats that words are looked up in.

A word has no form in torch, but its place among the keys has: the LabelEncoder is split in two, one
from words to places, and behind it one from places to floats, whose table is learned.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from onnxtune.graph_names import unused
from onnxtune.runtime import ValueType

# Where the words stand; and what stands beside them. Tensors came with ai.onnx.ml 4.
_KEYS = ("keys_strings", "keys_tensor")
_VALUES = ("values_floats", "values_tensor")
_DEFAULTS = ("default_float", "default_tensor")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def split_word_tables(proto: onnx.ModelProto, types: dict[str, ValueType]) -> None:
    """Split every LabelEncoder of a graph from words to floats, its nodes named.

    The node keeps its name and its table, and reads places. `types` gains those of the places.
    """
    if not any(map(_is_word_table, proto.graph.node)):
        return
    made = []
    taken = {node.name for node in proto.graph.node} | types.keys()
    for node in proto.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if _is_word_table(node):
            place = unused(f"{node.name}/place", taken)
            known = types.get(node.input[0], ValueType(node.input[0], ""))
            types[place] = ValueType(place, "tensor(int64)", known.shape)
            value = helper.make_tensor_value_info(place, onnx.TensorProto.INT64, known.shape)
            proto.graph.value_info.append(value)
            made.append(_to_place(node, place))
            keys = helper.make_attribute("keys_int64s", [*range(len(_words(node)))])
            numbers = [a for a in node.attribute if a.name in (*_VALUES, *_DEFAULTS)]
            copy.input[0] = place
            del copy.attribute[:]
            copy.attribute.extend([keys, *numbers])
        made.append(copy)
    del proto.graph.node[:]
    proto.graph.node.extend(made)


def _is_word_table(node: onnx.NodeProto) -> bool:
    if node.op_type != "LabelEncoder" or node.domain != "ai.onnx.ml":
        return False
    if not {a.name for a in node.attribute} <= {*_KEYS, *_VALUES, *_DEFAULTS}:
        return False
    return 1 < len(_words(node)) == _count_of_floats(node)


def _words(node: onnx.NodeProto) -> list[bytes]:
    """The keys, where they are words."""
    held = _held(node, _KEYS)
    return [*(held.t.string_data if held.HasField("t") else held.strings)]


def _count_of_floats(node: onnx.NodeProto) -> int:
    held = _held(node, _VALUES)
    if held.HasField("t"):
        return int(np.prod(held.t.dims)) if held.t.data_type in _FLOATS else 0
    return len(held.floats)


def _held(node: onnx.NodeProto, names: Collection[str]) -> onnx.AttributeProto:
    """The first attribute of one of these names; an empty one where there is none."""
    return next((a for a in node.attribute if a.name in names), onnx.AttributeProto())


def _to_place(node: onnx.NodeProto, place: str) -> onnx.NodeProto:
    words = _words(node)
    return helper.make_node(
        "LabelEncoder",
        [node.input[0]],
        [place],
        name=place,
        domain="ai.onnx.ml",
        keys_strings=words,
        values_int64s=[*range(len(words))],
        default_int64=-1,
    )
