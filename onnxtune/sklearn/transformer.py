"""A tuned transformer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx
from sklearn import get_config
from sklearn.base import TransformerMixin, is_classifier
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from onnxtune.errors import DataError, UnsupportedError
from onnxtune.export import SavedForm
from onnxtune.sklearn.base import TunedEstimator
from onnxtune.sklearn.fitting import Fitted, Rows, exported, fit_and_tune, fitted, seeded
from onnxtune.sklearn.inputs import checked_target
from onnxtune.sklearn.labels import Classes, classes_of
from onnxtune.sklearn.serving import cut_at
from onnxtune.sklearn.supervision import (
    HEAD,
    TRANSFORMED,
    FileTransformer,
    head_for,
    marked,
    with_head,
)

Array = np.ndarray[Any, Any]


class TunedTransformer(  # type: ignore[call-arg]
    TransformerMixin,  # type: ignore[misc]
    TunedEstimator,
    auto_wrap_output_keys=None,
):
    """A transformer that is tuned beneath a head, and answers through onnxruntime.

    Args:
        estimator: a transformer or pipeline that has an export, or a model: a path, bytes or an
            `onnx.ModelProto`.
        head: an estimator to put on it while it is tuned; None takes logistic regression for a
            target of classes and ridge regression for others. Its tensors are called `head/...`.
        valid: which rows to hold out from the fit and to judge by: a share, "last", rows' numbers,
            booleans or groups as of `onnxtune.tune`, or (X, y) or (X, y, weights) of their own.
        loss: as of `onnxtune.tune`, and so are `freeze`, `noise`, `epochs`, `batch_size`,
            `lr`, `clip`, `precision`, `patience` and `device`.
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

    def __init__(
        self,
        estimator: Any,
        *,
        head: Any = None,
        valid: Any = 0.2,
        loss: Any = "auto",
        freeze: str | Iterable[str] = (),
        noise: float = 0.0,
        epochs: int = 30,
        batch_size: int | None = None,
        lr: Any = None,
        clip: float | None = None,
        precision: str = "float32",
        patience: int = 8,
        form: SavedForm = "native",
        device: str = "auto",
        threads: int | Literal["auto"] = "auto",
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.head = head
        self.valid = valid
        self.loss = loss
        self.freeze = freeze
        self.noise = noise
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.clip = clip
        self.precision = precision
        self.patience = patience
        self.form = form
        self.device = device
        self.threads = threads
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.target_tags.required = False
        return tags

    @property
    def onnx_(self) -> onnx.ModelProto:
        """The transformer's model, without the head.

        Raises:
            NotFittedError: there is none yet.
        """
        return cut_at(super().onnx_, TRANSFORMED)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> TunedTransformer:
        """Fit the transformer, and with `y` a head on it; tune both, and keep the transformer.

        Args:
            X: rows as the transformer takes them.
            y: [N] or [N, K], what the head is to tell; without it nothing is tuned.
            sample_weight: [N], how much each row counts.

        Raises:
            ValueError: rows, targets or parameters that cannot be used.
            UnsupportedError: the transformer or the head has no export.
        """
        self._check_estimator("transform")
        checked = self._checked(X, y, reset=True, optional=True)
        weight = self._weights(sample_weight, checked)
        rows = Rows(checked, None, weight, self.valid)
        self._classes: Classes | None = None
        self._supervised = y is not None
        if self._supervised:
            target = checked_target(y, numbers=False)
            self._classes = classes_of(target) if self._holds_classes(target) else None
            rows = replace(rows, y=self._as_held(target, weight)[0])
        self._fit(rows, classes=self._classes is not None)
        self._names_out = _names_out(self.estimator_, self)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> TunedTransformer:
        """Go on tuning with further rows, each used once; the first call is a `fit`.

        Args:
            X: rows as the transformer takes them.
            y: what the head is to tell.
            sample_weight: [N], how much each row counts.

        Raises:
            ValueError: rows or targets that cannot be used; there was no target in the fit.
            UnsupportedError: nothing in the model can be tuned, or it is not in the native form.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y, sample_weight)
        if not self._supervised:
            raise DataError("the transformer was fitted without y, and has no head to tune on.")
        self._go_on(X, y, sample_weight)
        return self

    def _as_held(self, y: Any, weight: Array | None) -> tuple[Array, Array | None]:
        target = checked_target(y, numbers=self._classes is None)
        return target if self._classes is None else self._classes.encoded(target), weight

    def transform(self, X: Any) -> Any:
        """[N, K] float32, or a DataFrame where `set_output` asks for one.

        Args:
            X: [N, F] rows, or texts.

        Raises:
            NotFittedError: there is no model yet.
            ValueError: they are no rows like those of the fit.
        """
        values: Array = self._outputs_for(X, "_output_names")[0]
        settings = self.__dict__.get("_sklearn_output_config")
        if settings is None and get_config()["transform_output"] == "default":
            return values
        return _wrap_data_with_container("transform", values, X, self)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """[K] the names of the columns that `transform` returns.

        Args:
            input_features: names of the columns that it takes, for those that it hands on.
        """
        check_is_fitted(self)
        given = _check_feature_names_in(self, input_features, generate_names=False)
        names, one_to_one = self._names_out
        if names is None:
            raise UnsupportedError(
                f"{type(self).__name__}: its estimator does not name what it puts out."
            )
        return np.asarray(given, object) if one_to_one and given is not None else names

    def _holds_classes(self, y: Array) -> bool:
        """Whether the head tells classes apart, by its kind or by the look of the target."""
        if self.head is not None:
            return bool(is_classifier(self.head))
        return type_of_target(y) in ("binary", "multiclass") and len(np.unique(y)) > 1

    def _found(self, rows: Rows, classes: bool, asked: dict[str, Any]) -> Fitted:
        seed = None if self.random_state is None else int(asked["seed"])
        inner = FileTransformer(self._file()) if self._is_file() else self.estimator
        own = seeded(inner, seed)
        return fit_and_tune(own, rows, classes, self.form, asked, self._exported, beside=HEAD)

    def _exported(self, transformer: Any, rows: Rows) -> onnx.ModelProto:
        """The model of a fitted transformer, with a head that is fitted on what it says."""
        file = isinstance(transformer, FileTransformer)
        own = marked(transformer.proto if file else exported(transformer, rows))
        if rows.y is None:
            return own
        made = Rows(transformer.transform(rows.X), rows.y, rows.weight)
        head = self.head
        if head is None:
            head = head_for(made.X, self._classes is not None)
        return with_head(own, exported(fitted(head, made), made))

    def _serve(self, content: bytes) -> None:
        super()._serve(content)
        self._output_names = [TRANSFORMED]

    def _inner_output(self) -> str | None:
        return TRANSFORMED


# scikit-learn's own wrapping costs as much as a small model; `transform` does what it does.
TunedTransformer._sklearn_auto_wrap_output_keys = frozenset({"transform"})


def _names_out(transformer: Any, owner: Any) -> tuple[Array | None, bool]:
    """The names of what a fitted transformer puts out, and whether they are those of its inputs."""
    if not hasattr(transformer, "get_feature_names_out"):
        return None, False
    names = np.asarray(transformer.get_feature_names_out(), object)
    own = getattr(owner, "feature_names_in_", None)
    if own is None:
        own = [f"x{place}" for place in range(getattr(owner, "n_features_in_", 0))]
    return names, list(names) == list(own)
