"""What `tune` says of itself: every candidate in a table, and why one was taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxtune import output

FORM_NAMES = {"hard": "native, hard", "soft": "soft"}

# The names in a report of the original with one factor on its scores, and of what has a network
# beside the model.
SCALED, COMPANION = "scaled", "with companion"

_MARK = "<- taken"

Candidate = Mapping[str, Any]


def text(report: Mapping[str, Any]) -> str:
    """The report of a tuning run as a table, with the reasons below."""
    lines = [_table(report), "", _counts(report), *_reasons(report)]
    lines += [f"'{node}' has changed: {why}." for node, why in report["replaced"].items()]
    if "metrics" in report:
        lines += ["", _metrics(report["metrics"])]
    return "\n".join(lines)


def _metrics(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A row for each metric and part of the rows, a column for each model."""
    forms = [form for form in FORM_NAMES if any(form in models for models in found.values())]
    rows = [
        [metric, part, figure, *(models.get(form, {}).get(metric) for form in forms)]
        for metric in found["validation"]["original"]
        for part, models in found.items()
        for figure in [models["original"][metric]]
    ]
    headers = ["metric", "rows", "original", *(FORM_NAMES[form] for form in forms)]
    return output.table(headers, rows, "ll" + "r" * (1 + len(forms)))


def shown_name(name: str) -> str:
    """A candidate's name as people are told it."""
    return "original, scaled" if name == SCALED else name


def in_order(report: Mapping[str, Any]) -> list[Candidate]:
    """The candidates, the scaled original before all others."""
    return sorted(report["candidates"], key=lambda one: str(one["name"]) != SCALED)


def _table(report: Mapping[str, Any]) -> str:
    found, test = in_order(report), report.get("test")
    tests: list[Any] = [] if test is None else [test["original"]]
    before = found[0]["before"] if found else None
    rows = [["original", FORM_NAMES["hard"], "1", before, None, None, *tests, ""]]
    for one in found:
        gain = f"{100 * one['gain'] / one['before']:+.1f}%" if one["before"] > 0 else "-"
        taken = report["taken"].get(one["form"]) == one["name"]
        rows.append(
            [
                shown_name(one["name"]),
                FORM_NAMES[one["form"]],
                f"{one['size']:.3g}",
                one["after"],
                gain,
                output.number(one["z"]),
                *([] if test is None else [one.get("test")]),
                _MARK if taken else "",
            ]
        )
    last = [""] if report["taken"] else []
    tested = [] if test is None else ["test"]
    headers = ["model", "form", "size", f"{report['loss']} loss", "gain", "z", *tested, *last]
    sides = "ll" + "r" * (4 + len(tested)) + "l" * len(last)
    return output.table(headers, [row[: len(headers)] for row in rows], sides)


def _counts(report: Mapping[str, Any]) -> str:
    seconds = output.duration(report["seconds"])
    epochs = f"{report['epochs']} epoch{'s' * (report['epochs'] != 1)}"
    test = f", {report['test']['rows']:,} for the test" if "test" in report else ""
    if report["folds"] > 1:
        return (
            f"{report['validation_rows']:,} rows, each for validation in one of "
            f"{report['folds']} folds{test}; {epochs} in the first, {seconds} for all."
        )
    return (
        f"{report['rows']:,} rows, {report['validation_rows']:,} for validation{test}; "
        f"{epochs} in {seconds}."
    )


def _reasons(report: Mapping[str, Any]) -> Iterator[str]:
    """Which candidates were taken and why, or why none was."""
    smaller = report["max_size"] < 1
    if report["init"] == "random":
        yield "A baseline from random numbers, handed out whatever its loss."
    elif smaller and not any(one["size"] < 1 for one in _chosen(report)):
        limit = max(one["limit"] for one in report["candidates"] if one["limit"] is not None)
        kept = "they are kept, scaled" if report["taken"] else "the original is kept"
        yield (
            f"No model of {report['max_size']:g} times the trees is sure to have a loss below "
            f"{limit:.4g}, 2% above that of all trees: {kept}."
        )
        return
    elif not report["taken"]:
        yield "Tuning did not help beyond its standard error: the original is kept."
    for form, name in FORM_NAMES.items():
        able = [one for one in report["candidates"] if one["form"] == form]
        shown = name.replace(", ", " and ")
        taken = next((c for c in able if c["name"] == report["taken"].get(form)), None)
        if taken is not None:
            size = "" if taken["size"] == 1 else f" ({taken['size']:.3g} times the trees)"
            why = _why(report, taken, able)
            yield f"Taken for {shown}: {shown_name(taken['name'])}{size}{why}."
        elif able and not smaller:
            yield f"Kept for {shown}: the original; {_why_not(able)}."


def _chosen(report: Mapping[str, Any]) -> list[Candidate]:
    taken = {(form, name) for form, name in report["taken"].items()}
    return [one for one in report["candidates"] if (one["form"], one["name"]) in taken]


def _why(report: Mapping[str, Any], taken: Candidate, able: Sequence[Candidate]) -> str:
    if report["init"] == "random":
        return ""
    if taken["name"] == COMPANION:
        return f", z above {taken['needed_z']:g} over what is taken without it"
    passing = [one for one in _alone(able) if one["accepted"]] or [taken]
    lowest = min(passing, key=lambda one: float(one["after"]))
    smaller = taken["after"] > lowest["after"]
    best = "the lowest loss"
    if smaller:
        best = f"as good as '{lowest['name']}' within half a standard error, and with fewer trees"
    if taken["limit"] is not None:
        return f", {best}, less than 2% above that of all trees"
    gate = "" if smaller or len(able) == 1 else f" of those with z above {taken['needed_z']:g}"
    return f", {best}{gate}"


def _why_not(able: Sequence[Candidate]) -> str:
    best = min(_alone(able), key=lambda one: float(one["after"]))
    name, needed = shown_name(best["name"]), f"{best['needed_z']:g} is needed"
    if best["z"] > best["needed_z"] and best.get("milder_z") is not None:
        over = output.number(best["milder_z"])
        return f"the best, '{name}', has z {over} over the usual steps, and {needed}"
    return f"the best, '{name}', has z {output.number(best['z'])}, and {needed}"


def _alone(able: Sequence[Candidate]) -> list[Candidate]:
    """Those without a companion, which is judged apart."""
    return [one for one in able if one["name"] != COMPANION]
