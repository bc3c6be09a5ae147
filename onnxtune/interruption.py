"""Ends a run early, with the best so far: Ctrl-C, or a callable that asks for it."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

_log = logging.getLogger(__name__)


@dataclass
class Stop:
    """Whether to end; `interrupted` where Ctrl-C asked for it."""

    asked: bool = False
    interrupted: bool = False


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """The first Ctrl-C asks to stop, the second one stops at once.

    In any other thread than the main one, which gets no signals, only callables can ask.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)
    if before is None or before == signal.SIG_IGN:  # not Python's to change, or not wanted
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = stop.interrupted = True
        signal.signal(signal.SIGINT, before)
        _log.warning("interrupted: the best so far is kept; once more to stop at once.")

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        if signal.getsignal(signal.SIGINT) is ask:
            signal.signal(signal.SIGINT, before)
