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

_TEXTS = ("model", "provider", "note")  # columns of the table


@dataclass(frozen=True)
class Timing:
    """One model at one batch size on one provider; times in seconds, None where it did not run.

    `low_s` and `high_s` are the 10th and 90th percentile of the runs. `ratio` is this model's time
    over the first one's, None for the first itself. `load_s` is the time to make the session,
    once the provider's libraries are loaded. `error` holds the reason why there are no figures.
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


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured: a row for every provider, batch size and model, in that order."""

    rows: tuple[Timing, ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The report as dictionaries and lists: `rows` and `environment`."""
        return {"rows": [asdict(row) for row in self.rows], "environment": self.environment}

    def text(self) -> str:
        """The report as a table, with how to read it below."""
        lines = [_cells(row) for row in _merged(self.rows)]
        headers = [name for name in lines[0] if any(line[name] for line in lines)]
        body = [[line[name] for name in headers] for line in lines]
        grid = output.table(headers, body, "".join("lr"[h not in _TEXTS] for h in headers))
        env = self.environment
        first, *others = env["models"]
        ratio = f"; ratio: time over that of {first}" if others else ""
        threads = "its own choice" if env["threads"] is None else env["threads"]
        sizes = ", ".join(f"{name} {file['bytes']:,}" for name, file in env["models"].items())
        return (
            f"{grid}\n\n"
            f"low, high: 10th and 90th percentile{ratio}.\n"
            f"onnxruntime {env['onnxruntime']}, threads: {threads}; bytes: {sizes}."
        )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw rows a second over the batch size; the name's ending chooses the format.

        Raises:
            ArgumentError: nothing was timed, the format is unknown, or the file cannot be written.
        """
        if all(row.error for row in self.rows):
            raise ArgumentError("There is nothing to plot: no model could be timed.")
        write_figure(path, (7, 4.5), lambda figure: _draw(figure, self.rows))


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
    return {
        "model": row.model,
        "provider": row.provider,
        "batch": row.batch_size or "all",
        "median": row.median_s and output.duration(row.median_s),
        "low": row.low_s and output.duration(row.low_s),
        "high": row.high_s and output.duration(row.high_s),
        "rows/s": row.rows_per_s,
        "ratio": row.ratio and f"{row.ratio:.2f}",
        "runs": row.runs or None,
        "load": row.load_s and output.duration(row.load_s),
        "note": textwrap.shorten(row.error or "", 120, placeholder=" ..."),
    }


def _draw(figure: Any, rows: Sequence[Timing]) -> None:
    """A line a model and provider: the colour is the model, the dashes the provider."""
    axes = figure.add_subplot()
    names = list(dict.fromkeys(row.model for row in rows))
    providers = list(dict.fromkeys(row.provider for row in rows))
    for name in names:
        for provider in providers:
            line = sorted(
                (row.batch_size, row.median_s, row.low_s, row.high_s)
                for row in rows
                if (row.model, row.provider, row.error) == (name, provider, None)
            )
            if not line:
                continue
            size, median, low, high = (
                np.array(part, dtype=float) for part in zip(*line, strict=True)
            )
            style = {
                "color": f"C{names.index(name)}",
                "linestyle": ["-", "--", ":", "-."][providers.index(provider) % 4],
            }
            shown = name if len(providers) == 1 else f"{name}, {provider}"
            # matplotlib hides labels that begin with "_".
            label = " " + plain(shown)
            axes.plot(size, size / median, marker="o", markersize=4, label=label, **style)
            axes.fill_between(size, size / high, size / low, color=style["color"], alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", xlabel="batch size (rows)", ylabel="rows a second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
