"""Two files that `bench` wrote, cell by cell: what became slower."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxtune import output
from onnxtune.errors import ArgumentError, DataError

# What must be alike for times to be comparable.
_SAME = ("platform", "cpu", "cpus", "gpu", "threads", "chunk")


@dataclass(frozen=True)
class Cell:
    """One model, provider, way of transfers and batch size in both files.

    `ratio` is the new median over the old one. `verdict` is "slower" where the ratio is above 1 by
    more than the tolerance and nine in ten of the new runs took longer than the old median, which
    a few disturbed runs do not bring about; "faster" likewise; "same"; "lost" where it ran before
    and fails now; "new" and "gone" where one file alone has figures.
    """

    model: str
    provider: str
    transfers: bool
    batch_size: int
    old_s: float | None
    new_s: float | None
    ratio: float | None
    verdict: str
    note: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Every cell, and how the machines and settings differ."""

    cells: tuple[Cell, ...]
    tolerance: float
    differences: dict[str, list[Any]]

    @property
    def slower(self) -> bool:
        """Whether anything became slower, or fails now."""
        return any(cell.verdict in ("slower", "lost") for cell in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as dictionaries and lists."""
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "tolerance": self.tolerance,
            "differences": self.differences,
            "slower": self.slower,
        }

    def text(self) -> str:
        """The comparison as a table, with how to read it below."""
        headers = ["model", "provider", "batch", "old", "new", "ratio", "verdict"]
        body = [
            [
                cell.model if cell.transfers else f"{cell.model}, without transfers",
                cell.provider,
                cell.batch_size,
                cell.old_s and output.duration(cell.old_s),
                cell.new_s and output.duration(cell.new_s),
                cell.ratio and f"{cell.ratio:.2f}",
                cell.verdict,
            ]
            for cell in self.cells
        ]
        lines = [
            output.table(headers, body, "llrrrrl"),
            "",
            f"slower: the new median is above the old one by more than {self.tolerance:.0%}, and "
            "so are nine in ten of the new runs above the old median.",
        ]
        for name, (old, new) in self.differences.items():
            lines.append(f"Not the same in both: {name} {_short(old)}, then {_short(new)}.")
        return "\n".join(lines)


def compare(
    old: str | os.PathLike[str], new: str | os.PathLike[str], tolerance: float = 0.25
) -> Comparison:
    """Hold two files of figures against each other.

    Args:
        old: a file that `bench` wrote as JSON.
        new: another one.
        tolerance: how much longer a median may be, as a share, before it counts as slower.

    Raises:
        ArgumentError: a file cannot be read, or the tolerance is negative.
        DataError: a file has no such figures, or the two have no cell in common.
    """
    if not 0 <= tolerance < float("inf"):
        raise ArgumentError(f"The tolerance is a share from 0, not {tolerance}.")
    before, after = _read(old), _read(new)
    found = [
        _cell(key, before["rows"].get(key), after["rows"].get(key), tolerance)
        for key in dict.fromkeys([*before["rows"], *after["rows"]])
    ]
    if not any(cell.ratio or cell.verdict == "lost" for cell in found):
        raise DataError(f"{old} and {new} have no model, provider and batch size in common.")
    environments = before["environment"], after["environment"]
    differences = {
        name: [environment.get(name) for environment in environments]
        for name in _SAME
        if environments[0].get(name) != environments[1].get(name)
    }
    return Comparison(tuple(found), tolerance, differences)


Key = tuple[str, str, bool, int]


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError:
        raise DataError(
            f"{path}: is no JSON; give a file that `onnxtune bench --output` wrote."
        ) from None
    try:
        rows = {
            (row["model"], row["provider"], row.get("transfers", True), row["batch_size"]): row
            for row in held["rows"]
        }
        for row in rows.values():
            row["median_s"], row["low_s"], row["high_s"], row["error"]
        return {"rows": rows, "environment": dict(held["environment"])}
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{path}: has no figures of `onnxtune bench`; give a file that its --output wrote."
        ) from None


def _cell(
    key: Key, old: dict[str, Any] | None, new: dict[str, Any] | None, tolerance: float
) -> Cell:
    before = None if old is None else old["median_s"]
    after = None if new is None else new["median_s"]
    if old is None or new is None or not before or not after:
        lost = before and new is not None
        verdict = "lost" if lost else "gone" if before else "new" if after else "same"
        note = new["error"] if new is not None else None
        return Cell(*key, before, after, None, verdict, note)
    ratio = after / before
    verdict = "same"
    if ratio > 1 + tolerance and new["low_s"] > before:
        verdict = "slower"
    elif ratio < 1 / (1 + tolerance) and new["high_s"] < before:
        verdict = "faster"
    return Cell(*key, before, after, ratio, verdict)


def _short(value: Any) -> str:
    return str(value.get("name", value)) if isinstance(value, dict) else str(value)
