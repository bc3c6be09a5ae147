"""The target as a loss takes it, and which rows are kept for validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from onnxtune.classes import Labels, class_labels, score_output, scored_labels
from onnxtune.data import Table, check_numbers, encode_labels
from onnxtune.errors import DataError
from onnxtune.losses import Loss
from onnxtune.preparation import Prepared
from onnxtune.tables import shown
from rewrites.core.rewrite import Array

_log = logging.getLogger(__name__)

# Fewer rows tell a standard error only roughly.
_ENOUGH = 30


def labels_of(prepared: Prepared, output: str) -> Labels | None:
    """The classes that an output scores, also where only the label beside it tells them."""
    proto = prepared.source.proto
    own = class_labels(proto, output)
    if own is None and score_output(proto) == output:
        own = class_labels(proto)
    return scored_labels(proto, output, own)


def target_for(table: Table, loss: Loss, labels: Sequence[int | str] | None, columns: int) -> Array:
    """Class indices [N] or floats [N, K].

    Raises:
        DataError: unknown labels, values that are no numbers, or another number of columns.
    """
    if table.target is None:
        raise DataError("y is missing: give the target values, or the name of their column.")
    if loss.target != "numbers" and labels is not None:
        places = encode_labels(table.target, labels)
        return places if loss.target == "classes" else places[:, None].astype(np.float64)
    numbers = check_numbers(table.target)
    shaped = numbers.reshape(table.rows, -1)
    if shaped.shape[1] != columns:
        raise DataError(
            f"y has {shaped.shape[1]} columns, but the output has {columns}, and the {loss.name} "
            "loss needs as many."
        )
    if loss.of_classes and ((shaped < 0) | (shaped > 1)).any():
        raise DataError(f"the {loss.name} loss of a single probability needs a target of 0 and 1.")
    if loss.power is not None:
        _check_deviance(shaped, loss)
    return shaped


def _check_deviance(target: Array, loss: Loss) -> None:
    """Where the variance is the mean to a power below 2 a target may be 0; never negative.

    Raises:
        DataError: a number that the loss does not take.
    """
    assert loss.power is not None
    positive = loss.power >= 2
    bad = (target <= 0) if positive else (target < 0)
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        wanted = "a target above 0" if positive else "a target without negative values"
        advice = "'poisson', 'tweedie(1.5)' or 'squared'" if positive else "'squared'"
        raise DataError(
            f"the {loss.name} loss needs {wanted}, and row {row} (counting from 0) holds "
            f"{shown(target[row][bad[row]][0])}; drop such rows, or choose {advice}."
        )


def warn_of_doubt(target: Array, loss: Loss, labels: Sequence[int | str] | None) -> None:
    """Log what makes a verdict on these validation rows unreliable.

    Args:
        target: as the loss takes it.
        loss: the loss.
        labels: of the classes, where they are known.
    """
    doubts = []
    if len(target) < _ENOUGH:
        doubts.append(f"there are only {len(target)} of them")
    if loss.target != "numbers" and len(target) and (target == target[0]).all():
        label = float(np.ravel(target)[0])
        name = f"{label:g}" if labels is None else repr(labels[int(label)])
        doubts.append(f"all are of class {name}")
    if doubts:
        _log.warning(
            "The verdict on the validation rows is unreliable, as %s; give more rows, or a larger "
            "`valid`.",
            " and ".join(doubts),
        )
