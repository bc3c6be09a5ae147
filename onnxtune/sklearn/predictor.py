"""A model ready to answer: its bytes, and a session that is made when it is first asked."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import onnx

from onnxtune.errors import DataError
from onnxtune.runtime import ValueType, input_types, one_line, session
from onnxtune.sklearn.serving import served

Array = np.ndarray[Any, Any]

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


class Predictor:
    """Runs a model in onnxruntime; a pickle or a copy of it carries the model's bytes alone.

    The session is made by the first call in a process, once whatever the number of threads.

    Args:
        content: the model.
        output: an inner value to be the one output in the place of the model's own.
        share: an output whose values are to stay within 0 and 1.
        plain: whether arrays go straight to the session: nothing is to be known of their columns.
        finite: whether what is missing or infinite is refused.
        threads: of a session; None leaves it to the environment and onnxruntime.
    """

    __slots__ = (
        *("content", "output", "share", "plain", "finite", "threads"),
        *("inputs", "_name", "_dtype", "_width", "_run", "_lock", "__weakref__"),
    )

    def __init__(
        self,
        content: bytes,
        output: str | None = None,
        *,
        share: str | None = None,
        plain: bool,
        finite: bool,
        threads: int | None = None,
    ) -> None:
        """Take a model; it is loaded when it is first needed."""
        self.content, self.output, self.share, self.plain = content, output, share, plain
        self.finite, self.threads = finite, threads
        self.inputs: list[ValueType] = input_types(onnx.ModelProto.FromString(content))
        one = self.inputs[0]
        self._name = one.name
        self._dtype: np.dtype[Any] | None = None
        # Arrays of this width go straight to the session; -1 where none do.
        self._width = -1
        shape = one.shape
        if plain and len(self.inputs) == 1 and shape is not None and len(shape) == 2 and shape[1]:
            self._width, self._dtype = shape[1], _dtype_of(one)
        self._reset()

    def _reset(self) -> None:
        """Without a session, as in a new process."""
        self._run: Any = self._first_run
        self._lock = threading.Lock()
        _living.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of the runtime."""
        return {name: getattr(self, name) for name in _GIVEN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        content, output = state.pop("content"), state.pop("output")
        self.__init__(content, output, **state)  # type: ignore[misc]

    def quick(self, X: Any, outputs: list[str]) -> list[Any] | None:
        """The outputs for an array of floats of the right width; None for all that needs a look.

        Args:
            X: what was given.
            outputs: their names.
        """
        # On a single row every line of this is felt beside the model.
        if type(X) is not np.ndarray or X.ndim != 2:
            return None
        rows, width = X.shape
        if width != self._width or not rows:
            return None
        dtype = X.dtype
        try:
            if dtype is not self._dtype:
                if dtype is not _DOUBLE and dtype is not _SINGLE:
                    return None
                X = X.astype(self._dtype)
            if self.finite:
                flat = X.ravel()
                if not isfinite(flat.dot(flat)):  # or large: the long way tells
                    return None
        except RuntimeWarning:  # of large numbers, where warnings are errors
            return None
        found: list[Any] = self._run(outputs, {self._name: X}, None)
        return found

    def run(self, feed: dict[str, Array], outputs: Sequence[str]) -> list[Any]:
        """The outputs for a feed.

        Raises:
            DataError: onnxruntime refuses the data.
        """
        try:
            found: list[Any] = self._run(list(outputs), feed, None)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise DataError(f"onnxruntime cannot run these data: {one_line(error)}") from error
        return found

    def _first_run(self, outputs: list[str], feed: dict[str, Array], options: Any) -> Any:
        """Make the session, which answers from now on."""
        with self._lock:
            if self._run == self._first_run:
                made = session(served(self.content, self.output, self.share), threads=self._count())
                # What lies beneath its `run`, which would check the names again.
                inner = getattr(made, "_sess", None)
                self._run = made.run if inner is None else inner.run
        return self._run(outputs, feed, options)

    def _count(self) -> int | None:
        """Threads: as joblib allows a worker of its own."""
        if self.threads is not None:
            return self.threads
        allowed = os.environ.get("OMP_NUM_THREADS", "")
        return int(allowed) if allowed.isdigit() and int(allowed) else None


_GIVEN = ("content", "output", "share", "plain", "finite", "threads")
_living: weakref.WeakSet[Predictor] = weakref.WeakSet()


def _dtype_of(value: ValueType) -> np.dtype[Any] | None:
    known: dict[str, np.dtype[Any]] = {"tensor(float)": _SINGLE, "tensor(double)": _DOUBLE}
    return known.get(value.kind)


def _forget_sessions() -> None:
    """The threads of a session do not live on in a forked process."""
    for predictor in list(_living):
        predictor._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)
