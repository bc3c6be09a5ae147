"""How far the outputs of two models are apart, one output after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import onnx

from onnxtune.classes import Labels, score_output, zip_map_keys
from onnxtune.flow import Array


@dataclass(frozen=True)
class OutputVerdict:
    """How one output of the candidate compares with the original's.

    `kind` is "float", "label" (integers, strings, booleans) or "other". `worst_row` is where the
    largest relative difference is, for labels the first row that counts as past the tolerance.
    `rows_past` counts rows past the tolerance; for labels those that differ and are no near tie,
    which `ties` counts. `label_agreement` is the share of rows with the same label. `problem`
    says why the outputs could not be compared, `note` what to know of how they were.
    """

    name: str
    kind: str
    worst_absolute: float | None = None
    worst_relative: float | None = None
    worst_row: int | None = None
    rows_past: int = 0
    label_agreement: float | None = None
    ties: int | None = None
    problem: str | None = None
    note: str | None = None

    @property
    def agrees(self) -> bool:
        """No problem, and no row past the tolerance."""
        return self.problem is None and self.rows_past == 0


@dataclass(frozen=True)
class Values:
    """An output as one array: `numbers` are float64, or labels as they came.

    `keys` are the columns' names where the output came as dictionaries.
    """

    kind: str
    numbers: Array
    keys: Labels | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.numbers.shape)


def as_values(model: onnx.ModelProto, results: Mapping[str, Any]) -> dict[str, Values]:
    """What onnxruntime returned, each output as one array; of a ZipMap, [N, K]."""
    return {name: _as_values(model, name, result) for name, result in results.items()}


def _as_values(model: onnx.ModelProto, name: str, result: Any) -> Values:
    if isinstance(result, list):
        declared = zip_map_keys(model, name)
        if declared is not None or (result and isinstance(result[0], dict)):
            keys = declared or tuple(sorted(result[0]))
            # onnxruntime sorts the keys of each dictionary; the tensor has the declared order
            picked: Iterable[Any] = map(itemgetter(*keys), result)
            flat = picked if len(keys) == 1 else chain.from_iterable(picked)
            table = np.fromiter(flat, np.float64, len(result) * len(keys))
            return Values("float", table.reshape(len(result), len(keys)), keys)
        result = _joined([np.asarray(part) for part in result])
    array = np.asarray(result)
    if array.dtype.kind == "f":
        return Values("float", array.astype(np.float64))
    return Values("label" if array.dtype.kind in "biuOSU" else "other", array)


def _joined(parts: list[Array]) -> Array:
    """A sequence as one array: columns side by side where its tensors are as long, else flat."""
    if len({"f" if part.dtype.kind == "f" else part.dtype.kind in "OSU" for part in parts}) != 1:
        return np.zeros(len(parts), np.complex64)  # a type that cannot be compared
    if len({part.shape[:1] for part in parts}) == 1 and parts[0].ndim:
        return np.concatenate([_flat(part, len(part)) for part in parts], axis=1)
    return np.concatenate([part.ravel() for part in parts])


def _flat(array: Array, rows: int) -> Array:
    return array.reshape(rows, -1) if array.size else array.reshape(rows, 0)


def compare(
    original: onnx.ModelProto,
    expected: Mapping[str, Values],
    found: Mapping[str, Values],
    rows: int,
    rtol: float,
    atol: float,
) -> tuple[OutputVerdict, ...]:
    """Compare the outputs of two models on the same rows; `expected` are the original's."""
    verdicts = []
    for name, first in expected.items():
        problem = _problem(first, found.get(name))
        if problem is not None:
            verdicts.append(OutputVerdict(name, first.kind, problem=problem))
        elif first.kind == "float":
            verdicts.append(_floats(name, first, found[name], rows, rtol, atol))
        else:
            score = score_output(original, name) or ""
            pair = expected.get(score), found.get(score)
            verdicts.append(_labels(name, first, found[name], pair, rows, rtol, atol))
    return tuple(verdicts)


def _problem(first: Values, second: Values | None) -> str | None:
    if second is None:
        return "is missing from the candidate."
    if "other" in (first.kind, second.kind):
        return "is of a type that cannot be compared."
    kinds = _element(first), _element(second)
    if kinds[0] != kinds[1]:
        return f"holds {kinds[0]} in the original, {kinds[1]} in the candidate."
    if first.shape != second.shape:
        return f"has shape {list(first.shape)} in the original, {list(second.shape)} here."
    if first.keys and second.keys and set(first.keys) != set(second.keys):
        return f"has the keys {list(first.keys)} in the original, {list(second.keys)} here."
    return None


def _element(values: Values) -> str:
    kind = values.numbers.dtype.kind
    return {"f": "fractions", "b": "booleans", "i": "integers", "u": "integers"}.get(
        kind, "strings"
    )


def _by_row(array: Array, rows: int) -> Array:
    """[rows, everything else]; one row where no axis is that long."""
    axis = next((i for i, size in enumerate(array.shape) if size == rows), None)
    if axis is None:
        return array.reshape(1, -1)
    return _flat(np.moveaxis(array, axis, 0), rows)


