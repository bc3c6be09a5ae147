"""What the tuned estimators have in common: parameters, fit, further tuning, pickles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted

from onnxtune.errors import ArgumentError, DataError, UnsupportedError
from onnxtune.export import SavedForm
from onnxtune.sklearn.fitting import Fitted, Rows, fit_and_tune, seeded, tune_file
from onnxtune.sklearn.inputs import Takes, checked_rows, feeds, rows_for_tuning, taken_by
from onnxtune.sklearn.predictor import Predictor
from onnxtune.validation import is_pair
from onnxtune.weights import sample_weights

Array = np.ndarray[Any, Any]

# Parameters that `onnxtune.tune` has under the same names.
TUNING = (
    *("loss", "output", "routing", "temperature", "max_size", "companion", "only_numbers"),
    *("freeze", "noise", "epochs", "batch_size", "lr", "clip", "precision", "patience"),
    *("device", "threads"),
)

# What a fit leaves that belongs to this process.
_LIVE = ("_tuner", "estimator_", "result_")


class TunedEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator that is fitted, exported and tuned, and answers through onnxruntime."""

    def __init__(
        self,
        estimator: Any,
        *,
        valid: Any = 0.2,
        loss: Any = "auto",
        output: str | None = None,
        routing: str = "auto",
        temperature: float | Literal["auto"] = "auto",
        max_size: float = 1,
        companion: bool = False,
        only_numbers: bool = False,
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
        self.valid = valid
        self.loss = loss
        self.output = output
        self.routing = routing
        self.temperature = temperature
        self.max_size = max_size
        self.companion = companion
        self.only_numbers = only_numbers
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

    # What a fit leaves

    @property
    def onnx_(self) -> onnx.ModelProto:
        """The model that answers.

        Raises:
            NotFittedError: there is none yet.
        """
        check_is_fitted(self)
        proto = onnx.ModelProto()
        proto.ParseFromString(self._predictor.content)
        return proto

    def __sklearn_is_fitted__(self) -> bool:
        return "_predictor" in vars(self)

    def __getstate__(self) -> dict[str, Any]:
        """The parameters, and of the model its bytes."""
        state = dict(super().__getstate__())
        return {name: value for name, value in state.items() if name not in _LIVE}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self._is_file():
            tags.input_tags.sparse = tags.input_tags.allow_nan = True
            tags.input_tags.string = tags.input_tags.categorical = True
            return tags
        inner = get_tags(self.estimator)
        tags.input_tags = deepcopy(inner.input_tags)
        tags.input_tags.pairwise = False
        tags.target_tags.multi_output = inner.target_tags.multi_output
        tags.target_tags.positive_only = inner.target_tags.positive_only
        tags.non_deterministic = inner.non_deterministic
        tags.no_validation = False
        return tags

    def _is_file(self) -> bool:
        """Whether the model comes as it is, instead of from an estimator."""
        return isinstance(self.estimator, str | os.PathLike | bytes | onnx.ModelProto)

    def _file(self) -> onnx.ModelProto:
        from onnxtune.model import load

        return load(self.estimator).proto

    # Fitting

    def _fit(self, rows: Rows, *, classes: bool, **arguments: Any) -> None:
        """Fit and tune on checked rows; of classes `y` is as models hold them."""
        seed = self._seed()
        rows = rows.counting()
        if is_pair(rows.valid):
            rows = replace(rows, valid=self._own_rows(*rows.valid))
        asked = (
            {name: getattr(self, name) for name in TUNING if hasattr(self, name)}
            | {"seed": seed}
            | arguments
        )
        self._take(self._found(rows, classes, asked))

    def _found(self, rows: Rows, classes: bool, asked: dict[str, Any]) -> Fitted:
        if self._is_file():
            return tune_file(self._file(), rows, self.form, asked)
        seed = None if self.random_state is None else int(asked["seed"])
        own = seeded(self.estimator, seed)
        return fit_and_tune(own, rows, classes, self.form, asked)

    def _take(self, found: Fitted) -> None:
        """Keep what a fit brought."""
        self.__dict__.pop("_tuner", None)
        self.history_ = found.history
        self.report_ = found.report
        self.estimator_ = found.estimator
        self.result_ = found.result
        self._serve(found.content)

    def _serve(self, content: bytes) -> None:
        """Answer with this model from now on."""
        self._predictor = Predictor(
            content,
            self._inner_output(),
            share=self._share_output(content),
            plain=not hasattr(self, "feature_names_in_"),
            finite=not self._takes.missing,
            threads=None if self.threads == "auto" else int(self.threads),
        )

    def _inner_output(self) -> str | None:
        """The inner value that is asked for, if the model's own outputs are not."""
        return None

    def _share_output(self, content: bytes) -> str | None:
        """The output with probabilities that rounding may carry past 1, if there is one."""
        return None

    def _seed(self) -> int:
        """The seed of tuning: `random_state` itself where it is a whole number."""
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _own_rows(self, X: Any, y: Any, weight: Any = None) -> Rows:
        """Rows to judge by that came apart, held against those of the fit."""
        try:
            rows = self._checked(X, y, reset=False)
            return Rows(rows, *self._as_held(y, self._weights(weight, rows)))
        except ValueError as error:
            raise DataError(f"valid: {error}") from error

    def _as_held(self, y: Any, weight: Array | None) -> tuple[Array, Array | None]:
        """The target and the weights of further rows, as a fitted model holds them."""
        raise NotImplementedError

    def _check_estimator(self, method: str) -> None:
        """Refuse what cannot be wrapped.

        Raises:
            ArgumentError: it has no such method.
        """
        own = self.estimator
        if not self._is_file() and (isinstance(own, type) or not hasattr(own, method)):
            name = own.__name__ if isinstance(own, type) else type(own).__name__
            raise ArgumentError(
                f"{type(self).__name__} wraps an estimator that has `{method}`, or an ONNX model, "
                f"and not {name}{' itself: call it' * isinstance(own, type)}."
            )

    def _checked(self, X: Any, y: Any, *, reset: bool, optional: bool = False) -> Any:
        """The rows of a fit, or of more tuning.

        Raises:
            ValueError: they are no rows, or others than those of the fit; or y is missing.
        """
        if y is None and not optional:
            raise DataError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        if reset:
            self._takes: Takes = taken_by(self)
        rows = checked_rows(self, X, self._takes, reset=reset)
        if y is not None:
            check_consistent_length(rows, y)
        return rows

    def _weights(self, sample_weight: Any, X: Any) -> Array | None:
        if sample_weight is None:
            return None
        count = len(Rows(X, None, None))
        found = _check_sample_weight(sample_weight, np.empty((count, 1)))
        return sample_weights(found, count, none=True)

    def _go_on(self, X: Any, y: Any, sample_weight: Any) -> None:
        """Tune on these rows once, on what came of all before.

        Raises:
            ValueError: they are other rows than those of the fit, or hold other classes.
            UnsupportedError: nothing in the model can be tuned, or it is not in the native form.
        """
        if self.form != "native":
            raise UnsupportedError(
                f"partial_fit goes on tuning the native form, and form is {self.form!r}."
            )
        rows = self._checked(X, y, reset=False)
        target, weight = self._as_held(y, self._weights(sample_weight, rows))
        tuner = vars(self).get("_tuner")
        if tuner is None:
            from onnxtune.tuner import Tuner

            routing = getattr(self, "routing", "leaves")
            tuner = Tuner(
                self._predictor.content,
                loss=self.loss,
                routing="straight-through" if routing == "straight-through" else "leaves",
                freeze=self.freeze,
                batch_size=self.batch_size or 32,
                lr=self.lr,
                clip=self.clip,
                device=self.device,
            )
        tuner.partial_fit(rows_for_tuning(rows), target, weight)
        self._tuner, self.result_ = tuner, None
        self.report_ = self.report_ | {
            "online": {"rows": tuner.rows, "gain": tuner.gain, "z": tuner.z}
        }
        self._serve(tuner.model().SerializeToString())

    # Answering

    def _outputs_for(self, X: Any, names: str) -> list[Any]:
        """What the model puts out.

        Args:
            X: the rows.
            names: the attribute with the names of the outputs.

        Raises:
            NotFittedError: there is no model yet.
            ValueError: they are no rows like those of the fit.
        """
        try:
            ready = self._predictor
        except AttributeError:
            check_is_fitted(self)
            raise
        outputs = getattr(self, names)
        found: list[Any] | None = ready.quick(X, outputs)
        return self._looked_at(X, outputs) if found is None else found

    def _looked_at(self, X: Any, outputs: list[str]) -> list[Any]:
        """The same for rows that need a look."""
        ready = self._predictor
        rows = checked_rows(self, X, self._takes, reset=False)
        parts = [ready.run(feed, outputs) for feed in feeds(rows, ready.inputs, ready.finite)]
        if len(parts) == 1:
            return parts[0]
        return [_joined(pieces) for pieces in zip(*parts, strict=True)]


def _joined(pieces: Sequence[Any]) -> Any:
    """An output for rows that came in pieces; of several targets these stand first."""
    if isinstance(pieces[0], list):
        return [np.concatenate(each) for each in zip(*pieces, strict=True)]
    return np.concatenate(pieces, axis=1 if pieces[0].ndim == 3 else 0)
