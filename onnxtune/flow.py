"""Columns of a graph's inputs as they flow through it, and what its nodes tell of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxtune.runtime import ValueType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Flow:
    """Columns of a value: column j holds `scale[j] * x + offset[j]`, x being an input column.

    `source[j]` is the number of that input column over all inputs, -1 where it is not known;
    `scale[j]` is NaN where the column is a code of the input's categories, no arithmetic.
    `filled[j]` is true where an Imputer has taken the NaN out. `whole` names the input, of a
    width that nothing tells yet, that the value is; its arrays are empty.
    """

    source: Array
    scale: Array
    offset: Array
    filled: Array
    whole: str | None = None

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.source)

    @property
    def unmoved(self) -> Array:
        """Where the column is the input's as it is."""
        same: Array = (self.scale == 1) & (self.offset == 0)
        return same

    def take(self, columns: Any) -> Flow:
        """Some of the columns, by a numpy index."""
        return Flow(
            self.source[columns], self.scale[columns], self.offset[columns], self.filled[columns]
        )


@dataclass(frozen=True)
class Forest:
    """A tree ensemble: its features, its attributes, and its nodes' thresholds."""

    flow: Flow
    attributes: dict[str, Any]
    thresholds: Array


@dataclass
class Trace:
    """What the nodes of a graph read of its inputs; arrays are indexed by input column.

    `first` is the number of an input's first column; `text` marks columns of strings. `reads`
    says that a node reads the column for arithmetic, as `scale * x + offset`; `raw` and `moved`,
    that trees read it, as it is or behind arithmetic; `routes_nan`, that a node has a place for
    NaN; `poisoned`, that NaN would reach one that has not. `categories` holds what encoders know,
    by column; `closed` are the columns whose encoder refuses anything else; `specials` are
    numbers that mean "missing". `thresholds` rows are (column, threshold, scale, offset, spacing
    of floats at the threshold). `wanted` and `needed` are widths that nodes tell of inputs that
    declare none: just so many columns, or at least so many.
    """

    inputs: list[ValueType]
    widths: dict[str, int]
    constants: dict[str, Array]
    first: dict[str, int] = field(init=False)
    text: Array = field(init=False)
    reads: Array = field(init=False)
    scale: Array = field(init=False)
    offset: Array = field(init=False)
    raw: Array = field(init=False)
    moved: Array = field(init=False)
    routes_nan: Array = field(init=False)
    poisoned: Array = field(init=False)
    categories: dict[int, list[Any]] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    specials: dict[int, list[float]] = field(default_factory=dict)
    thresholds: list[Array] = field(default_factory=list)
    forests: list[Forest] = field(default_factory=list)
    wanted: dict[str, int] = field(default_factory=dict)
    needed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Number the columns."""
        sizes = [self.widths.get(value.name, 0) for value in self.inputs]
        *starts, total = [0, *accumulate(sizes)]
        self.first = {value.name: at for value, at in zip(self.inputs, starts, strict=True)}
        texts = np.array([value.is_string for value in self.inputs], bool)
        self.text = np.repeat(texts, np.array(sizes, np.int64))
        self.scale, self.offset = np.ones(total), np.zeros(total)
        for name in ("reads", "raw", "moved", "routes_nan", "poisoned"):
            setattr(self, name, np.zeros(total, bool))

    def columns(self, value: ValueType) -> range:
        """The numbers of an input's columns."""
        start = self.first[value.name]
        return range(start, start + self.widths.get(value.name, 0))

    def want(self, flow: Flow, width: int) -> None:
        """A node takes just so many columns."""
        if flow.whole is not None and width > 0:
            self.wanted[flow.whole] = width

    def need(self, flow: Flow, width: int) -> None:
        """A node reads the column before this one."""
        if flow.whole is not None:
            self.needed[flow.whole] = max(width, self.needed.get(flow.whole, 1))

    def read(self, flow: Flow) -> None:
        """A node outside this module's knowledge reads the value."""
        known = flow.source >= 0
        source = flow.source[known]
        self.poisoned[source[~flow.filled[known]]] = True
        told = ~flow.unmoved[known] | ~self.reads[source]
        self.scale[source[told]] = flow.scale[known][told]
        self.offset[source[told]] = flow.offset[known][told]
        self.reads[source] = True

    def split(self, flow: Flow, feature: Array, threshold: Array) -> None:
        """Columns of the value are compared with numbers."""
        feature, threshold = np.broadcast_arrays(feature, threshold)
        if feature.size == 0 or feature.max() >= flow.width:
            return
        known = flow.source[feature] >= 0
        feature, limit = feature[known], threshold[known]
        precise = limit.dtype if limit.dtype.kind == "f" else np.dtype("float32")
        spacing = np.spacing(np.abs(limit.astype(precise))).astype(np.float64)
        columns = (flow.source[feature], limit, flow.scale[feature], flow.offset[feature], spacing)
        self.thresholds.append(np.stack([c.astype(np.float64) for c in columns], axis=1))


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name: numbers, arrays, `str`, lists of `str`; others as onnx gives them."""
    kinds = onnx.AttributeProto
    found: dict[str, Any] = {}
    for held in node.attribute:
        if held.type == kinds.STRING:
            found[held.name] = held.s.decode("utf-8", "replace")
        elif held.type == kinds.STRINGS:
            found[held.name] = [text.decode("utf-8", "replace") for text in held.strings]
        elif held.type == kinds.FLOATS:
            found[held.name] = np.array(held.floats, np.float32)
        elif held.type == kinds.INTS:
            found[held.name] = np.array(held.ints, np.int64)
        elif held.type == kinds.TENSOR:
            found[held.name] = numpy_helper.to_array(held.t)
        else:
            found[held.name] = onnx.helper.get_attribute_value(held)
    return found
