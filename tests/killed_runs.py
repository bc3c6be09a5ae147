"""Tuning runs that are killed: a program that loads all packages once and forks for every run.

It reads a list of jobs from stdin and prints the exit status of each, both as JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # noqa: F401, loaded here once and not by every run
import pandas as pd  # noqa: F401

from onnxtune import tuning
from onnxtune.onnx2torch_bridge import onnx2torch_convert
from onnxtune.settings import Epoch
from rewrites.core.registry import all_rewrites


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(at: str, number: int) -> None:
    """Die at a moment of the so-manieth write: half of it written, before or after its rename."""
    count = 0
    replace, fsync = os.replace, os.fsync

    def dying_fsync(descriptor: int) -> None:
        nonlocal count
        fsync(descriptor)
        count += 1
        if at == "half" and count == number:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            _die()

    def dying_replace(source: Any, target: Any) -> None:
        if at == "before" and count == number:
            _die()
        replace(source, target)
        if at == "after" and count == number:
            _die()

    os.replace, os.fsync = dying_replace, dying_fsync  # type: ignore[assignment]


def _run(job: dict[str, Any]) -> None:
    held = np.load(job["data"])
    options = dict(job["options"])
    kill = job.get("kill")
    if kill is not None and kill["at"] == "epoch":
        epochs: list[Epoch] = []

        def die(record: Epoch) -> None:
            epochs.append(record)
            if len(epochs) == kill["number"]:
                _die()

        options["on_epoch"] = die
    elif kill is not None and kill["at"] != "time":
        _arm(kill["at"], kill["number"])
    if "valid_X" in held:
        options["valid"] = (held["valid_X"], held["valid_y"])
    result = tuning.tune(job["model"], held["X"], held["y"], **options)
    history = [record.to_dict() | {"seconds": 0} for record in result.history]
    found = {
        "tensors": result.tensors,
        "soft": result.soft_tensors,
        "history": history,
        "candidates": result.report["candidates"],
        "threads": result.report["threads"],
    }
    Path(job["result"]).write_bytes(pickle.dumps(found))


def _forked(job: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _run(job)
            status = 0
        finally:
            os._exit(status)
    kill = job.get("kill")
    if kill is not None and kill["at"] == "time":
        time.sleep(kill["number"])
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    all_rewrites()
    onnx2torch_convert()
    print(json.dumps([_forked(job) for job in json.load(sys.stdin)]))
