"""The candidates of one provider: loaded, placed, timed batch size by batch size."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxtune import memory, runtime
from onnxtune.bench_candidates import Candidate, Feed, own_prediction, peers, session_calls
from onnxtune.bench_report import Placed, Timing
from onnxtune.bench_turns import Call, Turns, take_turns
from onnxtune.errors import (
    DataError,
    ModelError,
    OnnxTuneError,
    ProviderError,
    UnsupportedError,
)
from onnxtune.model import Model
from onnxtune.profiles import placement, row_sizes

_SLICES = 64  # small batches go through the rows, so that no single one is learned by heart
_PLACED_ROWS = 64
_PROBES = (64, 128)  # rows of the two runs that tell how much one more row takes

Key = tuple[str, bool]  # a candidate's name, and whether it is timed with transfers


class Judge:
    """Tells what may go wrong with a model that ran before from what is an error."""

    def __init__(self) -> None:
        self._proven: set[str] = set()

    def prove(self, name: str) -> None:
        """Note that it ran."""
        self._proven.add(name)

    def reason(self, error: Exception, name: str) -> str:
        """Why it did not run; raised instead where memory has no part and it never ran before."""
        words = runtime.out_of_memory(error)
        if words is not None:
            return f"out of memory ({words})" if words else "out of memory"
        if isinstance(error, UnsupportedError):
            return str(error)
        text = runtime.one_line(error)
        if name in self._proven:
            return text
        if isinstance(error, ModelError):
            raise error
        raise DataError(f"onnxruntime cannot run these data: {text}") from error


class Group:
    """What runs on one provider, and takes turns."""

    def __init__(
        self,
        provider: str,
        transfers: Sequence[bool],
        threads: int | None,
        chunk: int | None,
        judge: Judge,
    ) -> None:
        self._provider, self._transfers = provider, list(transfers)
        self._threads, self._chunk, self._judge = threads, chunk, judge
        self._names: list[Key] = []
        self._candidates: dict[Key, Candidate] = {}
        self._refused: dict[str, str] = {}
        self._models: dict[str, Model] = {}
        self._feeds: dict[str, Feed] = {}
        self._most_rows: dict[str, int | None] = {}
        self._grown: dict[str, int] = {}
        self._device_grown: dict[str, int] = {}

    def load(self, models: Mapping[str, Model | str], feeds: Mapping[str, Feed]) -> None:
        """Load the models; what is a text says why there is none."""
        self._names = [(name, way) for name in models for way in self._transfers]
        self._feeds = dict(feeds)
        for name, model in models.items():
            if isinstance(model, str):
                self._refused[name] = model
                continue
            held, free = memory.resident(), self._free()
            try:
                session, load_s = _session(model.content, self._provider, self._threads)
            except ProviderError as error:
                self._refused[name] = str(error)
                continue
            except (ModelError, MemoryError) as error:
                self._refused[name] = self._judge.reason(error, name)
                continue
            self._models[name] = model
            self._grown[name] = max(memory.resident() - held, 0)
            self._device_grown[name] = max((free or 0) - (self._free() or 0), 0)
            chunk = None if _fixed_rows(model) else self._chunk
            for way in self._transfers:
                calls = session_calls(session, self._provider, way, chunk)
                self._candidates[name, way] = Candidate(name, self._provider, way, calls, load_s)

    def add_libraries(self, estimators: Mapping[str, Any], feed: Feed) -> None:
        """The estimators' own libraries on the CPU, and those that run them elsewhere.

        Args:
            estimators: by name.
            feed: the rows of the first model, which are those that the estimators take.
        """
        for name, estimator in estimators.items():
            made = [own_prediction(name, estimator)] if self._provider == "cpu" else []
            others, refused = peers(name, estimator, self._provider, feed)
            for one in (*made, *others):
                self._names.append((one.model, True))
                self._candidates[one.model, True] = one
                self._feeds[one.model] = feed
                self._judge.prove(one.model)  # what a library refuses is told in its row
            for shown, reason in refused.items():
                self._names.append((shown, True))
                self._refused[shown] = reason

    def placements(self) -> list[Placed]:
        """Which provider ran the nodes of each model, by a profile of one run."""
        found = []
        for name, model in self._models.items():
            rows = min(_PLACED_ROWS, _rows(self._feeds[name]))
            batch = _batches(model, self._feeds[name], _fixed_rows(model) or rows)[0]
            try:
                where = placement(model.content, self._provider, batch)
            except (DataError, ModelError) as error:
                self._judge.reason(error, name)
                continue
            found.append(Placed(name, self._provider, where.nodes, where.operators, where.copies))
        return found

    def timings(self, size: int, repeats: int, seconds: float) -> list[Timing]:
        """A row for every candidate at one batch size."""
        reasons: dict[Key, str] = {
            key: self._refused[key[0]] for key in self._names if key[0] in self._refused
        }
        calls: dict[Key, list[Call]] = {}
        for key, candidate in self._candidates.items():
            found = self._calls(candidate, size)
            if isinstance(found, str):
                reasons[key] = found
            else:
                calls[key] = found

        def reason(error: Exception, key: Key) -> str:
            return self._judge.reason(error, key[0])

        turns = take_turns(calls, repeats, seconds, reason, self._judge_of, self._free)
        reasons |= turns.failed
        rows = []
        for key in self._names:
            if key in self._candidates:
                name = key[0]
                self._grown[name] = self._grown.get(name, 0) + turns.grown.get(key, 0)
                device = self._device_grown.get(name, 0) + turns.device_grown.get(key, 0)
                self._device_grown[name] = device
            rows.append(self._row(key, size, turns, reasons.get(key)))
        return rows

    def _judge_of(self, key: Key) -> None:
        self._judge.prove(key[0])

    def _free(self) -> int | None:
        return memory.device_memory_at_hand() if self._provider == "cuda" else None

    def _calls(self, candidate: Candidate, size: int) -> list[Call] | str:
        """The calls for a batch size, or why there are none."""
        name = candidate.model
        model = self._models.get(name)
        fixed = _fixed_rows(model) if model is not None else 0
        if fixed and fixed != size:
            return f"the model takes batches of {fixed:,} only"
        most = self._counted_rows(name)
        if most is not None and min(size, self._chunk or size) > most:
            return (
                "it makes values of more than 2^31 elements, which onnxruntime's CUDA kernels "
                f"cannot count; give a chunk of {most:,} rows at most"
            )
        try:
            batches = _batches(model, self._feeds[name], size)
        except (MemoryError, OverflowError, ValueError):  # numpy's words for far too many rows
            return "out of memory (the batch alone does not fit)"
        try:
            return candidate.calls(batches)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            return self._judge.reason(error, name)

    def _counted_rows(self, name: str) -> int | None:
        """The rows of a model at once whose values CUDA can count; None where that is no matter."""
        model = self._models.get(name)
        if self._provider != "cuda" or model is None or _fixed_rows(model):
            return None
        if name not in self._most_rows:
            feeds = [_batches(model, self._feeds[name], rows)[0] for rows in _PROBES]
            self._most_rows[name] = None
            # What does not run has its reason in its own row.
            with contextlib.suppress(OnnxTuneError):
                each = row_sizes(model.content, self._provider, feeds, _PROBES)
                self._most_rows[name] = each.counted_rows
        return self._most_rows[name]

    def _row(self, key: Key, size: int, turns: Turns[Key], reason: str | None) -> Timing:
        name, way = key
        candidate = self._candidates.get(key)
        load_s = None if candidate is None else candidate.load_s
        if reason is not None:
            return Timing(name, self._provider, size, load_s=load_s, error=reason, transfers=way)
        times = [taken[key] for taken in turns.taken]
        low, median, high, worst = (float(x) for x in np.quantile(times, [0.1, 0.5, 0.9, 0.99]))
        first = self._names[0]
        pairs = [taken[key] / taken[first] for taken in turns.taken if first in taken]
        return Timing(
            name,
            self._provider,
            size,
            median,
            low,
            high,
            size / median,
            float(np.median(pairs)) if pairs and key != first else None,
            len(times),
            load_s,
            transfers=way,
            p99_s=worst,
            first_s=turns.first[key],
            memory_bytes=self._grown[name],
            device_bytes=self._device_grown[name] if self._provider == "cuda" else None,
        )


def _session(content: bytes, provider: str, threads: int | None) -> tuple[Any, float]:
    """A session, and the seconds that it took to load.

    The provider's libraries are in place: it was asked whether it starts.
    """
    start = time.perf_counter()
    return runtime.session(content, provider, threads), time.perf_counter() - start


def _fixed(model: Model | None) -> dict[str, int]:
    return {} if model is None else runtime.fixed_sizes(runtime.input_types(model.proto))


def _fixed_rows(model: Model) -> int:
    """The batch size of a model all of whose inputs fix theirs; 0 for any other."""
    fixed = _fixed(model)
    return max(fixed.values()) if len(fixed) == len(runtime.input_types(model.proto)) > 0 else 0


def _rows(feed: Feed) -> int:
    return max(map(len, feed.values()), default=1)


def _batches(model: Model | None, feed: Feed, size: int) -> list[Feed]:
    """Batches of so many rows: pieces of the rows, or the rows over and over.

    An input beside the rows whose first dimension is fixed keeps that length in every batch.
    """
    fixed = _fixed(model)
    rows = min((len(column) for name, column in feed.items() if name not in fixed), default=1)
    batches = []
    for start in range(0, min(max(rows // size, 1), _SLICES) * size, size):
        batch = {}
        for name, column in feed.items():
            first, length = (0, fixed[name]) if name in fixed else (start, size)
            piece = column[first : first + length]
            if len(piece) < length:
                piece = column[np.arange(length) % len(column)]
            batch[name] = np.ascontiguousarray(piece)
        batches.append(batch)
    return batches
