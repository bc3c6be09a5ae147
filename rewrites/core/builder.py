"""Builds the nodes and initializers that stand in for one node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rewrites.core.rewrite import ANYWHERE, Array, Routing, Serving, Tensor
from rewrites.errors import UnsupportedError

# Operators of this domain exist in torch only and never appear in an exported file.
PRIVATE_DOMAIN = "onnxtune"


class Builder:
    """Records standard nodes over named tensors on an unbound tape.

    Every name begins with the node's own, `<node>/`, so two instances never collide.
    """

    def __init__(
        self,
        node_name: str,
        tensors: dict[str, Tensor],
        routing: Routing = "hard",
        temperature: float = 0.1,
        spread: Array | None = None,
        for_torch: bool = False,
        serving: Serving = ANYWHERE,
        opset: int = 17,
    ) -> None:
        """Start an empty recording for the node of this (unique) name.

        Args:
            node_name: prefix of every name.
            tensors: the node's learned tensors by role.
            routing: how decision nodes pass a row on.
            temperature: width of a soft gate in units of its feature's spread.
            spread: standard deviation of each feature of the node's first input, [F].
            for_torch: whether operators of the private domain may be used.
            serving: where a hard form is to run.
            opset: of the default domain.
        """
        self.node_name = node_name
        self.tensors = tensors
        self.routing: Routing = routing
        self.temperature = temperature
        self.spread = spread
        self.for_torch = for_torch
        self.serving = serving
        self.opset = opset
        self.tape = Tape()
        self._held: dict[str, ir.Value] = {}

    def op(
        self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Add a node with one output."""
        name = f"{self.node_name}/{op_type}_{len(self.tape.nodes)}"
        value = self.tape.op(op_type, inputs, attributes or None, domain=domain, name=name)
        value.name = f"{name}:0"
        return value

    def reduce_first(self, how: str, value: ir.Value, keepdims: int) -> ir.Value:
        """`how` ("Sum", "Min" or "Max") over the first axis."""
        if how == "Sum" or self.opset >= 18:
            axis = self.constant("axis_0", [0], np.int64)
            return self.op(f"Reduce{how}", value, axis, keepdims=keepdims)
        # Up to opset 17 these take their axes as an attribute.
        return self.op(f"Reduce{how}", value, axes=[0], keepdims=keepdims)

    def tensor(self, role: str) -> ir.Value:
        """The learned tensor of this role, an initializer called `<node>/<role>`."""
        held = self._held.get(role)
        return self.constant(role, self.tensors[role].value) if held is None else held

    def stand_in(self, role: str, value: ir.Value) -> None:
        """From here on `tensor(role)` is this value, made of the learned tensor."""
        self._held[role] = value

    def constant(self, role: str, array: Any, dtype: Any = None) -> ir.Value:
        """A constant that is not tuned, an initializer called `<node>/<role>`, made once."""
        if role not in self._held:
            value = np.asarray(array, dtype=dtype)
            tensor = ir.tensor(value, name=f"{self.node_name}/{role}")
            self._held[role] = self.tape.initializer(tensor)
        return self._held[role]

    def strings(self, role: str, values: list[str]) -> ir.Value:
        """A constant tensor of strings, [n]."""
        tensor = ir.StringTensor(
            [value.encode() for value in values],
            shape=ir.Shape([len(values)]),
            name=f"{self.node_name}/{role}",
        )
        return self.tape.initializer(tensor)

    def as_float(self, value: ir.Value | None, keep_double: bool = False) -> ir.Value:
        """The value as float32, other number types cast; doubles stay where `keep_double`."""
        if value is None:
            raise UnsupportedError(f"'{self.node_name}': its input is missing.")
        if value.dtype in (None, ir.DataType.FLOAT):
            return value
        if value.dtype == ir.DataType.DOUBLE and keep_double:
            return value
        cast = self.op("Cast", value, to=int(ir.DataType.FLOAT))
        cast.dtype = ir.DataType.FLOAT
        return cast


def numpy_dtype(value: ir.Value) -> np.dtype[Any]:
    """float64 for a double value, else float32 (an unknown type is taken for float)."""
    return np.dtype(np.float64 if value.dtype == ir.DataType.DOUBLE else np.float32)
