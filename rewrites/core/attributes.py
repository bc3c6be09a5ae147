"""Typed reading of a node's attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from rewrites.core.rewrite import Array
from rewrites.errors import ModelError


def describe(node: ir.Node) -> str:
    """`Operator 'name'`, as error messages call a node."""
    return f"{node.op_type} '{node.name}'"


def numbers(node: ir.Node, name: str, dtype: Any) -> Array | None:
    """A list or tensor attribute as a 1-D array; None where it is absent.

    ai.onnx.ml lets `<name>_as_tensor` stand for `<name>` where the numbers are doubles.
    """
    plain = node.attributes.get(name)
    if plain is not None:
        return np.asarray(plain.value, dtype=dtype)
    tensor = node.attributes.get(f"{name}_as_tensor")
    return None if tensor is None else tensor.as_tensor().numpy().ravel()


def required(node: ir.Node, name: str, dtype: Any) -> Array:
    """Like `numbers`, for an attribute that must be there.

    Raises:
        ModelError: it is not.
    """
    found = numbers(node, name, dtype)
    if found is None:
        raise ModelError(f"{describe(node)}: the attribute '{name}' is missing.")
    return found


def strings(node: ir.Node, name: str) -> list[str]:
    """A list of strings; empty where it is absent."""
    found = node.attributes.get(name)
    return [] if found is None else list(found.as_strings())


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def string(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_string()
