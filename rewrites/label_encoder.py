"""LabelEncoder: keys looked up in a table, whose numbers are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, numbers, string, strings
from rewrites.core.builder import Builder
from rewrites.core.lookup import places
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.errors import UnsupportedError

_KINDS: dict[str, Any] = {"float": np.float32, "int64": np.int64}


@dataclass(frozen=True)
class _Table:
    """What a node holds.

    Attributes:
        keys: [K] numbers.
        values: [K] numbers or words; `default` stands for every other key.
        values_name: the attribute with the values; `default_name` that of the default, None where
            a tuned one has no place.
    """

    keys: Array
    values: Array | list[str]
    default: Array | str
    values_name: str = ""
    default_name: str | None = None


def covers(node: ir.Node) -> bool:
    """Keys that are words have no numeric form."""
    if "classes_strings" in node.attributes:
        source = node.inputs[0]
        return source is not None and source.dtype == ir.DataType.INT64
    return "keys_strings" not in node.attributes and not _is_words(node, "keys_tensor")


def _is_words(node: ir.Node, name: str) -> bool:
    held = node.attributes.get(name)
    return held is not None and held.as_tensor().dtype == ir.DataType.STRING


def _read(node: ir.Node) -> _Table:
    if "classes_strings" in node.attributes:
        words = strings(node, "classes_strings")
        return _Table(np.arange(len(words)), words, string(node, "default_string", "_Unused"))
    if "keys_strings" in node.attributes or _is_words(node, "keys_tensor"):
        keys = np.arange(len(_words(node, "keys")))  # only their places count
    else:
        _, keys = _numbers(node, "keys")
    if "values_strings" in node.attributes or _is_words(node, "values_tensor"):
        words = _words(node, "values")
        _check_count(node, len(keys), len(words))
        return _Table(keys, words, _words(node, "default")[0])
    name, values = _numbers(node, "values")
    _check_count(node, len(keys), len(values))
    default, default_name = _default(node, values.dtype)
    return _Table(keys, values, default, name, default_name)


def _check_count(node: ir.Node, keys: int, values: int) -> None:
    if keys != values or not keys:
        raise UnsupportedError(f"{describe(node)}: {keys} keys for {values} values.")


def _numbers(node: ir.Node, role: str) -> tuple[str, Array]:
    """The attribute that holds keys or values, and these."""
    held = node.attributes.get(f"{role}_tensor")
    if held is not None:
        return held.name, held.as_tensor().numpy().ravel()
    for kind, dtype in _KINDS.items():
        found = numbers(node, f"{role}_{kind}s", dtype)
        if found is not None:
            return f"{role}_{kind}s", found
    raise UnsupportedError(f"{describe(node)}: it has no {role}.")


def _words(node: ir.Node, role: str) -> list[str]:
    if _is_words(node, f"{role}_tensor"):
        held = node.attributes[f"{role}_tensor"].as_tensor()
        return [word.decode() for word in np.ravel(held.numpy()).tolist()]
    if role == "default":
        return [string(node, "default_string", "_Unused")]
    return strings(node, f"{role}_strings")


def _default(node: ir.Node, dtype: np.dtype[Any]) -> tuple[Array, str | None]:
    """[1], and the attribute where a tuned one belongs."""
    held = node.attributes.get("default_tensor")
    if held is not None:
        return held.as_tensor().numpy().reshape(1), "default_tensor"
    if dtype == np.float64:  # the only place for a double is a tensor, and there is none
        return np.full(1, -0.0), None
    kind, usual = ("float", -0.0) if dtype.kind == "f" else ("int64", -1)
    found = numbers(node, f"default_{kind}", dtype)
    return np.full(1, usual, dtype) if found is None else found.reshape(1), f"default_{kind}"


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`values` [K] and `default` [1], where they are floats.

    Raises:
        UnsupportedError: there are no keys, or not as many values.
    """
    table = _read(node)
    if not isinstance(table.values, np.ndarray) or table.values.dtype.kind != "f":
        return {}
    finite = table.values[np.isfinite(table.values)].astype(np.float64)
    size = float(np.std(finite)) or float(np.abs(finite).max()) if len(finite) else 0.0
    held = {"values": table.values}
    if table.default_name is not None:
        held["default"] = np.asarray(table.default)
    # NaN and infinities do not move.
    return {
        role: Tensor(value, "offsets", np.where(np.isfinite(value), size or 1.0, 0.0))
        for role, value in held.items()
    }


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """The place among the keys, and what stands there; the default stands in front."""
    table, x = _read(node), node.inputs[0]
    assert x is not None and node.graph is not None
    newest = node.graph.opset_imports.get("ai.onnx.ml", 1) >= 4
    place = places(builder, x, table.keys, nan_is_a_key=newest)
    if isinstance(table.values, list):
        held = builder.strings("values", [str(table.default), *table.values])
    elif table.values.dtype.kind != "f":
        held = builder.constant("values", np.concatenate([table.default, table.values]))
    else:
        held = builder.op("Concat", _first(builder, table), builder.tensor("values"), axis=0)
    return [builder.op("Gather", held, place, axis=0)]


