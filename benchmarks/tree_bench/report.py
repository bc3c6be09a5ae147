"""What the tree benchmark found, as tables and as a plot."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from onnxtune import output

_COLOURS = {"original": "black", "hard": "tab:blue", "soft": "tab:orange",
            "LightGBM": "tab:green", "scikit-learn": "tab:green",
            "Hummingbird": "tab:red"}  # fmt: skip


def text(found: Mapping[str, Sequence[Any]], hummingbird: str | Mapping[str, Any]) -> str:
    """All tables."""
    pieces = []
    if found.get("shapes"):
        pieces += [_models(found["shapes"]), _agreement(found["shapes"])]
        pieces += [_latency(found["shapes"])]
        if isinstance(hummingbird, str):
            pieces.append(f"Hummingbird: {hummingbird}.")
    if found.get("tuning"):
        pieces.append(_tuning(found["tuning"]))
    if found.get("scaling"):
        pieces.append(_scaling(found["scaling"]))
    return "\n\n".join(pieces)


def _models(shapes: Sequence[Any]) -> str:
    lines: list[list[Any]] = []
    for record in shapes:
        size = f"{record['trees']:,} trees, {record['nodes']:,} nodes, depth {record['depth']}"
        lines.append([record["shape"], "original", record["bytes"], None, None, None, size])
        made = record["forms"] | {
            name: one for name, one in record["peers"].items() if name.startswith("Hummingbird")
        }
        for name, one in made.items():
            grew = one.get("growth")
            times = grew / record["bytes"] if grew is not None else None
            lines.append([record["shape"], name, one.get("bytes"), 
                          output.duration(one.get("seconds")), _bytes(grew), times,
                          one.get("error", "")])  # fmt: skip
    headers = ["shape", "form", "bytes", "conversion", "memory", "x file", "note"]
    return "Conversion; memory: growth of the process, also over the original's bytes\n" + (
        output.table(headers, lines)
    )


def _agreement(shapes: Sequence[Any]) -> str:
    lines: list[list[Any]] = []
    for record in shapes:
        hard = record.get("agreement", {})
        lines.append([record["shape"], "hard", hard.get("rows"), hard.get("beyond"),
                      hard.get("worst")])  # fmt: skip
        worst: dict[str, float] = {}
        for name, one in record["peers"].items():
            if one.get("deviation") is not None:
                library = name.split(",")[0]
                worst[library] = max(worst.get(library, 0), one["deviation"])
        lines += [[record["shape"], name, None, None, away] for name, away in worst.items()]
    headers = ["shape", "against the original", "rows", "beyond 1e-5", "worst"]
    return (
        "Agreement; relative to max(|y|, rms y). hard: on exact thresholds and their neighbours, "
        "NaN and infinities, too\n" + output.table(headers, lines)
    )


def _latency(shapes: Sequence[Any]) -> str:
    lines: list[list[Any]] = []
    for record in shapes:
        for row in record["latency"]:
            note = row.get("setting") or row["skipped"] or ""
            lines.append([record["shape"], row["batch"], row["model"],
                          output.duration(row["median_s"]), row["rows_per_s"], row["ratio"],
                          _bytes(row.get("growth")), row["turns"] or None, note])  # fmt: skip
    headers = ["shape", "batch", "model", "median", "rows/s", "ratio", "memory", "turns", "note"]
    table = output.table(headers, lines)
    return "Latency; ratio: time over the original's in onnxruntime\n" + table


def _tuning(records: Sequence[Any]) -> str:
    lines: list[list[Any]] = []
    notes: list[str] = []
    for record in records:
        by_hand = record["ratio_to"] is not None
        lines += [
            [record["shape"], one["form"], output.duration(one["median_s"]),
             one["ratio"] if by_hand else None, _bytes(one.get("growth")),
             output.duration(one.get("build_s")), _bytes(one.get("build_growth")),
             one["skipped"] or ""]
            for one in record["forms"]
        ]  # fmt: skip
        if record["deviation_by_hand"] is not None:
            away = output.number(record["deviation_by_hand"])
            notes.append(
                f"{record['shape']}: soft and by hand differ by at most {away} of the largest."
            )
    batch = records[0]["batch"]
    headers = ["shape", "form", "step", "ratio", "memory", "to build", "memory to build", "note"]
    title = f"Tuning; forward and backward of {batch} rows; ratio: over soft trees written by hand"
    return "\n".join([title, output.table(headers, lines), *notes])


def _scaling(records: Sequence[Any]) -> str:
    lines = []
    for one in records:
        values, times = one["values"], one["median_s"]
        if not times:
            continue
        lines.append([one["form"], one["measure"], f"{values[0]:,.0f} to {values[-1]:,.0f}",
                      output.duration(times[0]), output.duration(times[-1]),
                      times[-1] / times[0], one["slope"]])  # fmt: skip
    headers = ["form", "measure", "over", "from", "to", "factor", "slope"]
    return "Scaling; slope of the logarithm of time; 1 is linear\n" + output.table(headers, lines)


def _bytes(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{output.number(count / 2**20)} MiB"


def plot(shapes: Sequence[Any], threads: int) -> bytes:
    """Rows per second over the batch size, a panel for each shape, as PNG."""
    columns = min(len(shapes), 3)
    lines = -(-len(shapes) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.4 * columns, 3.6 * lines), squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    for panel, record in zip(panels, shapes, strict=False):
        names = list(dict.fromkeys(row["model"] for row in record["latency"]))
        for name in names:
            points = [
                (row["batch"], row["rows_per_s"])
                for row in record["latency"]
                if row["model"] == name and row["rows_per_s"]
            ]
            if points:
                style = "--" if name == "original" else ":" if "pieces" in name else "-"
                panel.plot(*zip(*points, strict=True), style, marker="o", ms=4, label=name,
                           color=_COLOURS[name.split(",")[0]])  # fmt: skip
        panel.set(xscale="log", yscale="log", title=record["shape"], xlabel="rows in a batch")
        panel.title.set_size("medium")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    for panel in panels[len(shapes) :]:
        panel.axis("off")
    for line in axes:
        line[0].set_ylabel("rows per second")
    figure.suptitle(f"Prediction on {threads} thread{'s' if threads > 1 else ''}, CPU")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    plt.close(figure)
    return stream.getvalue()
