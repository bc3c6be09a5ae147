"""Batches cut into pieces that fit into memory, and put together again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxtune import bindings
from onnxtune.errors import DataError
from onnxtune.memory import device_memory_at_hand, memory_at_hand
from onnxtune.profiles import row_sizes
from onnxtune.stages import Stage, Values, rows_of, run_chain, zeros

_log = logging.getLogger(__name__)

# Of the memory at hand a piece may take a quarter: what onnxruntime's arena holds came out at up
# to twice the peak of the values in it.
_SHARE = 0.25

# Rows of the two runs that tell how much memory one more row takes, at most.
_PROBES = (256, 512)

# Fewer rows are run at once without asking how much they take: values of rows x the largest tensor
# that the model holds have no more elements than that.
_FEW_ROWS, _FEW_ELEMENTS = 4096, 2**28


@dataclass(frozen=True)
class Forecast:
    """How many rows can be run at once.

    Attributes:
        fitting: those that fit into the memory at hand; None where that cannot be told, because
            every stage has inputs whose number of rows is fixed.
        counted: those whose values a provider can count the elements of; None where it counts all.
    """

    fitting: int | None
    counted: int | None


def few_rows(chain: Sequence[Stage]) -> int:
    """Rows that are run at once without a forecast."""
    held = (math.prod(t.dims) for stage in chain for t in stage.model.proto.graph.initializer)
    return max(1, min(_FEW_ROWS, _FEW_ELEMENTS // max(1, max(held, default=1))))


def forecast(chain: Sequence[Stage]) -> Forecast:
    """How many rows can be run at once, by what a few rows take in each stage.

    Raises:
        ArgumentError: an input's dimensions beside the rows vary.
    """
    fitting: list[int] = []
    counted: list[int] = []
    probes = [max(at, rows * few_rows(chain) // _FEW_ROWS) for at, rows in enumerate(_PROBES, 1)]
    for stage in chain:
        if len(stage.fixed) == len(stage.inputs):
            continue
        feeds = [zeros(stage.inputs, rows) for rows in probes]
        each = row_sizes(stage.model.content, stage.provider, feeds, probes)
        free = memory_at_hand()
        if bindings.device_of(stage.provider) == "cuda":
            free = device_memory_at_hand() or free
            counted.append(each.counted_rows)
        fitting.append(max(1, int(free * _SHARE / max(each.bytes, 1.0))))
    return Forecast(min(fitting, default=None), min(counted, default=None))


def run_pieces(
    chain: Sequence[Stage],
    feed: Mapping[str, Any],
    outputs: Sequence[str],
    size: int,
    fixed: Mapping[str, int],
) -> Values:
    """A batch in pieces of so many rows; where memory runs out all the same, in halves of these.

    Raises:
        DataError: an output has not one entry a row; not even one row fits.
    """
    total = rows_of(feed, fixed)
    made: list[Values] = []
    done = 0
    while done < total or not made:
        part = {
            name: each if name in fixed else each[done : done + size] for name, each in feed.items()
        }
        taken = rows_of(part, fixed)
        try:
            found = run_chain(chain, part, outputs)
        except MemoryError as error:
            if taken <= 1:
                raise DataError(f"Memory runs out with a single row ({error}).") from error
            size = (taken + 1) // 2
            _log.warning("Memory ran out with %s rows; going on with %s at a time.", taken, size)
            continue
        if taken < total:
            _check_rows(found, taken)
        made.append(found)
        done += taken
    return made[0] if len(made) == 1 else {name: _joined(made, name) for name in outputs}


def run_filled(
    feed: Mapping[str, Any],
    outputs: Sequence[str],
    size: int,
    run: Callable[[Mapping[str, Any]], Values],
) -> Values:
    """A model of a fixed batch size on any number of rows: the last batch is filled up.

    Raises:
        DataError: an output has not one entry a row; one batch does not fit.
    """
    total = len(next(iter(feed.values())))
    made = []
    for start in range(0, total, size):
        rows = min(size, total - start)
        places = start + np.minimum(np.arange(size), rows - 1)
        try:
            found = run({name: _taken(each, places) for name, each in feed.items()})
        except MemoryError as error:
            raise DataError(
                f"Memory runs out with {size} rows, which the model fixes ({error})."
            ) from error
        _check_rows(found, size)
        made.append({name: each[:rows] for name, each in found.items()})
    return {name: _joined(made, name) for name in outputs}


def _taken(values: Any, places: np.ndarray[Any, Any]) -> Any:
    return values[places.tolist()] if bindings.is_tensor(values) else values[places]


def _check_rows(values: Values, rows: int) -> None:
    for name, each in values.items():
        # A list has a dictionary for every row (ZipMap), or is a sequence of tensors.
        listed = isinstance(each, list) and not all(isinstance(entry, dict) for entry in each)
        if listed or getattr(each, "shape", None) == () or len(each) != rows:
            raise DataError(
                f"Output '{name}' has not one entry a row, so the batch cannot be run in pieces; "
                "give fewer rows, or chunk=None."
            )


def _joined(made: Sequence[Values], name: str) -> Any:
    parts = [values[name] for values in made]
    if isinstance(parts[0], list):
        return [entry for part in parts for entry in part]
    if bindings.is_tensor(parts[0]):
        import torch

        return torch.cat(parts)
    return np.concatenate(parts)
