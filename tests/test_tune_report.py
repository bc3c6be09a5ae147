"""What `tune` says and draws: the table, the reasons, the plot, the reliability curve."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from pipelines import data_of, exported

from onnxtune import output, tune_plot
from onnxtune.errors import ArgumentError
from onnxtune.reliability import curve
from onnxtune.result import TuneResult
from onnxtune.runtime import run
from onnxtune.settings import Epoch
from onnxtune.tune_report import text
from onnxtune.tuning import tune

HISTORY = (
    Epoch("soft", 1, 1.0, 0.9, 0.8, 0.1),
    Epoch("soft", 2, 0.9, 0.8, 0.7, 0.1),
    Epoch("straight-through", 1, 0.9, 0.8, None, 0.1),
)


def candidate(name: str, after: float, z: float, form: str = "hard", **more: Any) -> dict[str, Any]:
    gain = 1.0 - after
    found = {"name": name, "form": form, "size": 1.0, "before": 1.0, "after": after}
    found |= {"gain": gain, "standard_error": abs(gain / z), "z": z, "needed_z": 1.64}
    return found | {"limit": None, "accepted": z > 1.64} | more


def report(*candidates: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = {"loss": "log", "rows": 80, "validation_rows": 20, "folds": 1, "epochs": 3}
    made |= {"seconds": 2.5, "max_size": 1.0, "init": "model", "taken": {}, "replaced": {}}
    return made | {"candidates": list(candidates)} | more


def lines_of(*candidates: dict[str, Any], **more: Any) -> list[str]:
    return [" ".join(line.split()) for line in text(report(*candidates, **more)).splitlines()]


SCALED = candidate("scaled", 0.9, 1.2)
BEST = candidate("soft, thresholds kept", 0.5, 4.0)


def test_both_baselines_come_first_and_the_taken_is_marked() -> None:
    lines = lines_of(BEST, SCALED, taken={"hard": BEST["name"]})
    assert lines[0] == "model form size log loss gain z"
    assert lines[2] == "original native, hard 1 1 - -"
    assert lines[3] == "original, scaled native, hard 1 0.9 +10.0% 1.2"
    assert lines[4] == "soft, thresholds kept native, hard 1 0.5 +50.0% 4 <- taken"
    assert lines[6:] == [
        "80 rows, 20 for validation; 3 epochs in 2.5 s.",
        "Taken for native and hard: soft, thresholds kept, the lowest loss of those with z above "
        "1.64.",
    ]


def test_losses_on_test_rows_are_a_column() -> None:
    tested = [{**SCALED, "test": 0.95}, {**BEST, "test": 0.6}]
    test = {"rows": 30, "original": 1.1}
    lines = lines_of(*tested, test=test, taken={"hard": BEST["name"]})
    assert lines[0] == "model form size log loss gain z test"
    assert lines[2].endswith("- - 1.1") and lines[3].endswith("0.95")
    assert lines[4].endswith("0.6 <- taken")
    assert lines[6].startswith("80 rows, 20 for validation, 30 for the test; ")


def test_what_is_kept_has_its_reason() -> None:
    weak = candidate("soft", 0.8, 1.0, "soft")
    kept = "Tuning did not help beyond its standard error: the original is kept."
    assert lines_of(SCALED, weak)[-3:] == [
        kept,
        "Kept for native and hard: the original; the best, 'original, scaled', has z 1.2, and 1.64 "
        "is needed.",
        "Kept for soft: the original; the best, 'soft', has z 1, and 1.64 is needed.",
    ]
    # One form is kept and the other taken.
    lines = lines_of(SCALED, BEST, weak, taken={"hard": BEST["name"]})
    assert kept not in lines and lines[-2].startswith("Taken for native and hard: soft, thresholds")
    assert lines[-1].startswith("Kept for soft: the original; the best, 'soft', has z 1")


def test_fewer_trees_that_are_as_good() -> None:
    few = candidate("soft, dithered x2", 0.51, 4.0, size=2.0)
    many = candidate("soft, dithered x8", 0.5, 4.0, size=8.0)
    assert lines_of(few, many, taken={"hard": few["name"]})[-1] == (
        "Taken for native and hard: soft, dithered x2 (2 times the trees), as good as 'soft, "
        "dithered x8' within half a standard error, and with fewer trees."
    )


def test_a_smaller_model() -> None:
    rule = {"size": 0.25, "limit": 1.02}
    one = candidate("soft", 1.01, -1.0, **rule, accepted=True)
    lines = lines_of(one, taken={"hard": "soft"}, max_size=0.25)
    assert lines[-1] == (
        "Taken for native and hard: soft (0.25 times the trees), the lowest loss, less than "
        "2% above that of all trees."
    )
    worse = candidate("soft", 1.1, -1.0, **rule, accepted=False)
    assert lines_of(worse, max_size=0.25)[-1] == (
        "No model of 0.25 times the trees is sure to have a loss below 1.02, 2% above that of all "
        "trees: the original is kept."
    )
    whole = candidate("scaled, all trees", 0.9, 5.0)
    found = lines_of(whole, worse, taken={"hard": "scaled, all trees"}, max_size=0.25)[-1]
    assert found.endswith("all trees: they are kept, scaled.")


def test_a_baseline_says_that_it_is_one() -> None:
    worse = candidate("trained", 3.0, -9.0)
    lines = lines_of(worse, init="random", taken={"hard": "trained"})
    assert lines[-2:] == [
        "A baseline from random numbers, handed out whatever its loss.",
        "Taken for native and hard: trained.",
    ]


def test_a_companion_is_judged_apart() -> None:
    beside = candidate("with companion", 0.4, 6.0)
    lines = lines_of(BEST, beside, taken={"hard": "with companion"})
    assert lines[-1] == (
        "Taken for native and hard: with companion, z above 1.64 over what is taken without it."
    )
    weak = candidate("soft", 0.8, 1.0)
    assert "'soft'" in lines_of(weak, beside)[-1]
    lines = lines_of(BEST, beside, taken={"hard": BEST["name"]})
    assert "the lowest loss of those" in lines[-1]


def test_folds_and_replaced_nodes() -> None:
    lines = lines_of(BEST, folds=5, validation_rows=100, epochs=1, replaced={"trees": "because"})
    assert "100 rows, each for validation in one of 5 folds; 1 epoch in the first" in lines[5]
    assert lines[-1] == "'trees' has changed: because."


def test_a_loss_of_zero_has_no_gain_in_percent() -> None:
    zero = candidate("trained", 0.0, 1.0) | {"before": 0.0, "gain": 0.0, "z": float("nan")}
    assert lines_of(zero)[3] == "trained native, hard 1 0 - nan"


# Reliability


def test_bins_hold_equally_many_rows() -> None:
    predicted = np.random.default_rng(0).random(1003)
    points = curve(predicted, predicted > 0.5)
    assert [point["count"] for point in points] == 3 * [101] + 7 * [100]
    means = [point["predicted"] for point in points]
    assert means == sorted(means)
    assert points[0]["observed"] == 0 and points[-1]["observed"] == 1


def test_few_rows_and_such_without_a_number() -> None:
    assert curve(np.array([]), np.array([])) == []
    points = curve(np.array([0.2, np.nan, 0.1]), np.array([True, True, False]))
    assert points == [
        {"predicted": 0.1, "observed": 0.0, "count": 1},
        {"predicted": 0.2, "observed": 1.0, "count": 1},
    ]


@cache
def tuned(name: str) -> TuneResult:
    train, valid, test = data_of(name)
    return tune(exported(name), *train, valid=valid, test=test, epochs=3, lr=0.03)


@pytest.mark.parametrize("name", ["forest", "boosting of three", "logistic"])
def test_the_curve_is_that_of_the_files(name: str) -> None:
    result = tuned(name)
    found = result.report["reliability"]
    X, y = data_of(name)[2]
    assert found["rows"] == "test"
    assert found["of"] == ("the top class" if "three" in name else "class 1")
    files = {"original": exported(name)}
    assert ("tuned" in found) == (result.hard is not None)
    if result.hard is not None:
        files["tuned"] = result.model()
    for key, model in files.items():
        share = np.asarray(run(model, {"X": X})["probabilities"], np.float64)
        two = share.shape[1] == 2
        predicted = share[:, 1] if two else share.max(axis=1)
        right = y == 1 if two else share.argmax(axis=1) == y
        expected = curve(predicted, right)
        for point, wanted in zip(found[key], expected, strict=True):
            assert point["predicted"] == pytest.approx(wanted["predicted"], abs=0.02)
            assert point["count"] == wanted["count"]
        # Rows that are nearly tied may change their bins.
        observed = [
            sum(p["observed"] * p["count"] for p in each) for each in (found[key], expected)
        ]
        assert observed[0] == pytest.approx(observed[1])


def test_no_curve_where_nothing_is_classified() -> None:
    assert "reliability" not in tuned("ridge").report
    (X, y), valid, _ = data_of("logistic")
    result = tune(exported("logistic"), X, y, valid=valid, epochs=1)
    assert result.report["reliability"]["rows"] == "validation"


def test_a_forest_that_moved_to_logits_says_so() -> None:
    result = tuned("forest")
    assert result.hard is not None or result.soft is not None
    (node,) = (n for n in exported("forest").graph.node if n.op_type == "TreeEnsembleClassifier")
    said = f"'{node.name}' has changed: its probabilities became logits in front of a LOGISTIC link"
    taken = result.hard or result.soft
    assert taken is not None
    links = [
        [a.s for a in node.attribute if a.name == "post_transform"]
        for node in taken.prepared.source.proto.graph.node
        if node.op_type == "TreeEnsembleClassifier"
    ]
    assert ([b"LOGISTIC"] in links) == (f"{said}." in result.text())
    assert not tuned("boosting of three").report["replaced"]


def test_the_report_is_json() -> None:
    for name in ("forest", "ridge"):
        found = json.loads(output.as_json(tuned(name).report))
        assert found["test"]["rows"] == len(data_of(name)[2][0])
        assert all(one["test"] > 0 for one in found["candidates"])


# The plot


@pytest.mark.parametrize(
    ("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("P.PDF", b"%PDF")]
)
def test_plot_is_written_whole(tmp_path: Path, name: str, start: bytes) -> None:
    tuned("forest").plot(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_plot_that_cannot_be_drawn_writes_nothing(tmp_path: Path) -> None:
    for target in ("plot.onnx", "plot", "nowhere/plot.png", ""):
        with pytest.raises(ArgumentError):
            tuned("ridge").plot(tmp_path / target)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_no_plot(tmp_path: Path) -> None:
    path = tmp_path / "model.png"
    onnx.save(exported("ridge"), path)
    train, valid, _ = data_of("ridge")
    result = tune(path, *train, valid=valid, epochs=1)
    with pytest.raises(ArgumentError, match="input file"):
        result.plot(path)


def panels(found: dict[str, Any]) -> list[Any]:
    figure = Figure(figsize=tune_plot.figure_size(found))
    tune_plot.draw(figure, found, HISTORY)
    return list(figure.axes)


def test_panels() -> None:
    losses, candidates = panels(report(BEST, SCALED, candidate("soft", 0.8, 1.0, "soft")))
    assert [label.get_text() for label in candidates.get_yticklabels()] == [
        "original, scaled",
        "soft, thresholds kept",
        "soft (soft)",
    ]
    # Each training by itself: two lines, three where the soft model is judged as well.
    drawn = [line.get_xdata() for line in losses.lines]
    assert sum(list(x) == [1, 2] for x in drawn) == sum(list(x) == [3] for x in drawn) == 3
    assert losses.get_yscale() == candidates.get_xscale() == "linear"
    points = [{"predicted": 0.2, "observed": 0.3, "count": 9}]
    curves = {"of": "class $1$", "rows": "test", "original": points}
    third = panels(report(BEST, reliability=curves))[2]
    assert third.get_title() == "reliability, test rows"
    assert len(third.lines) == 2


def test_losses_far_apart_are_drawn_on_a_logarithmic_scale() -> None:
    assert panels(report(candidate("trained", 100.0, -5.0)))[1].get_xscale() == "log"


def test_a_gain_without_standard_error_is_drawn() -> None:
    none = candidate("trained", 0.5, 1.0) | {"standard_error": float("nan")}
    assert len(panels(report(none, test={"rows": 1, "original": 1.0}))) == 2


def test_a_bolder_one_that_is_refused_says_why() -> None:
    usual = candidate("trained", 0.95, 1.2, milder_z=None)
    bold = candidate("trained boldly", 0.9, 2.5, milder_z=1.1, accepted=False)
    lines = lines_of(usual, bold)
    assert lines[-1] == (
        "Kept for native and hard: the original; the best, 'trained boldly', has z 1.1 over the "
        "usual steps, and 1.64 is needed."
    )
