"""Which provider ran each node, how many copies lay between, and the memory: from a profile."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxtune.runtime import PROVIDERS, run, session

Feed = Mapping[str, np.ndarray[Any, Any]]
Event = Mapping[str, Any]

# onnxruntime's CUDA kernels count the elements of a value in 32 bits. Beyond, they read and write
# elsewhere (github.com/microsoft/onnxruntime/issues/28385).
MOST_ELEMENTS = 2**31 - 1

_SHORT = {name: short for short, name in PROVIDERS.items()}


@dataclass(frozen=True)
class Placement:
    """What onnxruntime's profile says of one run.

    Attributes:
        nodes: provider -> how many nodes it ran, after fusion and without copies.
        operators: provider -> operator -> how many of its nodes ran there.
        copies: nodes that onnxruntime put in to copy values to a device or back.
        peak_bytes: the most that the values between nodes took at once; 0 where the profile of
            this onnxruntime does not tell.
    """

    nodes: dict[str, int]
    operators: dict[str, dict[str, int]]
    copies: int
    peak_bytes: int


@dataclass(frozen=True)
class RowSizes:
    """What one row takes.

    Attributes:
        bytes: of all values that are held at once, inputs and outputs included.
        elements: of the value that has the most.
    """

    bytes: float
    elements: float

    @property
    def counted_rows(self) -> int:
        """Rows whose values CUDA's kernels can count the elements of; at least 1."""
        return max(1, int(MOST_ELEMENTS / max(self.elements, 1.0)))


def placement(
    content: bytes, provider: str, feed: Feed, settings: Mapping[str, str] | None = None
) -> Placement:
    """Run a model once under onnxruntime's profiler.

    Args:
        content: the model's bytes.
        provider: a key of `onnxtune.runtime.PROVIDERS`.
        feed: input name -> array; the number of rows decides nothing but the memory.
        settings: onnxruntime's options of the provider.

    Raises:
        ProviderError: the provider is not there.
        ModelError: onnxruntime refuses the model.
        DataError: it refuses the data.
    """
    return _read(_events(content, provider, [feed], settings))


def row_sizes(
    content: bytes, provider: str, feeds: Sequence[Feed], rows: Sequence[int]
) -> RowSizes:
    """What the values of a model take for each row.

    The figures of a small and of a larger run are read off the profile; their difference is that
    of the rows alone. An onnxruntime that tells no peak counts every value that is made.

    Args:
        content: the model's bytes.
        provider: a key of `onnxtune.runtime.PROVIDERS`.
        feeds: two feeds, the second with more rows.
        rows: how many rows each has.
    """
    small, large = feeds
    before, after = (_events(content, provider, [feed], None) for feed in feeds)
    sizes = [_read(events).peak_bytes or _made(events) for events in (before, after)]
    more = rows[1] - rows[0]
    # What a node reads and makes is there at once, whatever allocator the peak is of.
    held = _most_grown(_handled, before, after) / more
    between = max((sizes[1] - sizes[0]) / more, held)
    given = sum(large[name].nbytes - small[name].nbytes for name in large) / more
    widest = max((large[name].size - small[name].size for name in large), default=0)
    grown = _most_grown(_elements, before, after)
    return RowSizes(between + given, max(widest, grown) / more)


def _events(
    content: bytes, provider: str, feeds: Sequence[Feed], settings: Mapping[str, str] | None
) -> list[dict[str, Any]]:
    """The entries of a profile that are of nodes."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "profile")
        profiled = session(content, provider, settings=settings, profile=prefix)
        try:
            for feed in feeds:
                run(profiled, feed)
        finally:
            written = Path(profiled.end_profiling())
        events = json.loads(written.read_text())
    return [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def _read(events: Sequence[Event]) -> Placement:
    operators: dict[str, Counter[str]] = {}
    copies = peak = 0
    seen = set()
    for event in events:
        found = event["args"]
        peak = max(peak, int(found.get("mem_in_use_peak", 0)))
        if event["name"] in seen:  # a node in a loop's body runs more than once
            continue
        seen.add(event["name"])
        if found["op_name"].startswith("Memcpy"):
            copies += 1
            continue
        provider = _SHORT.get(found["provider"], found["provider"])
        operators.setdefault(provider, Counter())[found["op_name"]] += 1
    return Placement(
        {provider: sum(counts.values()) for provider, counts in operators.items()},
        {provider: dict(counts) for provider, counts in operators.items()},
        copies,
        peak,
    )


def _made(events: Sequence[Event]) -> int:
    return sum(int(event["args"].get("output_size", 0)) for event in events)


def _most_grown(
    figure: Callable[[Mapping[str, Any]], int], before: Sequence[Event], after: Sequence[Event]
) -> int:
    """By how much a figure of a node grew, at most; of a node that runs again, its largest."""
    was: dict[str, int] = {}
    came: dict[str, int] = {}
    for events, found in ((before, was), (after, came)):
        for event in events:
            name = event["name"]
            found[name] = max(figure(event["args"]), found.get(name, 0))
    return max((came[name] - was.get(name, 0) for name in came), default=0)


def _handled(told: Mapping[str, Any]) -> int:
    """Bytes that a node reads and makes of what is no constant."""
    return int(told.get("activation_size", 0)) + int(told.get("output_size", 0))


def _elements(told: Mapping[str, Any]) -> int:
    """Elements of the largest value that a node makes."""
    shapes = (shape for kind in told.get("output_type_shape", ()) for shape in kind.values())
    return max(map(math.prod, shapes), default=0)
