"""Timing by turns, and the peak of the process's memory; imports nothing but numpy.

All candidates for a batch take turns (A B C A B C ...), so that a machine that slows down does so
for all alike. A turn is as many calls in a row as fill five milliseconds, for every candidate
alike: a candidate in a process of its own then finds its caches as warm as the others do.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Timer = Callable[[int], float]  # number of calls in a row -> seconds a call

_TURN_S = 0.005
_MOST_CALLS = 500
_FEWEST_TURNS = 5
_SLICES = 64
_STATUS = Path("/proc/self/status")


class SkipError(Exception):
    """A candidate that cannot be measured here, with the reason."""


@dataclass(frozen=True)
class Taken:
    """Times of one candidate: seconds a call, and the ratio to the first one turn by turn."""

    median_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    ratio: float | None = None
    turns: int = 0
    calls: int = 0
    skipped: str | None = None


def slices(rows: Array, size: int) -> list[Array]:
    """Batches of so many rows, from different places of the rows."""
    count = min(max(len(rows) // size, 1), _SLICES)
    return [np.ascontiguousarray(rows[i * size : (i + 1) * size]) for i in range(count)]


def timer(call: Callable[[Any], object], batches: list[Any]) -> Timer:
    """Times calls in a row, over the batches in turn."""
    supply = itertools.cycle(batches)

    def run(calls: int) -> float:
        ready = list(itertools.islice(supply, calls))
        start = time.perf_counter()
        for batch in ready:
            call(batch)
        return max(time.perf_counter() - start, 1e-9) / calls

    return run


def take_turns(
    timers: Mapping[str, Timer], seconds: float, limit: float, repeats: int = 100
) -> dict[str, Taken]:
    """Warm every candidate up, then time them turn by turn.

    Args:
        timers: by name; the ratios are to the first.
        seconds: bound on the time of each candidate's turns, of which there are at least five.
        limit: a candidate is left out if one call takes longer than so many seconds.
        repeats: turns at most.
    """
    alive: dict[str, Timer] = {}
    calls: dict[str, int] = {}
    found: dict[str, Taken] = {}
    for name, run in timers.items():
        try:
            once = run(1)
            if once < limit / 4:  # the first call allocates memory and chooses kernels
                once = min(run(1), run(1))
        except SkipError as reason:
            found[name] = Taken(skipped=str(reason))
            continue
        except Exception as error:  # one candidate's failure is a line in the table
            traceback.print_exc()
            words = " ".join(str(error).split())[:80]
            found[name] = Taken(skipped=f"fails: {type(error).__name__}: {words}")
            continue
        if once > limit:
            found[name] = Taken(skipped=f"a call takes {once:.0f} s, over the limit of {limit:g} s")
            continue
        alive[name] = run
        calls[name] = int(min(max(_TURN_S / once, 1), _MOST_CALLS))
    first = next(iter(timers))
    times: dict[str, list[float]] = {name: [] for name in alive}
    pairs: dict[str, list[float]] = {name: [] for name in alive}
    spent = dict.fromkeys(alive, 0.0)

    def goes_on(name: str) -> bool:
        count = len(pairs[name])
        return count < _FEWEST_TURNS or (count < repeats and spent[name] < seconds)

    gc.collect()
    while active := [name for name in alive if goes_on(name)]:
        base = alive[first](calls[first]) if first in alive else None
        for name in active:
            taken = alive[name](calls[name]) if name != first or base is None else base
            times[name].append(taken)
            spent[name] += taken * calls[name]
            pairs[name].append(taken / base if base is not None else np.nan)
    for name, values in times.items():
        low, median, high = (float(x) for x in np.quantile(values, [0.1, 0.5, 0.9]))
        ratio = float(np.median(pairs[name])) if first in alive else None
        found[name] = Taken(median, low, high, ratio, len(values), calls[name])
    return {name: found[name] for name in timers}


# Memory


def _status(field: str) -> int:
    """Bytes that Linux reports for this process under a name, 0 elsewhere."""
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def resident() -> int:
    """Bytes that the process holds now; elsewhere than on Linux, the most it ever held."""
    return _status("VmRSS") or _most()


def peak() -> int:
    """The most bytes that the process held since `forget_peak`, or ever."""
    return _status("VmHWM") or _most()


def forget_peak() -> None:
    """Let the peak start anew from what is held now, where the system can.

    What was freed goes back to the system first: used again, it would not count as growth.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _most() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def growth_of(call: Callable[[], object]) -> int:
    """Bytes by which the process grew at most during a call."""
    forget_peak()
    before = resident()
    call()
    return max(peak() - before, 0)
