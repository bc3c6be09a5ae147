"""Cached rows: on disk where memory is short, the same numbers, and nothing left behind."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import data_of, exported

from onnxtune import caching, disk
from onnxtune.disk import on_disk
from onnxtune.errors import DataError
from onnxtune.result import TuneResult
from onnxtune.settings import Epoch
from onnxtune.tuning import tune


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_tensor_on_disk(folder: Path, dtype: torch.dtype) -> None:
    tensor = on_disk((100, 7), dtype)
    expected = torch.arange(700).reshape(100, 7).to(dtype)
    tensor[:] = expected
    assert torch.equal(tensor[torch.tensor([5, 3])], expected[[5, 3]])
    del tensor
    gc.collect()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="an open file keeps its name there")
def test_a_file_has_no_name_while_it_is_used(folder: Path) -> None:
    tensor = on_disk((10,), torch.float32)
    assert list(folder.iterdir()) == []
    assert len(tensor) == 10


def test_where_names_cannot_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the file goes when the tensor does."""
    kept, open_ = Path.unlink, True

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if open_:
            raise PermissionError(errno.EACCES, "in use")
        kept(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    tensor = on_disk((10,), torch.float32)
    assert len(list(folder.iterdir())) == 1
    open_ = False
    del tensor
    gc.collect()
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_told_before_it_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a sparse file that finds no room kills the process."""

    def full(descriptor: int, start: int, size: int) -> None:
        assert (start, size) == (0, 40)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "_reserve", full)
    with pytest.raises(DataError, match="no room for cached rows \\(No space left on device\\)"):
        on_disk((10,), torch.float32)
    assert list(folder.iterdir()) == []


def tuned(**options: Any) -> TuneResult:
    train, valid, _ = data_of("boosting")
    given = {"valid": valid, "epochs": 2, "routing": "leaves", "threads": 1} | options
    return tune(exported("boosting"), *train, **given)


def test_a_run_on_disk_is_that_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tuned()
    made: list[tuple[int, ...]] = []

    def watched(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        made.append(shape)
        return on_disk(shape, dtype)

    monkeypatch.setattr(caching, "memory_at_hand", lambda: 100)
    monkeypatch.setattr(caching, "on_disk", watched)
    left: list[Any] = []

    def look(record: Epoch) -> None:
        left.extend(folder.glob("onnxtune-*"))

    on = tuned(on_epoch=look)
    assert made
    assert left == list(folder.glob("onnxtune-*")) == []
    assert [(r.train, r.valid) for r in on.history] == [(r.train, r.valid) for r in memory.history]
    for name, value in memory.tensors.items():
        np.testing.assert_array_equal(value, on.tensors[name])
    assert memory.report["cache"]["disk_bytes"] == 0
    cache = on.report["cache"]
    assert cache["disk_bytes"] == cache["bytes"] == memory.report["cache"]["bytes"] > 0
    assert cache["seconds_saved"] > 0


def test_without_room_anywhere_nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "memory_at_hand", lambda: 100)
    monkeypatch.setattr(caching, "disk_at_hand", lambda: 100)
    result = tuned()
    assert result.report["cache"] == {"bytes": 0, "disk_bytes": 0, "seconds_saved": 0.0}
    assert [r.train for r in result.history] == pytest.approx([r.train for r in tuned().history])


def test_changed_rows_spare_nothing_but_the_validation_rows() -> None:
    plain, noisy = tuned(epochs=3), tuned(epochs=3, noise=0.01)
    assert plain.report["cache"]["bytes"] > 0
    assert noisy.report["cache"]["bytes"] > 0
    assert len(noisy.history) == 3


def test_disk_at_hand_is_that_of_temporary_files(folder: Path) -> None:
    assert 0 < disk.disk_at_hand() <= os.statvfs(folder).f_frsize * os.statvfs(folder).f_blocks
