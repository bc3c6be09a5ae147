"""Runs of fixed small batches, captured as CUDA graphs: one launch instead of one a kernel.

A graph reads and writes the memory that it was captured with, so inputs are copied there and
outputs from there. What lay between them is given back to the session's arena and written again
by every replay: another run of the same session, under way meanwhile, would compute with it. So
the graphs have a session of their own, which runs nothing else. onnxruntime keeps a graph for the
thread that captured it, and a capture fails where another thread allocates meanwhile: a thread of
its own captures all graphs before anything else runs, and replays them. A smaller batch is filled
up with its last row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxtune import bindings
from onnxtune.columns import sizes_after_rows
from onnxtune.errors import ArgumentError
from onnxtune.runtime import ValueType

Array = np.ndarray[Any, Any]

# Before the capture: the first runs allocate memory and choose kernels.
_RUNS = 3


@dataclass(frozen=True)
class _Captured:
    """A graph with its memory."""

    binding: Any
    options: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class CapturedGraphs:
    """The graphs of a model, one for each batch size."""

    def __init__(
        self,
        open_session: Callable[[dict[str, str]], Any],
        plain: Any,
        inputs: Sequence[ValueType],
        sizes: Sequence[int],
        device: str,
    ) -> None:
        """Capture them.

        Args:
            open_session: onnxruntime's further options of the provider -> a session.
            plain: a session without graphs, which tells the shapes of the outputs.
            inputs: what the model takes.
            sizes: the batch sizes.
            device: where the memory lies.

        Raises:
            ArgumentError: the model's inputs or outputs have other dimensions that vary, or are
                no numbers.
        """
        self._session, self._device = open_session({"enable_cuda_graph": "1"}), device
        self._inputs = tuple(inputs)
        self._thread = ThreadPoolExecutor(1, "cuda-graphs")
        self._graphs: dict[int, _Captured] = {}
        for number, size in enumerate(sorted(set(sizes)), start=1):
            made = self._thread.submit(self._capture, plain, size, number)
            self._graphs[size] = made.result()

    def _capture(self, plain: Any, size: int, number: int) -> _Captured:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        feed = {value.name: self._zeros(value, size) for value in self._inputs}
        names = [output.name for output in self._session.get_outputs()]
        shown = plain.run(names, feed)
        binding = self._session.io_binding()
        value_of = onnxruntime.OrtValue.ortvalue_from_numpy
        taken = {name: value_of(array, self._device) for name, array in feed.items()}
        made = {}
        for name, array in zip(names, shown, strict=True):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                raise ArgumentError(f"Output '{name}' is no tensor of numbers: no graph takes it.")
            if array.ndim == 0 or len(array) != size:
                raise ArgumentError(f"Output '{name}' has not one entry a row: no graph takes it.")
            made[name] = value_of(np.zeros_like(array), self._device)
        for name, value in taken.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in made.items():
            binding.bind_ortvalue_output(name, value)
        for _ in range(_RUNS):
            self._session.run_with_iobinding(binding, options)
        return _Captured(binding, options, taken, made)

    def _zeros(self, value: ValueType, size: int) -> Array:
        sizes = sizes_after_rows(value)
        fixed = value.shape is not None and bool(value.shape) and value.shape[0] not in (None, size)
        if value.is_string or sizes is None or None in sizes or fixed:
            raise ArgumentError(
                f"Input '{value.name}' is no tensor of numbers with so many rows and fixed "
                "dimensions beside them: no graph takes it; leave cuda_graph out, or split it."
            )
        return np.zeros((size, *(each or 0 for each in sizes)), value.dtype)

    def takes(self, feed: Mapping[str, Any]) -> bool:
        """Whether these are arrays, and few enough rows for one of the graphs."""
        if any(map(bindings.is_tensor, feed.values())):
            return False
        sizes = {len(each) for each in feed.values()}
        return len(sizes) == 1 and 0 < max(sizes) <= max(self._graphs)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Array]:
        """Replay the graph of the next larger batch size."""
        return self._thread.submit(self._replay, feed).result()

    def _replay(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        rows = len(next(iter(feed.values())))
        size = min(size for size in self._graphs if size >= rows)
        graph = self._graphs[size]
        for value in self._inputs:
            array = np.asarray(feed[value.name], value.dtype)
            filled = np.pad(array, [(0, size - rows), *[(0, 0)] * (array.ndim - 1)], "edge")
            graph.inputs[value.name].update_inplace(np.ascontiguousarray(filled))
        self._session.run_with_iobinding(graph.binding, graph.options)
        # The memory is written again by the next run.
        return {name: np.array(value.numpy()[:rows]) for name, value in graph.outputs.items()}

    def close(self) -> None:
        """End the thread, and free the graphs' memory."""
        self._thread.shutdown()
        self._graphs.clear()
        self._session = None
