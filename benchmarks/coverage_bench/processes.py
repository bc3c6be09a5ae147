"""Work in processes of its own, so that one that is killed or hangs counts as a failure only."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

Work = Callable[[Path], dict[str, Any]]


def each_apart(
    work: Work, paths: Iterable[Path], jobs: int, limit: float
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Do the work for every path in a process forked for it, a few at once.

    A process that dies gives {"died": how}; one past `limit` seconds is killed and gives the same.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(list(paths)))
    running: dict[Any, tuple[Any, Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            path = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(sender, work, path), daemon=True)
            process.start()
            sender.close()
            running[receiver] = (process, path, time.monotonic() + limit)
        soonest = min(end for _, _, end in running.values())
        ready = wait(list(running), max(0.0, soonest - time.monotonic()))
        now = time.monotonic()
        for receiver in list(running):
            process, path, end = running[receiver]
            if receiver in ready:
                try:
                    found = receiver.recv()
                    process.join()
                except EOFError:
                    process.join()
                    found = {"died": f"exit status {process.exitcode}"}
            elif now >= end:
                process.kill()
                process.join()
                found = {"died": f"not done after {limit:g} s"}
            else:
                continue
            receiver.close()
            del running[receiver]
            yield path, found


def _send(sender: Any, work: Work, path: Path) -> None:
    sender.send(work(path))
    sender.close()
