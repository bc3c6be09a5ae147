"""Scores a model as scikit-learn does: its scorers get the ONNX model as an estimator.

A scorer is a callable (estimator, X, y) -> float, higher being better, as
`sklearn.metrics.get_scorer` returns it.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import onnx

from onnxtune.agreement import as_values
from onnxtune.classes import Labels, label_outputs, score_output
from onnxtune.data import check_numbers, encode_labels, take
from onnxtune.errors import ArgumentError, DataError, OnnxTuneError
from onnxtune.runtime import run, session
from rewrites.core.rewrite import Array

Scorer = Callable[[Any, Any, Any], Any]

_log = logging.getLogger(__name__)

# Rows that the model gets at once.
_PIECE = 4096


def named_scorers(metrics: Any) -> dict[str, Scorer]:
    """Scorers by name.

    Args:
        metrics: a name that `sklearn.metrics.get_scorer` knows, a scorer, several of these, or a
            mapping of name to either.

    Raises:
        ArgumentError: no such metric, or two of one name.
    """
    if isinstance(metrics, Mapping):
        return {str(name): _scorer(given) for name, given in metrics.items()}
    single = isinstance(metrics, str) or callable(metrics)
    if not single and not isinstance(metrics, Iterable):
        _scorer(metrics)  # which says what it may be
    found: dict[str, Scorer] = {}
    for given in [metrics] if single else metrics:
        name, scorer = _name(given), _scorer(given)
        if name in found:
            raise ArgumentError(
                f"Metric '{name}' is there twice; give a mapping of names to scorers."
            )
        found[name] = scorer
    return found


def _name(given: Any) -> str:
    """A scorer's own name, or that of the function that scikit-learn made it of."""
    made_of = getattr(given, "_score_func", given)
    return given if isinstance(given, str) else str(getattr(made_of, "__name__", "scorer"))


def _scorer(given: Any) -> Scorer:
    if callable(given):
        scorer: Scorer = given
        return scorer
    if not isinstance(given, str):
        raise ArgumentError(
            f"Metric {given!r} is neither a name that scikit-learn knows nor a scorer, a callable "
            "(estimator, X, y) -> float."
        )
    from sklearn.metrics import get_scorer, get_scorer_names

    names = get_scorer_names()
    if given not in names:
        near = [name for name in names if given in name]
        near = difflib.get_close_matches(given, names, 5, 0.5) or near[:5]
        advice = f"near it are {', '.join(near)}" if near else "give another"
        raise ArgumentError(
            f"Metric '{given}' is unknown: {advice}; sklearn.metrics.get_scorer_names() has all."
        )
    named: Scorer = get_scorer(given)
    return named


def scores(
    metrics: Any,
    proto: onnx.ModelProto,
    feed: Mapping[str, Array],
    target: Array,
    labels: Labels | None,
    output: str,
    *,
    lenient: bool = False,
) -> dict[str, float]:
    """What the scorers say of a model, which onnxruntime runs.

    A classifier has `predict`, and `predict_proba` where its output holds probabilities, else
    `decision_function`; its classes are sorted, as an estimator's are. X is the array of the
    model's only input, or a mapping of input name to array.

    Args:
        metrics: as `named_scorers` takes them.
        proto: the model.
        feed: its inputs, N rows.
        target: [N] labels, or [N] or [N, K] numbers, as they came.
        labels: of the classes, one a column of the output, or two for one column; None for a
            regressor.
        output: name of the float output with the scores.
        lenient: whether a metric that cannot be computed is NaN, with a warning: the model was
            tuned, and an error would cost the whole run.

    Returns:
        One number for each metric, by name.

    Raises:
        ArgumentError: no such metric, one that cannot be computed of this model on these rows, or
            one that returns no number.
        DataError: the target does not fit, or onnxruntime cannot run the rows.
    """
    scorers = named_scorers(metrics)
    if not scorers:
        return {}
    model, wanted = _served(proto, feed, target, labels, output)
    rows = feed if model.only is None else feed[model.only]
    found = {}
    for name, scorer in scorers.items():
        try:
            found[name] = _figure(name, scorer, model, rows, wanted)
        except OnnxTuneError as error:
            if not lenient:
                raise
            _log.warning("Of the tuned model: %s; it is NaN.", str(error).rstrip("."))
            found[name] = math.nan
    return found


def _figure(name: str, scorer: Scorer, model: ServedModel, rows: Any, wanted: Array) -> float:
    try:
        found = scorer(model, rows, wanted)
    except OnnxTuneError:
        raise
    except Exception as error:  # a scorer may be anybody's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArgumentError(f"Metric '{name}' cannot be computed here: {reason}") from error
    if not isinstance(found, Real):
        raise ArgumentError(
            f"Metric '{name}' returned {type(found).__name__}; a scorer must return one number."
        )
    return float(found)


