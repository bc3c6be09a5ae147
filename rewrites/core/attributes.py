"""Typed reading of a node's attributes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from rewrites.core.rewrite import Array
from rewrites.errors import ModelError

if TYPE_CHECKING:
    import onnx


# Lists with more entries are held as arrays.
LONG = 1000


class LongList(ir.Attr):
    """An attribute with a long list, in an array: Python numbers take ten times the memory.

    `array` holds numbers, or of words the places in `words`.
    """

    def __init__(
        self, name: str, kind: ir.AttributeType, array: Array, words: Sequence[str] = ()
    ) -> None:
        super().__init__(name, kind, ())
        self.array = array
        self.words = tuple(words)

    @property
    def value(self) -> tuple[Any, ...]:
        """The list, as a tuple; made anew each time."""
        held = self.array.tolist()
        return tuple(self.words[place] for place in held) if self.words else tuple(held)


def is_long(attribute: onnx.AttributeProto) -> bool:
    """Whether an attribute holds a long list of numbers or words."""
    return max(len(attribute.ints), len(attribute.floats), len(attribute.strings)) > LONG


def long_list(attribute: onnx.AttributeProto) -> LongList | None:
    """An attribute that holds a long list; None for any other."""
    if not is_long(attribute):
        return None
    kinds = ir.AttributeType
    if len(attribute.ints):
        array = np.fromiter(attribute.ints, np.int64, len(attribute.ints))
        return LongList(attribute.name, kinds.INTS, array)
    if len(attribute.floats):
        array = np.fromiter(attribute.floats, np.float32, len(attribute.floats))
        return LongList(attribute.name, kinds.FLOATS, array)
    places: dict[bytes, int] = defaultdict(lambda: len(places))
    listed = attribute.strings
    array = np.fromiter((places[word] for word in listed), np.int32, len(listed))
    return LongList(attribute.name, kinds.STRINGS, array, [word.decode() for word in places])


def describe(node: ir.Node) -> str:
    """`Operator 'name'`, as error messages call a node."""
    return f"{node.op_type} '{node.name}'"


def numbers(node: ir.Node, name: str, dtype: Any) -> Array | None:
    """A list or tensor attribute as a 1-D array; None where it is absent.

    ai.onnx.ml lets `<name>_as_tensor` stand for `<name>` where the numbers are doubles.
    """
    plain = node.attributes.get(name)
    if isinstance(plain, LongList):
        return plain.array.astype(dtype)
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


def places_of_words(node: ir.Node, name: str) -> tuple[Array, list[str]]:
    """A list of strings as [n] places among its distinct words."""
    found = node.attributes.get(name)
    if isinstance(found, LongList):
        return found.array, list(found.words)
    listed = [] if found is None else list(found.as_strings())
    words = list(dict.fromkeys(listed))
    known = {word: place for place, word in enumerate(words)}
    return np.fromiter((known[word] for word in listed), np.int32, len(listed)), words


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def string(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_string()
