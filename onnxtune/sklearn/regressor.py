"""A tuned regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from sklearn.base import RegressorMixin

from onnxtune.sklearn.base import TunedEstimator
from onnxtune.sklearn.inputs import checked_target
from onnxtune.sklearn.serving import number_output

Array = np.ndarray[Any, Any]


class TunedRegressor(RegressorMixin, TunedEstimator):  # type: ignore[misc]
    """A regressor."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TunedRegressor:
        """Fit, export and tune."""
        rows = self._checked(X, y, reset=True)
        target = checked_target(y, numbers=True)
        self._single = target.ndim == 1
        self._fit(rows, target, self._weights(sample_weight, rows), classes=False)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> TunedRegressor:
        """Go on tuning with further rows, each used once; the first call is a `fit`."""
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y, sample_weight)
        rows = self._checked(X, y, reset=False)
        target = checked_target(y, numbers=True)
        self._go_on(rows, target, self._weights(sample_weight, rows))
        return self

    def predict(self, X: Any) -> Array:
        """[N] float32 (or what the model holds), of several targets [N, K]."""
        values: Array = self._outputs_for(X, "_number")[0]
        return values.reshape(-1) if self._single else values

    def _serve(self, content: bytes) -> None:
        super()._serve(content)
        self._number = [self.output or number_output(onnx.ModelProto.FromString(content))]