@dataclass
class ServedModel:
    """An ONNX model as scikit-learn's scorers take an estimator: with `predict`.

    Attributes:
        proto: the model.
        output: name of its output with the scores.
        label: name of that with the labels; None where there is none.
        labels: of the classes by column; None for a regressor.
        only: name of its only input; None where X is a mapping.
        share: whether the scores are probabilities.
    """

    proto: onnx.ModelProto
    output: str
    label: str | None
    labels: Labels | None
    only: str | None
    share: bool = False
    _session: Any = field(default=None, repr=False)
    _last: tuple[Any, dict[str, Array]] | None = field(default=None, repr=False)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn tells a classifier from a regressor by."""
        from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags

        classifier = self.labels is not None
        return Tags(
            estimator_type="classifier" if classifier else "regressor",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if classifier else None,
            regressor_tags=None if classifier else RegressorTags(),
        )

    def __sklearn_is_fitted__(self) -> bool:
        """It is."""
        return True

    def predict(self, X: Any) -> Array:
        """[N] labels; of a regressor [N] or [N, K] numbers."""
        found = self.outputs(X)
        table = found[self.output]
        if self.labels is None:
            return table[:, 0] if table.shape[1] == 1 else table
        known = np.array(self.labels)
        if self.label is not None:
            return known[encode_labels(found[self.label], self.labels)]
        if table.shape[1] == 1:
            return known[(table[:, 0] > (0.5 if self.share else 0.0)).astype(np.int64)]
        return np.asarray(known[table.argmax(axis=1)])

    def outputs(self, X: Any) -> dict[str, Array]:
        """The scores, [N, K] float64, and labels [N]; kept for as long as X is the same."""
        if self._last is not None and self._last[0] is X:
            return self._last[1]
        feed = X if self.only is None else {self.only: np.asarray(X)}
        names = [self.output] if self.label is None else [self.output, self.label]
        if self._session is None:
            self._session = session(self.proto)
        count = len(next(iter(feed.values())))
        pieces = [
            as_values(self.proto, run(self._session, take(feed, slice(at, at + _PIECE)), names))
            for at in range(0, max(1, count), _PIECE)
        ]
        found = {name: np.concatenate([part[name].numbers for part in pieces]) for name in names}
        shaped = found[self.output].reshape(count, -1)
        # Scorers must not change what others are to see.
        shaped.flags.writeable = False
        self._last = (X, found | {self.output: shaped})
        return self._last[1]


class ServedClassifier(ServedModel):
    """One of classes."""

    @property
    def classes_(self) -> Array:
        """[K] the labels, sorted."""
        assert self.labels is not None
        return np.sort(np.array(self.labels))

    def ordered(self, X: Any) -> Array:
        """[N, K]: the scores in the order of `classes_`; of one column both."""
        assert self.labels is not None
        table = self.outputs(X)[self.output]
        if table.shape[1] == 1:
            table = np.concatenate([1 - table if self.share else -table, table], axis=1)
        return table[:, np.argsort(np.array(self.labels), kind="stable")]


class ServedProbabilities(ServedClassifier):
    """A classifier whose output holds probabilities."""

    def predict_proba(self, X: Any) -> Array:
        """[N, K], rows that sum to 1 in doubles."""
        share = self.ordered(X).clip(0, 1)
        return np.asarray(share / share.sum(axis=1, keepdims=True))


class ServedScores(ServedClassifier):
    """A classifier whose output holds scores of any size."""

    def decision_function(self, X: Any) -> Array:
        """[N, K]; of two classes [N], above 0 for the second."""
        table = self.ordered(X)
        if table.shape[1] > 2:
            return table
        # Of (-s, s) the score is s.
        mirrored = np.array_equal(table[:, 0], -table[:, 1])
        return table[:, 1] if mirrored else np.asarray(table[:, 1] - table[:, 0])


def _served(
    proto: onnx.ModelProto,
    feed: Mapping[str, Array],
    target: Array,
    labels: Labels | None,
    output: str,
) -> tuple[ServedModel, Array]:
    """The model as the estimator that its output makes it, and the target as that has it.

    Raises:
        DataError: the target does not fit.
    """
    only = next(iter(feed)) if len(feed) == 1 else None
    label = None if labels is None else _label_output(proto, output)
    plain = ServedModel(proto, output, label, labels, only)
    rows = feed if only is None else feed[only]
    found = plain.outputs(rows)
    table = found[output]
    if labels is None:
        wanted = check_numbers(target)
        wanted = wanted.reshape(len(wanted), -1)
        if wanted.shape != table.shape:
            raise DataError(
                f"the target has shape {list(wanted.shape)}, and output '{output}' "
                f"{list(table.shape)}; metrics need as many numbers of each."
            )
        return plain, wanted[:, 0] if wanted.shape[1] == 1 else wanted
    if table.shape[1] not in ((1, 2) if len(labels) == 2 else (len(labels),)):
        raise DataError(
            f"output '{output}' has {table.shape[1]} columns for {len(labels)} classes; metrics "
            "need one a class."
        )
    inside = bool(((table >= -1e-6) & (table <= 1 + 1e-6)).all())
    even = table.shape[1] == 1 or bool((np.abs(table.sum(axis=1) - 1) < 1e-3).all())
    kind = ServedProbabilities if inside and even else ServedScores
    if label is not None and not set(np.unique(found[label]).tolist()) <= set(labels):
        label = None
    model = kind(proto, output, label, labels, only, inside and even, plain._session, plain._last)
    return model, np.array(labels)[encode_labels(target, labels)]


def _label_output(proto: onnx.ModelProto, output: str) -> str | None:
    """The output whose labels are read off these scores."""
    return next((n for n in label_outputs(proto) if score_output(proto, n) == output), None)
