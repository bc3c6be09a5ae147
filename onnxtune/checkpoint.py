"""A folder with the state of a run, from which it goes on as if nothing had happened.

`run.json` says which run it is; every training of it has a file of its own, written anew after each
epoch: safetensors, whose header holds the numbers that are no tensors. A file is written beside and
then renamed, so that there is always a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import onnxtune
from onnxtune.data import Table
from onnxtune.errors import ArgumentError
from onnxtune.model import write
from rewrites.core.rewrite import Array

_RUN = "run.json"

# What the entries of `run.json` are called in messages.
_NAMES = {
    "model": "another model",
    "data": "other data",
    "arguments": "other arguments",
    "versions": "other versions of the packages",
}


@dataclass(frozen=True)
class Slot:
    """The file of one training."""

    path: Path

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts as they were saved last; None where nothing was.

        Raises:
            ArgumentError: the file cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ArgumentError(self.unreadable(error)) from None

    def unreadable(self, error: Exception) -> str:
        """What to say of a file that holds something else."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return (
            f"{self.path}: is no state of this training ({reason}); remove it, and the training "
            "begins anew."
        )

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a whole new file in place of the old one.

        Raises:
            ArgumentError: it cannot be written.
        """
        held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write(self.path, save(held, {"facts": json.dumps(facts)}))


@dataclass(frozen=True)
class Checkpoint:
    """The folder of a run; `threads` is the number that it was begun with, if it is known."""

    folder: Path
    identity: dict[str, Any]
    threads: int | None

    def slot(self, fold: int, training: str) -> Slot:
        """The file of a training in a fold."""
        name = re.sub(r"[^a-z0-9]+", "-", training.lower()).strip("-")
        return Slot(self.folder / f"fold-{fold}-{name}.safetensors")

    def begin(self, threads: int) -> None:
        """Write down which run it is."""
        text = json.dumps({**self.identity, "threads": threads}, indent=1)
        write(self.folder / _RUN, text.encode())


def open_checkpoint(
    folder: str | os.PathLike[str], identity: Mapping[str, Any], resume: bool
) -> Checkpoint:
    """The folder of a run, made where it is not there.

    Args:
        folder: empty or new; with `resume` also that of the same run.
        identity: what makes it the same: fingerprints of the model and of the data, arguments.
        resume: whether to go on.

    Raises:
        ArgumentError: the folder holds another run, or a run and `resume` is not set; or it cannot
            be used.
    """
    path = Path(folder)
    wanted = {
        **identity,
        "versions": {"onnxtune": onnxtune.__version__, "torch": torch.__version__},
    }
    wanted = json.loads(json.dumps(wanted))
    try:
        path.mkdir(parents=True, exist_ok=True)
        for left in path.glob(".onnxtune-*"):  # of a write that was cut short
            left.unlink(missing_ok=True)
        others = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
        found = json.loads((path / _RUN).read_text()) if _RUN in others else None
    except (OSError, ValueError) as error:
        raise ArgumentError(f"checkpoint '{path}': cannot be used ({error}).") from None
    if _RUN in others and not isinstance(found, dict):
        raise ArgumentError(f"checkpoint '{path}': cannot be used ({_RUN} is no record of a run).")
    if found is None:
        if others:
            raise ArgumentError(
                f"checkpoint '{path}': holds files but no run (such as {others[0]}); give an empty "
                "folder or a new one."
            )
        return Checkpoint(path, wanted, None)
    if not resume:
        raise ArgumentError(f"checkpoint '{path}': holds a run; resume it, or give another folder.")
    for key, name in _NAMES.items():
        if found.get(key) != wanted[key]:
            raise ArgumentError(
                f"checkpoint '{path}': is of a run with {name}{_difference(found, wanted, key)}; "
                "give what it was begun with, or another folder."
            )
    return Checkpoint(path, wanted, found.get("threads"))


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], key: str) -> str:
    before, now = found.get(key), wanted[key]
    if not isinstance(before, dict) or not isinstance(now, dict):
        return ""
    names = [name for name in now if before.get(name) != now[name]]
    return f" ({', '.join(f'{n}={before.get(n)!r}, now {now[n]!r}' for n in names)})"


def data_fingerprint(*tables: Table | None) -> str:
    """SHA-256 of all values of some rows."""
    found = hashlib.sha256()
    for table in tables:
        if table is not None:
            others = {"y": table.target, "groups": table.groups, "weights": table.weights}
            found.update(_fingerprint({**table.feed, **others}).encode())
    return found.hexdigest()


def _fingerprint(arrays: Mapping[str, Array | None]) -> str:
    """SHA-256 of named arrays: their types, shapes and values."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        if array is None:
            continue
        found.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        if array.dtype.kind == "O":
            found.update("\0".join(map(str, array.ravel())).encode("utf-8", "replace"))
        else:
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def described(value: Any) -> Any:
    """An argument as `run.json` holds it; a callable by its name, an array by its fingerprint."""
    if callable(value):
        own = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{getattr(value, '__module__', '')}.{own}"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): described(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple) and len(value) < 100:
        return [described(entry) for entry in value]
    return _fingerprint({"": np.asarray(value)})
