"""Candidates take turns (A B A B ...), so that a machine that drifts does so for all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from onnxtune import memory

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]

_WARM_UP = 3  # runs; the first ones allocate memory and choose kernels


@dataclass
class Turns(Generic[Key]):
    """What came of one batch size.

    Attributes:
        first: seconds of each candidate's first call.
        taken: seconds of each candidate, turn by turn.
        grown: bytes by which the process grew in a candidate's first call, at the peak.
        device_grown: bytes by which a GPU's memory shrank in it.
        failed: why a candidate dropped out.
    """

    first: dict[Key, float] = field(default_factory=dict)
    taken: list[dict[Key, float]] = field(default_factory=list)
    grown: dict[Key, int] = field(default_factory=dict)
    device_grown: dict[Key, int] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)


def take_turns(
    candidates: Mapping[Key, Sequence[Call]],
    repeats: int,
    seconds: float,
    reason: Callable[[Exception, Key], str],
    ran: Callable[[Key], None],
    free: Callable[[], int | None],
) -> Turns[Key]:
    """Warm all candidates up, then time them until each ran so often or the time is up.

    Args:
        candidates: by key, the calls for a batch after the other, over and over.
        repeats: timed calls of each, at most.
        seconds: bound on the time of these, for each; the turn under way ends first.
        reason: what to note of a call that failed, or it raises.
        ran: is told of each that ran.
        free: bytes at hand on a GPU, None without one.
    """
    found: Turns[Key] = Turns()
    alive = dict(candidates)

    def turn(count: int) -> dict[Key, float]:
        taken = {}
        for key, calls in list(alive.items()):
            first = key not in found.first
            before = _before() if first else 0
            left = free() if first else None
            start = time.perf_counter()
            try:
                made: Any = calls[count % len(calls)]()
            except Exception as error:  # onnxruntime's exceptions share no public base class
                found.failed[key] = reason(error, key)
                del alive[key]
                continue
            taken[key] = max(time.perf_counter() - start, 1e-9)
            if first:
                ran(key)
                found.first[key] = taken[key]
                found.grown[key] = memory.peak_growth(before)
                found.device_grown[key] = max((left or 0) - (free() or 0), 0)
            del made  # freed outside the time, and before the next one needs the memory
        return taken

    end = time.perf_counter() + seconds * len(alive) / 4
    for count in range(_WARM_UP):
        turn(count)
        if time.perf_counter() > end:
            break
    end = time.perf_counter() + seconds * len(alive)
    while alive and (not found.taken or (len(found.taken) < repeats and time.perf_counter() < end)):
        found.taken.append(turn(len(found.taken)))
    return found


def _before() -> int:
    memory.forget_peak()
    return memory.resident()
