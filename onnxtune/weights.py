"""How much each row counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from onnxtune.errors import ArgumentError
from onnxtune.tables import shown, to_array
from rewrites.core.rewrite import Array

ClassWeight = Literal["balanced"] | Mapping[Any, float]


def sample_weights(values: Any, rows: int, *, none: bool = False) -> Array:
    """[N] float64 of the user's weights.

    Raises:
        ArgumentError: not one number from 0 a row; or all are 0, unless there may be `none`.
    """
    array = to_array(values, "sample_weight")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ArgumentError("sample_weight holds values that are no numbers.") from None
    if numbers.shape != (rows,):
        raise ArgumentError(
            f"sample_weight has shape {list(numbers.shape)}; give one number for each of the "
            f"{rows} rows."
        )
    bad = ~np.isfinite(numbers) | (numbers < 0)
    if bad.any():
        at = int(np.argmax(bad))
        raise ArgumentError(
            f"sample_weight holds {numbers[at]:g} in row {at} (counting from 0); weights are "
            "numbers from 0."
        )
    if not (none or numbers.any()):
        raise ArgumentError("sample_weight is 0 in every row.")
    return numbers


def class_weights(
    given: ClassWeight | None, labels: Sequence[int | str] | None, target: Array, classes: int
) -> Array | None:
    """[K] float64, the weight of each class; None for no difference.

    Args:
        given: "balanced" for N / (K * rows of the class), as in scikit-learn, and 1 for classes
            without rows; or a weight by label, 1 where there is none.
        labels: of the classes, in order; None where the target holds no classes.
        target: [N] or [N, 1] class indices of the rows to train on.
        classes: K.

    Raises:
        ArgumentError: the target has no classes, an unknown label, or a weight below 0.
    """
    if given is None:
        return None
    if labels is None:
        raise ArgumentError("class_weight is for classifiers, and this output scores no classes.")
    if isinstance(given, str):
        if given != "balanced":
            raise ArgumentError(
                f"class_weight must be 'balanced' or a mapping of labels to weights, not {given!r}."
            )
        counts = np.bincount(np.ravel(target).astype(np.int64), minlength=classes)
        # A class that is not trained on may be in other rows, which count in what is reported.
        return np.where(counts > 0, len(target) / (classes * np.maximum(counts, 1)), 1.0)
    if not isinstance(given, Mapping):
        raise ArgumentError(
            "class_weight must be 'balanced' or a mapping of labels to weights, not "
            f"{type(given).__name__}."
        )
    found = np.ones(classes)
    written = {str(label): place for place, label in enumerate(labels)}
    for label, weight in given.items():
        if str(label) not in written:
            raise ArgumentError(
                f"class_weight: there is no class {shown(label)}; the classes are "
                f"{', '.join(map(shown, labels))}."
            )
        try:
            found[written[str(label)]] = float(weight)
        except (TypeError, ValueError):
            found[written[str(label)]] = np.nan
        if not 0 <= found[written[str(label)]] < np.inf:
            raise ArgumentError(
                f"class_weight: {shown(label)} has {weight!r}; weights are numbers from 0."
            )
    return found


def row_weights(samples: Array | None, classes: Array | None, target: Array) -> Array | None:
    """[N] the product of both, 1 on average; None where all rows count alike.

    Args:
        samples: [N] or None.
        classes: [K] weights, or None.
        target: [N] or [N, 1] class indices, where there are class weights.

    Raises:
        ArgumentError: no row counts.
    """
    found = samples
    if classes is not None:
        own = classes[np.ravel(target).astype(np.int64)]
        found = own if found is None else own * found
    if found is None:
        return None
    mean = float(found.mean()) if len(found) else 1.0
    if not mean > 0:
        raise ArgumentError("sample_weight and class_weight leave a part of the rows without any.")
    return np.asarray(found / mean)
