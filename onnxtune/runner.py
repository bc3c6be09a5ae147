"""A model ready to serve: on a GPU or a CPU, in pieces that fit, from many threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from onnxtune import bindings, runtime
from onnxtune import data as tables
from onnxtune.argument_checks import check_whole
from onnxtune.columns import sizes_after_rows
from onnxtune.errors import ArgumentError, DataError, OnnxTuneError, ProviderError
from onnxtune.model import ModelLike
from onnxtune.pieces import few_rows, forecast, run_filled, run_pieces
from onnxtune.runtime import ValueType
from onnxtune.stages import (
    Stage,
    Values,
    chain_inputs,
    chain_outputs,
    links,
    rows_of,
    run_chain,
)

_log = logging.getLogger(__name__)


class Runner:
    """A model's sessions, on one provider or on several in a chain.

    Use it as a context manager, or call `close`. Calls may come from several threads at a time.

    Args:
        model: a model argument; a list of them, chained by the names of their values: each
            takes what the caller gives or what one before it makes; or what `onnxtune.split`
            returns, or a list of the files that it writes: the GPU part goes to `provider`, the
            rest to the CPU.
        provider: a key of `onnxtune.runtime.PROVIDERS`, or "auto": CUDA where it starts, else
            the CPU.
        outputs: names of the values to return; None returns those of a whole model, also where it
            was split, and of another chain all that none of its models takes.
        chunk: rows that are run at once: a number, None for all, or "auto" for as many as
            fit into memory by forecast. Where memory runs out, halves of that. A model whose
            rows depend on each other needs None. On CUDA no more than those whose values have
            2^31 elements: more make None an error.
        cuda_graph: a batch size or several whose runs are captured as CUDA graphs, True for 1.
            Smaller batches of arrays are filled up to one of them, larger ones run without. The
            graphs hold the model a second time. Only CUDA has them: "auto" on a CPU goes without.
        tf32: let products on CUDA round their factors to 10 bits: faster, and wrong for rows
            near a threshold of trees behind them.
        threads: of onnxruntime within an operator; None leaves the choice to it.
        sample: rows like those that an estimator was fitted on.

    Raises:
        ArgumentError: no such provider or output, a value out of range, CUDA graphs on
            another provider or of a model whose inputs vary beside the rows.
        ProviderError: the provider is not there, with the reason.
        ModelError: a model cannot be read, or onnxruntime refuses it.

    Attributes:
        provider: where it runs, "cpu" or "cuda" say; of a chain, where its part for a GPU runs.
        reason: why "auto" took the CPU; None where it did not.
        inputs: the types of the values that a call takes.
        outputs: the names of those that it returns.
        chunk: rows that are run at once, at most; None before that was found out, and where there
            is no bound.
    """

    def __init__(
        self,
        model: ModelLike,
        provider: str = "auto",
        *,
        outputs: Sequence[str] | str | None = None,
        chunk: int | Literal["auto"] | None = "auto",
        cuda_graph: Sequence[int] | int = False,
        tf32: bool = False,
        threads: int | None = None,
        sample: Any = None,
    ) -> None:
        if provider != "auto" and provider not in runtime.PROVIDERS:
            known = ", ".join(("auto", *runtime.PROVIDERS))
            raise ArgumentError(f"Provider '{provider}' is none of {known}.")
        self._lock = threading.Condition()
        self._forecasting = threading.Lock()
        self._running = 0
        self._closed = False
        self.reason: str | None = None
        if threads is not None:
            check_whole(threads=threads)
        self.chunk: int | None = None
        self._whole, self._auto = chunk is None, chunk == "auto"
        if chunk is not None and chunk != "auto":
            check_whole(chunk=chunk)
            self.chunk = int(chunk)
        self._graph_sizes = _graph_sizes(cuda_graph)
        if self._graph_sizes and provider not in ("auto", "cuda"):
            raise ArgumentError(f"CUDA graphs are of the provider 'cuda', not of '{provider}'.")
        self._threads, self._tf32 = threads, tf32
        parts = links(model, sample)
        self.provider, self._chain = self._load(parts, provider)
        self.inputs = chain_inputs(self._chain)
        self.outputs = chain_outputs(
            self._chain, [outputs] if isinstance(outputs, str) else outputs
        )
        self._fixed = runtime.fixed_sizes(self.inputs)
        sizes = set(self._fixed.values())
        whole = len(self._fixed) == len(self.inputs) and len(sizes) == 1
        self._batch = sizes.pop() if whole else 0  # that all inputs fix
        # What needs no look at every value, as strings do.
        one = len(self.inputs) == 1 and self.inputs[0].kind.startswith("tensor")
        self._plain = one and not self.inputs[0].is_string
        self._feed_names = [value.name for value in self.inputs]
        self._forecast_due = self._auto or self.provider == "cuda"
        self._few = few_rows(self._chain)
        self._counted: int | None = None

    def _load(self, parts: Sequence[Any], provider: str) -> tuple[str, list[Stage]]:
        if provider != "auto":
            return provider, self._stages(parts, provider)
        if "cuda" in runtime.available_providers():
            try:
                return "cuda", self._stages(parts, "cuda")
            except ProviderError as error:
                self.reason = str(error)
        else:
            self.reason = "This onnxruntime was built without CUDA."
        _log.info("Running on the CPU: %s", self.reason)
        return "cpu", self._stages(parts, "cpu")

    def _stages(self, parts: Sequence[Any], provider: str) -> list[Stage]:
        made = []
        for part in parts:
            place = part.provider or provider
            cuda = place == "cuda"
            settings = {"use_tf32": "1"} if cuda and self._tf32 else {}
            sizes = self._graph_sizes if cuda else ()
            made.append(Stage(part, place, self._threads, settings, sizes))
            elsewhere = runtime.nodes_elsewhere(made[-1].session, place)
            if elsewhere:
                counts = ", ".join(f"{count} x {name}" for name, count in elsewhere.items())
                _log.warning(
                    "%s: %s has no kernel for some nodes, which run on the CPU between copies: %s. "
                    "`onnxtune split` makes a model without such nodes, and others for the CPU.",
                    part.model.origin,
                    place,
                    counts,
                )
        return made

    def run(self, X: Any) -> Values:
        """Run the model on rows.

        Args:
            X: a 2-D array, a mapping of input name to array, a DataFrame, or a path, as
                everywhere; or a torch tensor or a mapping with tensors in it, which are bound
                where they are, on the CPU or the GPU. They are on the same device.

        Returns:
            Output name -> array, or a list of dictionaries for a ZipMap. Of tensors: tensors, on
            the device that made them; but arrays from a model with strings in it.

        Raises:
            ArgumentError: the runner is closed.
            DataError: the rows do not fit the model; or memory runs out with one row.
        """
        with self._open():
            feed = self._feed(X)
            rows = rows_of(feed, self._fixed)
            if self._batch and rows and rows != self._batch:
                return run_filled(feed, self.outputs, self._batch, self._run_once)
            limit = self._limit(rows)
            return run_pieces(self._chain, feed, self.outputs, limit, self._fixed)

    __call__ = run

    def _run_once(self, feed: Mapping[str, Any]) -> Values:
        return run_chain(self._chain, feed, self.outputs)

    def _limit(self, rows: int) -> int:
        """Rows to run at once.

        Raises:
            DataError: all are to be run at once, and are too many for that.
        """
        if self._forecast_due and rows > self._few:
            with self._forecasting:
                if self._forecast_due:
                    self._forecast()
                    self._forecast_due = False
        if self._whole and self._counted is not None and rows > self._counted:
            raise DataError(
                f"{rows:,} rows at once make values of more than 2^31 elements, which "
                "onnxruntime's CUDA kernels cannot count; give "
                f"{self._counted:,} at most, or chunk='auto'."
            )
        return rows if self.chunk is None else min(self.chunk, rows) or 1

    def _forecast(self) -> None:
        try:
            found = forecast(self._chain)
        except OnnxTuneError as error:
            _log.info("How many rows fit is not known beforehand: %s", error)
            return
        self._counted = found.counted
        if self._auto and found.fitting is not None:
            self.chunk = max(found.fitting, self._few)
        if not self._whole and found.counted is not None:
            self.chunk = min(self.chunk or found.counted, found.counted)

    def _feed(self, X: Any) -> dict[str, Any]:
        """The rows by input name, checked."""
        if self._is_ready(X):
            return {self.inputs[0].name: X}
        if bindings.is_tensor(X) and len(self.inputs) == 1:
            X = {self.inputs[0].name: X}
        if isinstance(X, Mapping) and any(map(bindings.is_tensor, X.values())):
            feed = self._tensors(X)
        else:
            feed = self._arrays(X, self.inputs)
        tables.common_rows(feed, "the data", () if self._batch else self._fixed)
        return feed

    def _arrays(self, X: Any, inputs: Sequence[ValueType]) -> dict[str, Any]:
        """Arrays by input name; those whose length the model fixes have that one."""
        return dict(tables.load(X, inputs, allow_empty=True, same_rows=False).feed)

    def _tensors(self, X: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors as they are, and what is beside them as arrays."""
        missing = [name for name in self._feed_names if name not in X]
        if missing:
            raise DataError(f"Input '{missing[0]}' is missing; there are {', '.join(map(str, X))}.")
        arrays = [value for value in self.inputs if not bindings.is_tensor(X[value.name])]
        feed = {name: X[name] for name in self._feed_names}
        if arrays:
            given = {value.name: X[value.name] for value in arrays}
            feed |= self._arrays(given, arrays)
        for value in self.inputs:
            if bindings.is_tensor(feed[value.name]):
                bindings.check_shape(feed[value.name], value)
        return feed

    def _is_ready(self, X: Any) -> bool:
        """Whether it is what onnxruntime takes, as it is: a row is run in the time of a look-up."""
        if not self._plain or not isinstance(X, np.ndarray):
            return False
        value = self.inputs[0]
        sizes = sizes_after_rows(value)
        return (
            sizes is not None
            and X.dtype == value.dtype
            and X.flags.c_contiguous
            and X.ndim == len(sizes) + 1
            and all(want in (None, got) for want, got in zip(sizes, X.shape[1:], strict=True))
        )

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Keep it open meanwhile."""
        with self._lock:
            if self._closed:
                raise ArgumentError("This runner is closed; make a new one.")
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._lock.notify_all()

    def close(self) -> None:
        """End it once the calls under way are done: its sessions and their memory are freed."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(lambda: not self._running)
            for stage in self._chain:
                stage.close()
            self._chain = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _graph_sizes(given: Sequence[int] | int) -> tuple[int, ...]:
    if given is False:
        return ()
    sizes = given if isinstance(given, Iterable) else (given,)  # True is 1
    for size in sizes:
        check_whole(cuda_graph=size)
    return tuple(map(int, sizes))
