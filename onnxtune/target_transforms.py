"""Targets on another scale: how they get there, and how a graph comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.errors import ArgumentError, DataError, UnsupportedError
from onnxtune.graph_names import inner_graphs, names_of, unused
from onnxtune.preparation import OLDEST_OPSET, opset_of, set_opset
from onnxtune.runtime import declared_types, output_types
from onnxtune.tables import shown
from rewrites.core.rewrite import Array

TargetTransform = Literal["log1p", "log", "sqrt", "asinh"]

# The oldest opset whose arithmetic is written here: before, shapes were not broadcast.
_OLDEST = 7
# The IR version that goes with `OLDEST_OPSET`, and the opset for models of an older one.
_IR, _OPSET_BEFORE = 7, 9

_FLOATS = ("float", "double", "float16")

# Operator, values and constants that it reads, the value that it makes.
_Step = tuple[str, tuple[str | float, ...], str]


@dataclass(frozen=True)
class _Transform:
    """A function of the target, and back.

    Attributes:
        forward: of float64 numbers.
        allowed: which numbers it takes; `domain` says so in words.
        inverse: from the value "z" to the value "y".
    """

    forward: Callable[[Array], Array]
    allowed: Callable[[Array], Array]
    domain: str
    inverse: tuple[_Step, ...]


_TRANSFORMS: dict[str, _Transform] = {
    "log1p": _Transform(
        np.log1p,
        lambda y: y > -1,
        "numbers above -1",
        (("Exp", ("z",), "power"), ("Sub", ("power", 1.0), "y")),
    ),
    "log": _Transform(np.log, lambda y: y > 0, "numbers above 0", (("Exp", ("z",), "y"),)),
    "sqrt": _Transform(
        np.sqrt,
        lambda y: y >= 0,
        "numbers from 0 on",
        # Below 0 the square would rise again.
        (("Relu", ("z",), "root"), ("Mul", ("root", "root"), "y")),
    ),
    "asinh": _Transform(
        np.arcsinh,
        np.isfinite,
        "finite numbers",
        # Sinh itself has no kernel for doubles.
        (
            ("Exp", ("z",), "rising"),
            ("Neg", ("z",), "negative"),
            ("Exp", ("negative",), "falling"),
            ("Sub", ("rising", "falling"), "twice"),
            ("Mul", ("twice", 0.5), "y"),
        ),
    ),
}
TARGET_TRANSFORMS: tuple[str, ...] = tuple(_TRANSFORMS)


def transformed(name: str, target: Array) -> Array:
    """The target as a model is to learn it, float64 of the same shape.

    Args:
        name: of the transform.
        target: numbers, [N] or [N, K].

    Raises:
        ArgumentError: no such transform.
        DataError: a number that it does not take.
    """
    transform = _known(name)
    numbers = np.asarray(target, np.float64)
    bad = ~transform.allowed(numbers)
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), bad.shape)
        column = f", column {place[1]}" if bad.ndim > 1 and bad.shape[1] > 1 else ""
        raise DataError(
            f"the target holds {shown(numbers[place])} in row {place[0]}{column} (counting from "
            f"0), but target_transform '{name}' takes {transform.domain}; choose another, or drop "
            "such rows."
        )
    return np.asarray(transform.forward(numbers))


def with_inverse(proto: onnx.ModelProto, output: str, name: str) -> onnx.ModelProto:
    """A copy of a model whose output is what a transform has been undone of.

    The output keeps its name and its type. Nodes that read it keep reading the old value, which
    gets a name of its own.

    Args:
        proto: the model.
        output: name of one of its outputs, a tensor of floats.
        name: of the transform.

    Raises:
        ArgumentError: no such transform, or no such output.
        UnsupportedError: the output is no tensor of floats that a node makes, or the opset is
            older than broadcasting.
    """
    transform = _known(name)
    kind = _kind(proto, output)
    if not any(output in node.output for node in proto.graph.node):
        raise UnsupportedError(
            f"output '{output}' is not made by a node: there is nothing to tune."
        )
    opset = opset_of(proto) or opset_of(proto, "ai.onnx")
    if opset is not None and opset < _OLDEST:
        raise UnsupportedError(
            f"target_transform needs opset {_OLDEST} or newer, and the model has {opset}; export "
            "it again with a newer target_opset."
        )
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    if opset is None:
        set_opset(new, "", OLDEST_OPSET if new.ir_version >= _IR else _OPSET_BEFORE)
    taken = set(names_of(new.graph))
    old = unused(f"{output}_{name}", taken)
    _rename(new.graph, output, old)
    declared = next(value for value in new.graph.output if value.name == output)
    described = new.graph.value_info.add()
    described.CopyFrom(declared)
    described.name = old
    element = onnx.TensorProto.DataType.Value(kind.upper())
    new.graph.node.extend(_nodes(transform, element, {"z": old, "y": output}, taken))
    return new


def _known(name: str) -> _Transform:
    if name not in _TRANSFORMS:
        raise ArgumentError(f"target_transform '{name}' is none of {', '.join(TARGET_TRANSFORMS)}.")
    return _TRANSFORMS[name]


def _kind(proto: onnx.ModelProto, output: str) -> str:
    """The element type of an output, by onnxruntime's word for it."""
    names = [value.name for value in proto.graph.output]
    if output not in names:
        listed = ", ".join(repr(each) for each in names)
        raise ArgumentError(f"'{output}' is no output of the model; it has {listed}.")
    found = declared_types(proto).get(output)
    if found is None or found.kind in ("", "None", "tensor(undefined)"):
        found = next(value for value in output_types(proto) if value.name == output)
    kind = found.kind.removeprefix("tensor(").removesuffix(")")
    if kind not in _FLOATS:
        raise UnsupportedError(
            f"target_transform needs an output of numbers, and '{output}' is a {found.kind}."
        )
    return kind


def _nodes(
    transform: _Transform, element: int, names: dict[str, str], taken: set[str]
) -> Iterator[onnx.NodeProto]:
    """The nodes of the inverse; `names` are those of values that have one already."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    stem = names["z"]

    def named(value: str | float) -> str:
        key = str(value)
        if key not in names:
            names[key] = unused(f"{stem}/{key}", taken)
        return names[key]

    for operator, reads, makes in transform.inverse:
        for value in reads:
            if isinstance(value, float) and str(value) not in names:
                # Initializers would have to be inputs before IR 4; constants never do.
                tensor = numpy_helper.from_array(np.asarray(value, dtype))
                made = named(value)
                yield helper.make_node("Constant", [], [made], name=made, value=tensor)
        made = named(makes)
        title = made if makes != "y" else unused(f"{stem}/y", taken)
        yield helper.make_node(operator, [named(value) for value in reads], [made], name=title)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value wherever a node makes or reads it; not where the graph declares it."""
    for node in graph.node:
        held: Any
        for held in (node.input, node.output):
            for place in [place for place, name in enumerate(held) if name == old]:
                held[place] = new
        for inner in inner_graphs(node):
            _rename(inner, old, new)
            for output in inner.output:
                if output.name == old:
                    output.name = new
