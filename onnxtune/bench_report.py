"""What `bench` measured: a table, a plot, dictionaries."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxtune import output
from onnxtune.errors import ArgumentError
from onnxtune.figures import plain, write_figure

_TEXTS = ("model", "provider", "transfers", "note")  # columns of the table


@dataclass(frozen=True)
class Timing:
    """One model at one batch size on one provider; times in seconds, None where it did not run.

    `low_s` and `high_s` are the 10th and 90th percentile of the runs, `p99_s` the 99th. `ratio` is
    this model's time over the first one's, None for the first itself. `load_s` is the time to make
    the session, once the provider's libraries are loaded; `first_s` that of the first call of this
    batch size. `transfers` tells whether arrays went in and out, or values stayed on the device.
    `memory_bytes` is what the process grew by for this model until then, at the peak of its first
    calls; `device_bytes` what it took on the GPU. `error` holds the reason why there are none.
    """

    model: str
    provider: str
    batch_size: int
    median_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    rows_per_s: float | None = None
    ratio: float | None = None
    runs: int = 0
    load_s: float | None = None
    error: str | None = None
    transfers: bool = True
    p99_s: float | None = None
    first_s: float | None = None
    memory_bytes: int | None = None
    device_bytes: int | None = None


@dataclass(frozen=True)
class Placed:
    """Which provider ran the nodes of a model, and how many copies lay between."""

    model: str
    provider: str
    nodes: dict[str, int]
    operators: dict[str, dict[str, int]]
    copies: int

    def text(self) -> str:
        """One line."""
        counts = ", ".join(f"{count} on {place}" for place, count in self.nodes.items())
        elsewhere = [
            f"{count} x {operator}"
            for place, found in self.operators.items()
            for operator, count in found.items()
            if place != self.provider
        ]
        kinds = f" ({', '.join(elsewhere)})" if elsewhere else ""
        return f"{self.model} on {self.provider}: nodes {counts}{kinds}; copies {self.copies}."


@dataclass(frozen=True)
class Crossing:
    """Where a model on an accelerator begins to win.

    `batch_size` is the smallest from which on it is quicker than whatever was quickest on the CPU,
    at every size that was timed; None where it is not.
    """

    model: str
    provider: str
    transfers: bool
    batch_size: int | None


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured: a row for every provider, batch size and model, in that order."""

    rows: tuple[Timing, ...]
    environment: dict[str, Any]
    placements: tuple[Placed, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """`rows`, `crossings`, `placements` and `environment` as dictionaries and lists."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "crossings": [asdict(crossing) for crossing in self.crossings()],
            "placements": [asdict(placed) for placed in self.placements],
            "environment": self.environment,
        }

    def crossings(self) -> list[Crossing]:
        """Where each model on another provider than the CPU begins to win."""
        best: dict[int, float] = {}
        lines: dict[tuple[str, str, bool], dict[int, float]] = {}
        for row in self.rows:
            if row.median_s is None:
                continue
            if row.provider == "cpu":
                best[row.batch_size] = min(row.median_s, best.get(row.batch_size, row.median_s))
            else:
                line = lines.setdefault((row.model, row.provider, row.transfers), {})
                line[row.batch_size] = row.median_s
        found = []
        for (model, provider, transfers), line in lines.items():
            start = None
            for size in sorted(line.keys() & best.keys(), reverse=True):
                if line[size] >= best[size]:
                    break
                start = size
            if line.keys() & best.keys():
                found.append(Crossing(model, provider, transfers, start))
        return found

    def text(self) -> str:
        """The report as a table, with how to read it below."""
        lines = [_cells(row) for row in _merged(self.rows)]
        headers = [name for name in lines[0] if any(line[name] for line in lines)]
        if all(row.transfers for row in self.rows):
            headers.remove("transfers")
        body = [[line[name] for name in headers] for line in lines]
        grid = output.table(headers, body, "".join("lr"[h not in _TEXTS] for h in headers))
        env = self.environment
        first = self.rows[0].model
        ratio = f"ratio: time over that of {first}; " if "ratio" in headers else ""
        threads = "its own choice" if env["threads"] is None else env["threads"]
        sizes = ", ".join(f"{name} {file['bytes']:,}" for name, file in env["models"].items())
        told = [placed.text() for placed in self.placements]
        told += [_told(crossing) for crossing in self.crossings()]
        return "\n".join(
            [
                f"{grid}\n",
                f"{ratio}first: the first call; MB: memory that the model and its runs took.",
                f"onnxruntime {env['versions']['onnxruntime']}, threads: {threads}; "
                f"bytes: {sizes}.",
                *told,
            ]
        )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw rows a second over the batch size; the name's ending chooses the format.

        Raises:
            ArgumentError: nothing was timed, the format is unknown, or the file cannot be written.
        """
        if all(row.error for row in self.rows):
            raise ArgumentError("There is nothing to plot: no model could be timed.")
        write_figure(path, (7, 4.5), lambda figure: _draw(figure, self))


def _merged(rows: Sequence[Timing]) -> Iterable[Timing]:
    """The rows; where a provider gave nothing but one reason, a single one for all of its own."""
    reasons: dict[str, set[str | None]] = {}
    for row in rows:
        reasons.setdefault(row.provider, set()).add(row.error)
    lost = {
        provider for provider, found in reasons.items() if len(found) == 1 and None not in found
    }
    return dict.fromkeys(
        Timing("all", row.provider, 0, error=row.error) if row.provider in lost else row
        for row in rows
    )


def _cells(row: Timing) -> dict[str, Any]:
    """The columns of the table; one that is empty in every row is left out."""
    held = row.memory_bytes if row.device_bytes is None else row.device_bytes
    return {
        "model": row.model,
        "provider": row.provider,
        "transfers": "with" if row.transfers else "without",
        "batch": row.batch_size or "all",
        "median": row.median_s and output.duration(row.median_s),
        "p99": row.p99_s and output.duration(row.p99_s),
        "rows/s": row.rows_per_s,
        "ratio": row.ratio and f"{row.ratio:.2f}",
        "runs": row.runs or None,
        "load": row.load_s and output.duration(row.load_s),
        "first": row.first_s and output.duration(row.first_s),
        "MB": None if held is None else f"{held / 1e6:.1f}",
        "note": textwrap.shorten(row.error or "", 120, placeholder=" ..."),
    }


def _told(crossing: Crossing) -> str:
    way = "" if crossing.transfers else " without transfers"
    line = f"{crossing.model} on {crossing.provider}{way}"
    if crossing.batch_size is None:
        return f"{line} is not quicker than the CPU at the largest batch."
    return f"{line} is quicker than anything on the CPU from batches of {crossing.batch_size:,} on."


def _draw(figure: Any, report: BenchReport) -> None:
    """A line a model and provider: the colour is the model, the dashes the provider.

    Hollow marks are without transfers. A vertical line stands where an accelerator begins to win.
    """
    axes = figure.add_subplot()
    rows = report.rows
    names = list(dict.fromkeys(row.model for row in rows))
    providers = list(dict.fromkeys(row.provider for row in rows))
    kinds = dict.fromkeys((row.model, row.provider, row.transfers) for row in rows)
    for name, provider, transfers in kinds:
        line = sorted(
            (row.batch_size, row.median_s, row.low_s, row.high_s)
            for row in rows
            if (row.model, row.provider, row.transfers, row.error)
            == (name, provider, transfers, None)
        )
        if not line:
            continue
        size, median, low, high = (np.array(part, dtype=float) for part in zip(*line, strict=True))
        style = {
            "color": f"C{names.index(name)}",
            "linestyle": ["-", "--", ":", "-."][providers.index(provider) % 4],
        }
        shown = name if len(providers) == 1 else f"{name}, {provider}"
        shown = shown if transfers else f"{shown}, without transfers"
        # matplotlib hides labels that begin with "_".
        label = " " + plain(shown)
        fill = "full" if transfers else "none"
        axes.plot(
            size, size / median, marker="o", markersize=4, fillstyle=fill, label=label, **style
        )
        axes.fill_between(size, size / high, size / low, color=style["color"], alpha=0.15, lw=0)
    for crossing in report.crossings():
        if crossing.batch_size is not None:
            colour = f"C{names.index(crossing.model)}"
            axes.axvline(crossing.batch_size, color=colour, linestyle=":", linewidth=1)
            axes.annotate(
                f"{crossing.provider} wins",
                (crossing.batch_size, 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                fontsize="x-small",
                color=colour,
                ha="right",
            )
    axes.set(xscale="log", yscale="log", xlabel="batch size (rows)", ylabel="rows a second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