def _first(builder: Builder, table: _Table) -> ir.Value:
    if "default" in builder.tensors:
        return builder.tensor("default")
    return builder.constant("default", table.default)


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensors are the attributes."""
    table = _read(node)
    names = {"values": table.values_name, "default": str(table.default_name)}
    return {names[role]: value for role, value in tuned.items()}


def _text(attributes: str, kind: str = "int64", version: int = 2, to: str = "float") -> str:
    return f"""<ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : {version}]>
    g ({kind}[N, 2] x) => ({to}[N, 2] y) {{
        [encoder] y = ai.onnx.ml.LabelEncoder <{attributes}> (x)
    }}"""


_REGRESSION = """y = ai.onnx.ml.LinearRegressor <coefficients = [0.5, 2.0],
                    intercepts = [1.0]> (numbers)"""
_MANY = ", ".join(str(3 * key - 100) for key in reversed(range(100)))

REWRITE = Rewrite(
    operator="LabelEncoder",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    # A key is there or it is not: only the table has a gradient.
    differentiable=((None, 0),),
    covers=covers,
    cases=(
        Case(
            "whole keys, a default",
            _text(
                "keys_int64s = [3, -1, 7], values_floats = [0.5, 1.5, -2.0], default_float = 9.0"
            ),
        ),
        Case(
            "float keys, one twice, no default",
            _text(
                "keys_floats = [3.0, nan, 0.5, 3.0], values_floats = [0.5, 1.5, -2.0, 4.0]", "float"
            ),
        ),
        Case(
            "NaN as a key, a tensor as default",
            _text(
                "keys_floats = [3.0, nan, 0.5], values_floats = [0.5, 1.5, -2.0], "
                "default_tensor = float[1] {0.25}",
                "float",
                4,
            ),
        ),
        Case(
            "tensors of doubles",
            _text(
                "keys_tensor = double[3] {3.0, nan, 0.1}, "
                "values_tensor = double[3] {0.1, 1.5, -2.0}, default_tensor = double[1] {0.7}",
                "double",
                4,
                "double",
            ),
        ),
        Case(
            "doubles without default",
            _text(
                "keys_tensor = int64[2] {3, 5}, values_tensor = double[2] {0.1, 1.5}",
                "int64",
                4,
                "double",
            ),
        ),
        Case(
            "many keys",
            _text(f"keys_int64s = [{_MANY}], values_floats = [{_MANY.replace(',', '.0,')}.0]"),
        ),
        Case(
            "many keys to whole numbers, in front of weights",
            f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
            g (float[N, 2] x) => (float[N, 1] y) {{
                codes = ai.onnx.ml.LabelEncoder <keys_floats = [{_MANY.replace(",", ".5,")}.5],
                    values_int64s = [{_MANY}], default_int64 = 5> (x)
                numbers = Cast <to = 1> (codes)
                {_REGRESSION}
            }}""",
        ),
        Case(
            "words as values",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
            g (float[N, 2] x) => (string[N] label, float[N, 2] y)
            <float[2, 2] m = {1.0, 2.0, 3.0, 0.5}> {
                y = MatMul (x, m)
                best = ArgMax <axis = 1, keepdims = 0> (y)
                label = ai.onnx.ml.LabelEncoder <keys_int64s = [1], values_strings = ["one"]> (best)
            }""",
        ),
        Case(
            "classes by number",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (string[N] label, float[N, 2] y)
            <float[2, 2] m = {1.0, 2.0, 3.0, 0.5}> {
                y = MatMul (x, m)
                best = ArgMax <axis = 1, keepdims = 0> (y)
                label = ai.onnx.ml.LabelEncoder <classes_strings = ["zero"],
                    default_string = "?"> (best)
            }""",
        ),
    ),
)  # fmt: skip
