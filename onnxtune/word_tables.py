"""Tables of floats that words are looked up in.

A word has no form in torch, but its place among the keys has: the LabelEncoder is split in two, one
from words to places, and behind it one from places to floats, whose table is learned.
"""

from __future__ import annotations

import onnx
from onnx import helper

from onnxtune.runtime import ValueType

_FLOATS = ("values_floats", "default_float")


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
            place = f"{node.name}/place"
            while place in taken:
                place += "_"
            taken.add(place)
            known = types.get(node.input[0], ValueType(node.input[0], ""))
            types[place] = ValueType(place, "tensor(int64)", known.shape)
            value = helper.make_tensor_value_info(place, onnx.TensorProto.INT64, known.shape)
            proto.graph.value_info.append(value)
            made.append(_to_place(node, place))
            held = {attribute.name: attribute for attribute in node.attribute}
            keys = helper.make_attribute("keys_int64s", [*range(len(held["keys_strings"].strings))])
            copy.input[0] = place
            del copy.attribute[:]
            copy.attribute.extend([keys, *(held[name] for name in _FLOATS if name in held)])
        made.append(copy)
    del proto.graph.node[:]
    proto.graph.node.extend(made)


def _is_word_table(node: onnx.NodeProto) -> bool:
    if node.op_type != "LabelEncoder" or node.domain != "ai.onnx.ml":
        return False
    held = {attribute.name: attribute for attribute in node.attribute}
    if not {"keys_strings", "values_floats"} <= held.keys() <= {"keys_strings", *_FLOATS}:
        return False
    return 1 < len(held["keys_strings"].strings) == len(held["values_floats"].floats)


def _to_place(node: onnx.NodeProto, place: str) -> onnx.NodeProto:
    words = next(list(a.strings) for a in node.attribute if a.name == "keys_strings")
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
