"""A tuned classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from sklearn.base import ClassifierMixin, is_regressor
from sklearn.utils import compute_sample_weight, get_tags

from onnxtune.classes import class_labels, label_outputs, score_output, scored_labels
from onnxtune.errors import ArgumentError, DataError, ModelError
from onnxtune.runtime import output_types
from onnxtune.sklearn.availability import available_if_known
from onnxtune.sklearn.base import TunedEstimator
from onnxtune.sklearn.fitting import Rows
from onnxtune.sklearn.inputs import checked_target, feeds
from onnxtune.sklearn.labels import Classes, classes_of, classes_of_model
from onnxtune.sklearn.serving import may_pass_one

Array = np.ndarray[Any, Any]

# A probability of 0 has no logarithm; the least positive number of single precision.
_SMALLEST = np.float32(1.2e-38)


def _has_probabilities(self: TunedClassifier) -> bool:
    known = self.__dict__.get("_probable")
    return self._promises("predict_proba") if known is None else bool(known)


def _has_decisions(self: TunedClassifier) -> bool:
    known = self.__dict__.get("_decides")
    return self._promises("decision_function") if known is None else bool(known)


class TunedClassifier(ClassifierMixin, TunedEstimator):  # type: ignore[misc]
    """A classifier that is fitted, exported and tuned, and answers through onnxruntime.

    Args:
        estimator: a classifier or pipeline that has an export, or a model: a path, bytes or an
            `onnx.ModelProto`.
        valid: which rows to hold out from the fit and to judge by: a share, "last", rows' numbers,
            booleans or groups as of `onnxtune.tune`, or (X, y) or (X, y, weights) of their own.
        loss: as of `onnxtune.tune`, and so are `output`, `sampling`, `routing`,
            `temperature`, `max_size`, `companion`, `only_numbers`, `freeze`, `noise`, `epochs`,
            `batch_size`, `lr`, `clip`, `precision`, `patience` and `device`.
        class_weight: "balanced", or a mapping of labels to weights, for the fit and for tuning.
        form: in which form the model answers: "native", "hard" or "soft".
        threads: of torch, and of the session that answers; "auto" leaves them to either.
        random_state: a whole number is the seed of tuning, and of estimators inside that have none;
            a RandomState or None draws one.

    Attributes:
        onnx_: the model that answers, an `onnx.ModelProto`.
        report_: the report of tuning; "kept" says why the original was kept, or is None.
        history_: a dictionary for each epoch.
        estimator_: the fitted clone; None for a model file. Not in a pickle.
        result_: the `TuneResult` that the model is of; None where it is not tuned. Not in a pickle.
        classes_: [K] labels; a list of them where there are several targets.
        n_features_in_: the number of columns of `X`.
        feature_names_in_: their names, where `X` is a DataFrame.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        valid: Any = 0.2,
        loss: Any = "auto",
        output: str | None = None,
        class_weight: Any = None,
        sampling: str | None = None,
        routing: str = "auto",
        temperature: Any = "auto",
        max_size: float = 1,
        companion: bool = False,
        only_numbers: bool = False,
        freeze: Any = (),
        noise: float = 0.0,
        epochs: int = 30,
        batch_size: int | None = None,
        lr: Any = None,
        clip: float | None = None,
        precision: str = "float32",
        patience: int = 8,
        form: Any = "native",
        device: str = "auto",
        threads: Any = "auto",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            estimator,
            valid=valid,
            loss=loss,
            output=output,
            routing=routing,
            temperature=temperature,
            max_size=max_size,
            companion=companion,
            only_numbers=only_numbers,
            freeze=freeze,
            noise=noise,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            clip=clip,
            precision=precision,
            patience=patience,
            form=form,
            device=device,
            threads=threads,
            random_state=random_state,
        )
        self.class_weight = class_weight
        self.sampling = sampling

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if not self._is_file():
            inner = get_tags(self.estimator).classifier_tags
            if inner is not None:
                tags.classifier_tags.multi_class = inner.multi_class
                tags.classifier_tags.multi_label = inner.multi_label
                tags.classifier_tags.poor_score = inner.poor_score
        return tags

    # Fitting

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TunedClassifier:
        """Fit a clone, export it, and tune it on rows that it was not fitted on.

        Args:
            X: rows as the estimator takes them.
            y: [N] labels, or [N, K] of several targets.
            sample_weight: [N], how much each row counts.

        Raises:
            ValueError: rows, labels or parameters that cannot be used.
            UnsupportedError: the estimator has no export.
        """
        self._check_estimator("predict")
        if not self._is_file() and is_regressor(self.estimator):
            raise ArgumentError("the estimator is a regressor: TunedRegressor wraps it.")
        checked = self._checked(X, y, reset=True)
        weight = self._weights(sample_weight, checked)
        # A class whose rows all weigh nothing is not there.
        rows = Rows(checked, checked_target(y, numbers=False), weight, self.valid).counting()
        target = np.asarray(rows.y)
        self._classes = self._classes_of_file() if self._is_file() else classes_of(target)
        target, weight = self._as_held(target, rows.weight)
        self._fit(replace(rows, y=target, weight=weight), classes=True, sampling=self.sampling)
        self.classes_ = self._classes.given
        self._look_at(rows.X)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> TunedClassifier:
        """Go on tuning with further rows, each used once; the first call is a `fit`.

        Args:
            X: rows as the estimator takes them.
            y: their labels, of those that there were in the fit.
            classes: all labels, which the first rows have to hold.
            sample_weight: [N], how much each row counts.

        Raises:
            ValueError: rows or labels that cannot be used.
            UnsupportedError: nothing in the model can be tuned, or it is not in the native form.
        """
        if not self.__sklearn_is_fitted__():
            if classes is not None and np.setdiff1d(classes, np.unique(y)).size:
                raise DataError(
                    "the first rows have to hold every one of the classes: the estimator is "
                    "fitted on them."
                )
            return self.fit(X, y, sample_weight)
        known = np.unique(self.classes_) if self._classes.single else None
        if known is not None and classes is not None and set(classes) != set(known):
            raise DataError("the classes are not those of the fit; fit it again.")
        self._go_on(X, y, sample_weight)
        return self

    def _as_held(self, y: Any, weight: Array | None) -> tuple[Array, Array | None]:
        target = checked_target(y, numbers=False)
        labels = self._classes.encoded(target)
        if self.class_weight is None:
            return labels, weight
        # Both the fit and tuning heed them.
        own = np.asarray(compute_sample_weight(self.class_weight, target))
        return labels, own if weight is None else own * weight

    def _classes_of_file(self) -> Classes:
        proto = self._file()
        score = score_output(proto)
        known = class_labels(proto)
        labels = known if score is None else scored_labels(proto, score, known)
        if not labels:
            raise ModelError("the model does not tell its classes: it is no classifier.")
        return classes_of_model(labels)

    def _serve(self, content: bytes) -> None:
        super()._serve(content)
        proto = onnx.ModelProto.FromString(content)
        labels, score = label_outputs(proto), self.output or score_output(proto)
        if not labels:
            raise ModelError("the model has no output of labels: it is no classifier.")
        if score is None and not self._classes.single:  # a tensor for each target
            sequences = (value for value in output_types(proto) if "seq(tensor" in value.kind)
            score = next((value.name for value in sequences), None)
        self._label, self._score = [labels[0]], [score] if score else []
        values = self._classes.values
        self._plain = self._classes.plain
        self._order = self._classes.order
        if score and self._classes.single and not self._is_file():
            known = scored_labels(proto, score, class_labels(proto))
            if known is not None and len(known) == len(values[0]):
                places = [str(label) for label in known]
                own = self._classes.encoded(values[0])
                order = np.array([places.index(str(label)) for label in own])
                self._order = None if (order == np.arange(len(order))).all() else order

    def _share_output(self, content: bytes) -> str | None:
        # Several targets come in several tensors, which are cut off when they are here.
        if self._is_file() or not self._classes.single:
            return None
        proto = onnx.ModelProto.FromString(content)
        score = self.output or score_output(proto)
        if score is None or not hasattr(self.estimator, "predict_proba"):
            return None
        return score if may_pass_one(proto, score) else None

    def _look_at(self, rows: Any) -> None:
        """What the scores are: probabilities, or distances from where the classes meet."""
        if not self._is_file():
            self._probable = bool(self._score) and hasattr(self.estimator, "predict_proba")
            self._decides = bool(self._score) and hasattr(self.estimator, "decision_function")
            return
        self._probable = self._decides = bool(self._score)
        if self._score:
            feed = next(feeds(rows[:1000], self._predictor.inputs, False))
            found = self._predictor.run(feed, self._score)[0]
            self._probable = bool(
                ((found >= -1e-6) & (found <= 1 + 1e-6)).all()
                and (np.abs(found.sum(axis=-1) - 1) < 1e-3).all()
            )

    def _promises(self, method: str) -> bool:
        """Whether there will be such a method after a fit."""
        return self._is_file() or hasattr(self.estimator, method)

    # Answering

    def predict(self, X: Any) -> Array:
        """[N] labels; of several targets [N, K].

        Args:
            X: [N, F] rows, or texts.

        Raises:
            NotFittedError: there is no model yet.
            ValueError: they are no rows like those of the fit.
        """
        labels: Array = self._outputs_for(X, "_label")[0]
        if self._plain and labels.ndim == 1:
            return labels
        return self._classes.decoded(labels)

    @available_if_known("_probable", _has_probabilities)
    def predict_proba(self, X: Any) -> Any:
        """[N, K] float32, in the order of `classes_`; of several targets a list of one for each.

        Args:
            X: [N, F] rows, or texts.

        Raises:
            NotFittedError: there is no model yet.
            ValueError: they are no rows like those of the fit.
        """
        scores = self._outputs_for(X, "_score")[0]
        if self._order is None and type(scores) is np.ndarray and scores.ndim == 2:
            return scores
        return self._ordered(scores)

    @available_if_known("_probable", _has_probabilities)
    def predict_log_proba(self, X: Any) -> Any:
        """Logarithms of `predict_proba`."""
        found = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return list(map(np.log, found)) if isinstance(found, list) else np.log(found)

    @available_if_known("_decides", _has_decisions)
    def decision_function(self, X: Any) -> Array:
        """[N] of two classes, [N, K] of more: the scores of a model that has no probabilities.

        Of one that has, the log odds of two classes, and the logarithms of more, centred.

        Args:
            X: [N, F] rows, or texts.

        Raises:
            NotFittedError: there is no model yet.
            ValueError: they are no rows like those of the fit.
        """
        found = self._ordered(self._outputs_for(X, "_score")[0])
        if isinstance(found, list):
            raise DataError("a model of several targets has no decision function.")
        if self._probable:
            logs = np.log(np.maximum(found, _SMALLEST))
            if not self._classes.single:
                return np.asarray(logs - np.log(np.maximum(1 - found, _SMALLEST)))
            if logs.shape[1] == 2:
                return np.asarray(logs[:, 1] - logs[:, 0])
            return np.asarray(logs - logs.mean(axis=1, keepdims=True))
        if found.shape[1] == 2 and self._classes.single:
            return np.asarray((found[:, 1] - found[:, 0]) / 2)
        return np.asarray(found.reshape(-1) if found.shape[1] == 1 else found)

    def _ordered(self, scores: Any) -> Any:
        """Scores in the order of `classes_`."""
        if isinstance(scores, list) or scores.ndim == 3:  # of each target its own
            widths = None if self._classes.single else map(len, self._classes.values)
            if widths is not None:  # a forest's are as wide as the widest
                scores = [each[:, :width] for each, width in zip(scores, widths, strict=True)]
            return [np.clip(each, 0, 1) if self._probable else each for each in scores]
        return scores if self._order is None else scores[:, self._order]
