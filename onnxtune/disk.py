"""Tensors on disk, for rows that do not fit into memory."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onnxtune.errors import DataError


def disk_at_hand() -> int:
    """Bytes that are free where temporary files go."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def _reserve(descriptor: int, start: int, size: int) -> None:
    """Take the room at once: a write to a mapped file that finds none kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, size)
    else:
        os.truncate(descriptor, start + size)


def on_disk(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor in a temporary file, which is gone when the tensor is.

    Where the system allows it the file loses its name at once, so that nothing is left behind even
    by a process that is killed.

    Raises:
        DataError: the file cannot be made.
    """
    numpy_type = torch.empty(0, dtype=dtype).numpy().dtype
    path = None
    try:
        descriptor, name = tempfile.mkstemp(prefix="onnxtune-cache-")
        path = Path(name)
        try:
            _reserve(descriptor, 0, math.prod(shape) * numpy_type.itemsize)
        finally:
            os.close(descriptor)
        array = np.memmap(name, numpy_type, "r+", shape=shape)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        raise DataError(
            f"{tempfile.gettempdir()}: no room for cached rows ({error.strerror}); set TMPDIR to a "
            "folder with more."
        ) from None
    try:
        path.unlink()
    except OSError:  # as on Windows, while it is open
        weakref.finalize(array, path.unlink, missing_ok=True)
    return torch.from_numpy(array)
