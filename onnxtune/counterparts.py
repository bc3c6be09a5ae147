"""Which inputs and outputs of two models are the same under other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxtune.columns import counterparts
from onnxtune.data import load
from onnxtune.flow import Array
from onnxtune.runtime import ValueType


def feed_for(
    inputs: Sequence[ValueType],
    others: Sequence[ValueType],
    feed: Mapping[str, Array],
    data: Any = None,
    target: Any = None,
) -> dict[str, Array] | str:
    """What a second model is fed where a first one takes `feed`.

    An input is the same one under its own name, under the name that exporters make of it
    (`Age (years)` and `Age__years_`), or where either model has that one alone. Where this does not
    settle all of them, or the types differ, the data are read once more, for the second model.

    Args:
        inputs: of the second model.
        others: of the first.
        feed: input name of the first -> array.
        data: where the feed comes from; None where it was sampled.
        target: the column or the array of answers that came with the data.

    Returns:
        Input name of the second -> array, or the name of an input that the first one has not.

    Raises:
        DataError: the data do not fit the second model.
    """
    known = {value.name: value for value in others}
    found = counterparts([value.name for value in others], [value.name for value in inputs])
    if not found and len(inputs) == len(others) == 1:
        found = {inputs[0].name: others[0].name}
    strange = [value.name for value in inputs if value.name not in found]
    same = all(known[found[v.name]].kind == v.kind for v in inputs if v.name in found)
    # Not where some inputs are known and others are new: that is another model.
    other_names = len(strange) == len(inputs)
    if data is not None and (other_names or not (strange or same)):
        return load(data, inputs, target).feed
    if strange:
        return strange[0]
    return {value.name: _as(feed[found[value.name]], value) for value in inputs}


def _as(array: Array, value: ValueType) -> Array:
    numbers = array.dtype.kind in "biuf" and not value.is_string
    return np.asarray(array.astype(value.dtype)) if numbers else array


def output_names(first: Sequence[str], second: Sequence[str], loose: bool) -> dict[str, str]:
    """Output name of the second model -> that of the first.

    Args:
        first: names of the first model.
        second: of the second.
        loose: one of them was exported here, so that its names are not the user's: where no name is
            the same, the order of as many outputs tells.
    """
    if loose and len(first) == len(second) and not set(first) & set(second):
        return dict(zip(second, first, strict=True))
    return {name: name for name in second}
