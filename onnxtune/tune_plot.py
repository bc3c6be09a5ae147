"""A tuning run as a picture: its epochs, its candidates, and how reliable a classifier is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnxtune.figures import plain
from onnxtune.settings import Epoch
from onnxtune.tune_report import in_order, shown_name

_TRAIN, _VALID, _SOFT, _TAKEN, _OTHER, _ORIGINAL = "C0", "C1", "C2", "C3", "C7", "0.4"

# Losses that differ by more than this factor go on a logarithmic scale.
_WIDE = 30


def figure_size(report: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height in inches: a line a candidate, a third panel for a classifier."""
    panels = 3 if report.get("reliability") else 2
    return 5.0 * panels, max(4.5, 2.1 + 0.32 * (len(report["candidates"]) + 1))


def draw(figure: Any, report: Mapping[str, Any], history: Sequence[Epoch]) -> None:
    """Losses over the epochs; candidates; where there is one, the reliability curve."""
    curve = report.get("reliability")
    panels = figure.subplots(1, 3 if curve else 2)
    _epochs(panels[0], report, history)
    _candidates(panels[1], report)
    if curve:
        _reliability(panels[2], curve)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)


def _is_wide(losses: Sequence[float]) -> bool:
    known = [loss for loss in losses if math.isfinite(loss)]
    return bool(known) and 0 < _WIDE * min(known) < max(known)


def _loss_name(report: Mapping[str, Any]) -> str:
    return plain(f"{report['loss']} loss")


def _epochs(axes: Any, report: Mapping[str, Any], history: Sequence[Epoch]) -> None:
    """Each training in turn, dotted lines between them."""
    starts = [at for at, record in enumerate(history) if at == 0 or record.epoch == 1]
    ends = [*starts[1:], len(history)]
    lines = {
        "training rows": (_TRAIN, [record.train for record in history]),
        "validation rows, hard": (_VALID, [record.valid for record in history]),
        "validation rows, soft": (
            _SOFT,
            [math.nan if r.valid_soft is None else r.valid_soft for r in history],
        ),
    }
    drawn = []
    for label, (color, values) in lines.items():
        known = [value for value in values if math.isfinite(value)]
        if not known:
            continue
        drawn += known
        for start, end in zip(starts, ends, strict=True):
            axes.plot(
                range(start + 1, end + 1),
                values[start:end],
                color=color,
                marker="o",
                markersize=2.5,
                label=label if start == 0 else None,
            )
    for start in starts[1:]:
        axes.axvline(start + 0.5, color=_ORIGINAL, linewidth=0.8, linestyle=":")
    if report["candidates"]:
        before = report["candidates"][0]["before"]
        drawn.append(before)
        axes.axhline(before, color=_ORIGINAL, linestyle="--", label="original, validation rows")
    if _is_wide(drawn):
        axes.set_yscale("log")
    axes.set(
        xlabel="epoch" + (" (of the first fold)" if report["folds"] > 1 else ""),
        ylabel=_loss_name(report),
        title="training",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)


def _candidates(axes: Any, report: Mapping[str, Any]) -> None:
    """A dot a candidate, with the standard error of its gain; the original as a line."""
    found = in_order(report)
    for place, one in enumerate(found):
        taken = report["taken"].get(one["form"]) == one["name"]
        color = _TAKEN if taken else _OTHER
        error = one["standard_error"]
        axes.errorbar(
            one["after"],
            place,
            xerr=error if math.isfinite(error) else 0.0,
            fmt="o",
            markersize=5,
            color=color,
            label="validation rows" if place == 0 else None,
        )
        if one.get("test") is not None:
            axes.plot(
                one["test"],
                place,
                "D",
                markersize=6,
                color=color,
                markerfacecolor="none",
                label="test rows" if place == 0 else None,
            )
    if found:
        axes.axvline(
            found[0]["before"], color=_ORIGINAL, linestyle="--", label="original, validation rows"
        )
    if "test" in report:
        original = report["test"]["original"]
        axes.axvline(original, color=_ORIGINAL, linestyle=":", label="original, test rows")
    if _is_wide([each for one in found for each in (one["after"], one["before"])]):
        axes.set_xscale("log")
    axes.set(
        xlabel=f"{_loss_name(report)}, +-1 standard error of the gain",
        title="candidates" + (" (red: taken)" if report["taken"] else " (none taken)"),
        yticks=range(len(found)),
        yticklabels=[
            shown_name(one["name"]) + (" (soft)" if one["form"] == "soft" else "") for one in found
        ],
        ylim=(len(found) - 0.5, -0.5),
    )
    _legend(axes)


def _reliability(axes: Any, curve: Mapping[str, Any]) -> None:
    """Predicted probabilities against what was observed."""
    axes.plot([0, 1], [0, 1], color=_ORIGINAL, linewidth=0.8, linestyle=":")
    for name, color in (("original", _ORIGINAL), ("tuned", _TAKEN)):
        points = curve.get(name)
        if points:
            axes.plot(
                [point["predicted"] for point in points],
                [point["observed"] for point in points],
                marker="o",
                markersize=4,
                color=color,
                label=name,
            )
    axes.set(
        xlabel=f"predicted probability of {plain(str(curve['of']))}",
        ylabel="share that came true",
        title=f"reliability, {curve['rows']} rows",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    _legend(axes)


def _legend(axes: Any) -> None:
    """Below the panel, where it hides nothing."""
    axes.legend(
        frameon=False,
        fontsize="small",
        ncols=2,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        borderaxespad=0.0,
    )