def _aligned(first: Values, second: Values) -> Array:
    """The second's numbers, its columns in the order of the first's."""
    if not first.keys or not second.keys or first.keys == second.keys:
        return second.numbers
    return second.numbers[:, [second.keys.index(key) for key in first.keys]]


def _floats(
    name: str, first: Values, second: Values, rows: int, rtol: float, atol: float
) -> OutputVerdict:
    y, other = _by_row(first.numbers, rows), _by_row(_aligned(first, second), rows)
    if not y.size:
        return OutputVerdict(name, "float", 0.0, 0.0)
    distance, size = _distance(y, other), _size(y)
    past = distance > atol + rtol * size
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(distance == 0, 0, distance / size)
    row = int(np.argmax(relative.max(axis=1)))
    worst = float(relative.max())
    return OutputVerdict(
        name,
        "float",
        float(distance.max()),
        worst,
        row if worst > 0 else None,
        int(past.any(axis=1).sum()),
    )


def _distance(y: Array, other: Array) -> Array:
    """|y - other|: 0 for NaN beside NaN and for equal infinities, infinite for other such pairs."""
    with np.errstate(invalid="ignore"):
        distance: Array = np.abs(y - other)
    distance[(y == other) | (np.isnan(y) & np.isnan(other))] = 0
    distance[np.isnan(distance)] = np.inf
    return distance


def _size(y: Array) -> Array:
    """max(|y|, rms y) by element; the rms is that of the finite elements, and stands for others."""
    finite = np.isfinite(y)
    rms = np.sqrt(np.mean(np.square(y[finite]))) if finite.any() else 0.0
    size: Array = np.maximum(np.where(finite, np.abs(y), 0), rms)
    return size


def _labels(
    name: str,
    first: Values,
    second: Values,
    scores: tuple[Values | None, Values | None],
    rows: int,
    rtol: float,
    atol: float,
) -> OutputVerdict:
    labels, others = _by_row(first.numbers, rows), _by_row(second.numbers, rows)
    differs = np.asarray((labels != others).any(axis=1), bool)
    tie, note = np.zeros(len(labels), bool), None
    table = scores[0]
    one_label = labels.shape[1] == 1
    if differs.any() and one_label and table is not None and table.kind == "float":
        y = _by_row(table.numbers, rows)
        if len(y) == len(labels) and y.shape[1]:
            slack = 2 * (atol + rtol * _size(y).max(axis=1))
            if y.shape[1] > 1:
                margin = _margin(y, labels[:, 0], slack)
            else:
                margin = _threshold_margin(y[:, 0], labels[:, 0])
                note = "one score a row: the threshold is taken to lie where the labels change."
            tie = differs & ~(margin > slack)
            if y.shape[1] == 1 and not _problem(table, scores[1]) and scores[1] is not None:
                other = _by_row(scores[1].numbers, rows)
                tie &= (_distance(y, other) <= atol + rtol * _size(y)).all(axis=1)
    wrong = np.flatnonzero(differs & ~tie)
    return OutputVerdict(
        name,
        "label",
        worst_row=int(wrong[0]) if len(wrong) else None,
        rows_past=len(wrong),
        label_agreement=float(1 - differs.mean()) if len(differs) else 1.0,
        ties=int(tie.sum()),
        note=note,
    )


def _margin(scores: Array, labels: Array, slack: Array) -> Array:
    """How far the best score is ahead of the next, by row.

    The best is the largest; or the smallest, if that and not the largest decides the labels. With
    two scores of which neither decides, the threshold lies elsewhere on their difference.
    """
    codes = np.unique(labels.astype(str), return_inverse=True)[1]
    for sign in (1, -1):
        margin = _lead(sign * scores)
        clear = margin > slack
        best = (sign * scores).argmax(axis=1)[clear]
        if len(np.unique(best)) == len(set(zip(best.tolist(), codes[clear].tolist(), strict=True))):
            return margin
    if scores.shape[1] == 2:
        return _threshold_margin(scores[:, 1] - scores[:, 0], labels)
    return _lead(scores)


def _lead(scores: Array) -> Array:
    """The largest score of a row less the next."""
    ordered = np.partition(scores, -2, axis=1)
    with np.errstate(invalid="ignore"):
        lead: Array = ordered[:, -1] - ordered[:, -2]
    return lead


def _threshold_margin(score: Array, labels: Array) -> Array:
    """How far a row's score is, at least, from a threshold that nobody tells.

    The rows of the high label lie above the threshold, all others below: it is further from a
    row than the last row on the same side is.
    """
    finite = np.isfinite(score)
    margin = np.where(finite, 0.0, np.nan)
    if not finite.any():
        return margin
    held, texts = score[finite], labels.astype(str)[finite]
    known = np.unique(texts)
    high = texts == known[int(np.argmax([held[texts == label].mean() for label in known]))]
    below = held[~high].max() if (~high).any() else held.max()
    margin[finite] = np.maximum(np.where(high, held - held[high].min(), below - held), 0)
    return margin
