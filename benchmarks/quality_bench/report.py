"""What the runs say together: tables, a summary of every size, and a plot."""

from __future__ import annotations

import collections
import io
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onnxtune import output

Run = dict[str, Any]


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Figures over all pipelines, for every size."""
    found = []
    for size in _sizes(runs):
        group = [run for run in runs if run.get("size") == size and "ratio" in run]
        ratios = [run["ratio"] for run in group]
        times = [(sum(run["tune_seconds"] for run in of), sum(run["fit_seconds"] for run in of))
                 for of in _by_name(group).values()]  # fmt: skip
        tunes, fits = zip(*times, strict=True)
        found.append({
            "size": size,
            "runs": len(group),
            "ratio": _geometric(ratios),
            "scaled_ratio": _geometric(run["scaled_ratio"] for run in group),
            "worse_by_2": sum(ratio > 1.02 for ratio in ratios),
            "worse_by_5": sum(ratio > 1.05 for ratio in ratios),
            "kept": sum(not run["accepted"] for run in group),
            "median_time_ratio": statistics.median(t / f for t, f in times),
            "ratio_of_medians": statistics.median(run["tune_seconds"] for run in group)
            / statistics.median(run["fit_seconds"] for run in group),
            "ratio_of_sums": sum(tunes) / sum(fits),
            "median_cpu_ratio": statistics.median(
                sum(run["tune_cpu_seconds"] for run in of)
                / sum(run["fit_cpu_seconds"] for run in of)
                for of in _by_name(group).values()
            ),
            "tune_seconds": sum(tunes),
        })  # fmt: skip
    return found


def peer_summary(runs: Sequence[Run]) -> dict[str, float]:
    """The geometric mean ratio of every peer."""
    return {peer: _geometric(values) for peer, values in _peer_ratios(runs).items()}


def text(runs: Sequence[Run]) -> str:
    """All tables."""
    pieces = [_table(runs, size) for size in _sizes(runs)]
    if any("peers" in run for run in runs):
        pieces.append(_peers(runs))
    pieces += _left_out(runs)
    pieces += [_line(figures) for figures in summary(runs)]
    return "\n\n".join(pieces)


def null_text(runs: Sequence[Run]) -> str:
    """The null test: the mean ratio of every size, and how often a tuned model was taken."""
    lines: list[list[Any]] = []
    for size in _sizes(runs):
        group = [run for run in runs if run.get("size") == size and "ratio" in run]
        ratios = np.array([run["ratio"] for run in group])
        error = ratios.std(ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else None
        taken = sum(run["accepted"] for run in group)
        lines.append([f"{size:g}", len(group), f"{ratios.mean():.4f}",
                      None if error is None else f"{error:.4f}", f"{ratios.max():.4f}",
                      taken])  # fmt: skip
    headers = ["max_size", "runs", "mean ratio", "standard error", "worst", "taken"]
    title = "Labels drawn from the model itself: nothing can be gained\n"
    return "\n\n".join([title + output.table(headers, lines), *_left_out(runs)])


def plot(runs: Sequence[Run]) -> bytes:
    """The ratios of every pipeline as dots, a colour for each size, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(_by_name(runs))
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(names) + 1.2), layout="constrained")
    sizes = _sizes(runs)
    for at, size in enumerate(sizes):
        group = [run for run in runs if run.get("size") == size and "ratio" in run]
        shift = 0.25 * (at - (len(sizes) - 1) / 2)
        places = [names.index(run["name"]) + shift for run in group]
        label = f"max_size {size:g}"
        axes.plot([run["ratio"] for run in group], places, "o", ms=4, alpha=0.7, label=label)
    axes.axvline(1, color="black", lw=0.8)
    axes.set(xscale="log", yticks=range(len(names)), yticklabels=names)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:.2g}")
    axes.set_xlabel("test loss, over that of the original")
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.legend(fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    plt.close(figure)
    return stream.getvalue()


def _table(runs: Sequence[Run], size: float) -> str:
    group = [run for run in runs if run.get("size") == size and "ratio" in run]
    lines: list[list[Any]] = []
    for name, of in _by_name(group).items():
        worst = max(of, key=lambda run: run["ratio"])
        taken = collections.Counter(run["taken"].get("hard", "the original") for run in of)
        lines.append([
            name, len(of), f"{statistics.mean(run['ratio'] for run in of):.3f}",
            f"{statistics.mean(run['scaled_ratio'] for run in of):.3f}",
            f"{worst['ratio']:.3f}", worst["seed"],
            f"{statistics.mean(run['tune_seconds'] for run in of):.2f}",
            f"{statistics.mean(run['fit_seconds'] for run in of):.3f}",
            ", ".join(f"{count} {what}" for what, count in taken.most_common()),
        ])  # fmt: skip
    headers = ["pipeline", "seeds", "ratio", "vs scaled", "worst", "its seed", "tune s", "fit s",
               "taken"]  # fmt: skip
    title = f"max_size {size:g}: test loss over the original's, and over the scaled original's"
    return title + "\n" + output.table(headers, lines, "lrrrrrrrl")


def _left_out(runs: Sequence[Run]) -> list[str]:
    """What onnxtune refuses to tune, pipeline by pipeline, and what failed, run by run."""
    pieces = []
    refused = {run["name"]: run["refused"] for run in runs if "refused" in run}
    if refused:
        pieces.append("Refused\n" + output.table(["pipeline", "reason"], refused.items()))
    failed = [
        [run["name"], run["seed"], run.get("size"), run["error"]] for run in runs if "error" in run
    ]
    if failed:
        pieces.append("Failed\n" + output.table(["pipeline", "seed", "size", "reason"], failed))
    return pieces


def _peers(runs: Sequence[Run]) -> str:
    group = [run for run in runs if "peers" in run]
    names = list(dict.fromkeys(peer for run in group for peer in run["peers"]))
    lines: list[list[Any]] = []
    for name, of in _by_name(group).items():
        cells = [[run["peers"][peer].get("ratio") for run in of] for peer in names]
        cells = [[ratio for ratio in column if ratio is not None] for column in cells]
        lines.append([name, *(f"{statistics.mean(c):.3f}" if c else None for c in cells)])
    means = peer_summary(runs)
    lines.append(["geometric mean", *(f"{means[peer]:.3f}" if peer in means else None
                                      for peer in names)])  # fmt: skip
    notes = sorted({f"{peer}: {found['note']}" for run in group
                    for peer, found in run["peers"].items() if "note" in found})  # fmt: skip
    title = "Peers: test loss over the original's"
    return "\n".join([title, output.table(["pipeline", *names], lines), *notes])


def _line(figures: dict[str, Any]) -> str:
    return (
        f"max_size {figures['size']:g}: geometric mean {figures['ratio']:.4f} over "
        f"{figures['runs']} runs, {figures['scaled_ratio']:.4f} against the scaled original; "
        f"{figures['worse_by_2']} worse by 2%, {figures['worse_by_5']} by 5%; original kept in "
        f"{figures['kept']}; tuning over training time: {figures['median_time_ratio']:.1f} "
        f"(median of pipelines), {figures['ratio_of_medians']:.1f} (of medians), "
        f"{figures['ratio_of_sums']:.1f} (of sums); processor time: "
        f"{figures['median_cpu_ratio']:.1f} (median of pipelines)."
    )


def _peer_ratios(runs: Sequence[Run]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        for peer, figures in run.get("peers", {}).items():
            if "ratio" in figures:
                found.setdefault(peer, []).append(figures["ratio"])
    return found


def _by_name(runs: Iterable[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run["name"], []).append(run)
    return found


def _sizes(runs: Iterable[Run]) -> list[float]:
    return sorted({run["size"] for run in runs if "ratio" in run})


def _geometric(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(list(values), 1e-12)))))
