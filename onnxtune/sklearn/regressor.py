"""A tuned regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from sklearn.base import RegressorMixin, is_classifier

from onnxtune.classes import class_labels
from onnxtune.errors import ArgumentError
from onnxtune.sklearn.base import TunedEstimator
from onnxtune.sklearn.fitting import Rows
from onnxtune.sklearn.inputs import checked_target
from onnxtune.sklearn.serving import number_output

Array = np.ndarray[Any, Any]


class TunedRegressor(RegressorMixin, TunedEstimator):  # type: ignore[misc]
    """A regressor that is fitted, exported and tuned, and answers through onnxruntime.

    Args:
        estimator: a regressor or pipeline that has an export, or a model: a path, bytes or an
            `onnx.ModelProto`.
        valid: which rows to hold out from the fit and to judge by: a share, "last", rows' numbers,
            booleans or groups as of `onnxtune.tune`, or (X, y) or (X, y, weights) of their own.
        loss: as of `onnxtune.tune`, and so are `output`, `routing`, `temperature`,
            `max_size`, `companion`, `only_numbers`, `freeze`, `noise`, `epochs`,
            `batch_size`, `lr`, `clip`, `precision`, `patience` and `device`.
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
        n_features_in_: the number of columns of `X`.
        feature_names_in_: their names, where `X` is a DataFrame.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TunedRegressor:
        """Fit a clone, export it, and tune it on rows that it was not fitted on.

        Args:
            X: rows as the estimator takes them.
            y: [N] numbers, or [N, K] of several targets.
            sample_weight: [N], how much each row counts.

        Raises:
            ValueError: rows, numbers or parameters that cannot be used.
            UnsupportedError: the estimator has no export.
        """
        self._check_numbers()
        rows = self._checked(X, y, reset=True)
        target, weight = self._as_held(y, self._weights(sample_weight, rows))
        self._single = target.ndim == 1
        self._fit(Rows(rows, target, weight, self.valid), classes=False)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> TunedRegressor:
        """Go on tuning with further rows, each used once; the first call is a `fit`.

        Args:
            X: rows as the estimator takes them.
            y: [N] numbers, or [N, K] of several targets.
            sample_weight: [N], how much each row counts.

        Raises:
            ValueError: rows or numbers that cannot be used.
            UnsupportedError: nothing in the model can be tuned, or it is not in the native form.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y, sample_weight)
        self._go_on(X, y, sample_weight)
        return self

    def _as_held(self, y: Any, weight: Array | None) -> tuple[Array, Array | None]:
        return checked_target(y, numbers=True), weight

    def _check_numbers(self) -> None:
        """Refuse classifiers, whose probabilities would pass for several targets."""
        self._check_estimator("predict")
        known = class_labels(self._file()) if self._is_file() else is_classifier(self.estimator)
        if known:
            raise ArgumentError("the estimator is a classifier: TunedClassifier wraps it.")

    def predict(self, X: Any) -> Array:
        """[N] float32 (or what the model holds), of several targets [N, K].

        Args:
            X: [N, F] rows, or texts.

        Raises:
            NotFittedError: there is no model yet.
            ValueError: they are no rows like those of the fit.
        """
        values: Array = self._outputs_for(X, "_number")[0]
        return values.reshape(-1) if self._single else values

    def _serve(self, content: bytes) -> None:
        super()._serve(content)
        self._number = [self.output or number_output(onnx.ModelProto.FromString(content))]
