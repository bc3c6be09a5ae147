"""Every command in this process: what it prints and writes, its exit status, and bad input."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from onnx import numpy_helper, parser
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import onnxtune
from onnxtune.cli import main
from onnxtune.estimators import to_onnx as export
from onnxtune.model import load

ROWS, COLUMNS = 240, list("abcde")
COMMANDS = ("inspect", "convert", "tune", "verify", "bench", "demo")

# A linear map with doubled weights: any tuning makes it better.
TWO_LINES = """
<ir_version: 8, opset_import: ["" : 17]>
two (float[N, 5] X) => (float[N, 1] first, float[N, 1] second)
<float[5, 1] W = {2, 2, 2, 2, 2}, float[5, 1] V = {1, 1, 1, 1, 1}> {
  first = MatMul(X, W)
  second = MatMul(X, V)
}
"""
DANGLING = """
<ir_version: 8, opset_import: ["" : 17]>
dangling (float[N, 5] X) => (float[N, 5] Y) { Y = Add(X, nowhere) }
"""
TWICE = """
<ir_version: 8, opset_import: ["" : 17]>
twice (float[N, 5] X) => (float[N, 5] Y) { Y = Neg(X)  Y = Abs(X) }
"""
CIRCLE = """
<ir_version: 8, opset_import: ["" : 17]>
circle (float[N, 5] X) => (float[N, 5] Y) { A = Add(X, B)  B = Neg(A)  Y = Abs(B) }
"""
FOREIGN = """
<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
foreign (float[N, 5] X) => (float[N, 5] Y) { Y = custom.Mystery(X) }
"""
UNTYPED = """
<ir_version: 8, opset_import: ["" : 17]>
untyped (float[N, 5] X) => (int64[N, 5] Y) { Y = Neg(X) }
"""
CODES = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
codes (float[N, 5] X) => (float[N, 5, 2] Y) {
    S = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (X)
    [Codes] Y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1]> (S)
}
"""
NOT_LEARNED = """
<ir_version: 8, opset_import: ["" : 17]>
plain (float[N, 5] X) => (float[N, 5] Y) { Y = Abs(X) }
"""


@dataclass
class Ran:
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Onnxtune = Callable[..., Ran]


@pytest.fixture
def onnxtune_(capfd: pytest.CaptureFixture[str]) -> Onnxtune:
    """Runs a command; capfd sees what libraries in C++ print, too."""

    def command(*arguments: Any) -> Ran:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # argparse ends the process by itself
            status = exit_.code if isinstance(exit_.code, int) else -1
        return Ran(status, *capfd.readouterr())

    return command


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("master")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 5)).astype(np.float32)
    amount = X[:, 0] - X[:, 1] + 0.3 * rng.normal(size=ROWS)
    frame = pd.DataFrame(X, columns=COLUMNS)
    frame.assign(y=(amount > 0).astype(int)).to_csv(folder / "classes.csv", index=False)
    frame.assign(y=amount).to_csv(folder / "amounts.csv", index=False)
    np.savez(folder / "rows.npz", X=X)

    # Trained on few rows and on a coarse target, so that tuning has something to gain.
    few, kinds = slice(0, 40), (amount > 0.8).astype(int)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(X[few], kinds[few])
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X[few], kinds[few])
    boosting = GradientBoostingRegressor(n_estimators=5, random_state=0).fit(X, amount)
    plain = {"zipmap": False}
    models = {
        "linear": to_onnx(linear, X[:1], options=plain),
        "forest": to_onnx(forest, X[:1], options=plain),
        "zipped": to_onnx(forest, X[:1]),
        "boosting": to_onnx(boosting, X[:1]),
        "two": parser.parse_model(TWO_LINES),
        "codes": parser.parse_model(CODES),
    }
    models["labels"] = onnx.ModelProto.FromString(models["forest"].SerializeToString())
    del models["labels"].graph.output[1]

    words = pd.DataFrame({"town": rng.choice(["Ulm", "Bonn"], ROWS), "size": X[:, 0]})
    columns = ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore"), ["town"]),
            ("n", "passthrough", ["size"]),
        ]
    )
    pay = amount + (words["town"] == "Ulm")
    words_model = make_pipeline(columns, GradientBoostingRegressor(n_estimators=5, random_state=0))
    models["words"] = export(words_model.fit(words, pay), words)
    words.assign(pay=pay).to_csv(folder / "words.csv", index=False)

    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.fixture
def folder(master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the models and the data, as the working directory."""
    place = tmp_path / "work"
    shutil.copytree(master, place)
    monkeypatch.chdir(place)
    return place


def contents(folder: Path) -> dict[str, Any]:
    """All that would change if a file were written, or a folder made."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def rows_for(path: str, rows: int = ROWS) -> dict[str, Any]:
    if path.startswith("words"):
        table = pd.read_csv("words.csv")[:rows]
        numbers = table[["size"]].to_numpy(np.float32)
        return {"town": table[["town"]].to_numpy(object), "size": numbers}
    return {"X": np.load("rows.npz")["X"][:rows]}


def outputs(path: str, feed: dict[str, Any]) -> dict[str, Any]:
    """By onnxruntime alone."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def metadata(path: str) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


# --- What each command does ---


@pytest.mark.parametrize("command", ["inspect", "convert", "tune", "verify"])
def test_an_option_that_there_is_not(onnxtune_: Onnxtune, command: str) -> None:
    given = {"tune": ["m", "--data", "d", "--target", "y", "-o", "o"], "verify": ["m", "n"]}
    ran = onnxtune_(command, *given.get(command, ["m"]), "--freze", "x")
    assert ran.status == 2 and not ran.out
    assert ran.err == (
        f"onnxtune: unrecognized arguments: --freze x; see `onnxtune {command} --help`.\n"
    )


@pytest.mark.parametrize("name", ["linear", "forest", "zipped", "boosting", "words", "codes"])
def test_inspect(name: str, folder: Path, onnxtune_: Onnxtune) -> None:
    before = contents(folder)
    ran = onnxtune_("inspect", f"{name}.onnx")
    assert (ran.status, ran.err) == (0, "")
    assert "learned numbers can be tuned" in ran.out
    figures = onnxtune_("inspect", f"{name}.onnx", "--json")
    assert (figures.status, figures.err) == (0, "")
    operators = [node["operator"] for node in figures.json["nodes"]]
    assert len(operators) >= len(onnx.load(f"{name}.onnx").graph.node) - 1
    assert (figures.json["tunable"] > 0) == (name != "codes")
    assert contents(folder) == before


def test_inspect_names_the_operator_in_the_way(folder: Path, onnxtune_: Onnxtune) -> None:
    note = onnxtune_("inspect", "codes.onnx", "--json").json["note"]
    assert "OneHotEncoder 'Codes'" in note
    assert "labels only" in onnxtune_("inspect", "labels.onnx", "--json").json["note"]


@pytest.mark.parametrize("name", ["linear", "forest", "boosting", "words"])
@pytest.mark.parametrize("form", ["soft", "hard"])
def test_convert(name: str, form: str, folder: Path, onnxtune_: Onnxtune) -> None:
    before = contents(folder)
    ran = onnxtune_("convert", f"{name}.onnx", "--form", form, "--json")
    assert (ran.status, ran.err) == (0, "")
    target = f"{name}.{form}.onnx"
    assert ran.json["output"] == target
    assert contents(folder).keys() - before.keys() == {target}
    model = onnx.load(target)
    assert ran.json["nodes"] == len(model.graph.node)
    assert ran.json["bytes"] == Path(target).stat().st_size
    feed = rows_for(name)
    expected, found = outputs(f"{name}.onnx", feed), outputs(target, feed)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert value.shape == found[key].shape and value.dtype == found[key].dtype
        if form == "hard":
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5)


def test_convert_tells_the_form_that_a_file_stays_in(folder: Path, onnxtune_: Onnxtune) -> None:
    onnxtune_("convert", "forest.onnx", "--form", "soft", "-o", "soft.onnx")
    ran = onnxtune_("convert", "soft.onnx", "--form", "hard", "-o", "again.onnx")
    assert "again.onnx: soft form" in ran.out


def test_convert_takes_an_output_a_temperature_and_data(folder: Path, onnxtune_: Onnxtune) -> None:
    arguments = ("convert", "boosting.onnx", "--data", "rows.npz")
    narrow = onnxtune_(*arguments, "-o", "narrow.onnx", "--temperature", "1e-6")
    assert narrow.status == 0 and narrow.out.startswith("narrow.onnx: soft form")
    assert onnxtune_(*arguments, "-o", "wide.onnx", "--temperature", "2").status == 0
    feed = rows_for("boosting")
    expected = outputs("boosting.onnx", feed)["variable"]
    near, far = (outputs(f"{name}.onnx", feed)["variable"] for name in ("narrow", "wide"))
    assert np.abs(near - expected).mean() < 1e-3 < np.abs(far - expected).mean()


@pytest.mark.parametrize(
    ("name", "data"),
    [("linear", "classes"), ("forest", "classes"), ("boosting", "amounts"), ("words", "words")],
)
def test_tune_saves_forms_that_agree(
    name: str, data: str, folder: Path, onnxtune_: Onnxtune
) -> None:
    target = "pay" if data == "words" else "y"
    before = contents(folder)
    feed = rows_for(name)
    for form in ("native", "hard", "soft"):
        path = f"tuned.{form}.onnx"
        arguments = ["tune", f"{name}.onnx", "--data", f"{data}.csv", "--target", target]
        arguments += ["--epochs", "4", "--lr", "0.05", "-o", path, "--form", form]
        ran = onnxtune_(*arguments, "--json")
        assert (ran.status, ran.err) == (0, "")
        report = ran.json
        assert report["accepted"] and report["saved"] == path and report["form"] == form
        assert set(outputs(path, feed)) == set(outputs(f"{name}.onnx", feed))
        facts = metadata(path)
        assert facts["onnxtune.version"] == onnxtune.__version__
        assert facts["onnxtune.seed"] == "0"
        assert facts["onnxtune.loss"] == report["loss"]
        assert int(facts["onnxtune.rows"]) == report["rows"] == ROWS * 0.8
        assert len(facts["onnxtune.source_sha256"]) == 64
    assert contents(folder).keys() - before.keys() == {
        "tuned.native.onnx",
        "tuned.hard.onnx",
        "tuned.soft.onnx",
    }
    assert {key: contents(folder)[key] for key in before} == before
    same = onnxtune_("verify", "tuned.native.onnx", "tuned.hard.onnx", "--data", "rows.npz")
    if name != "words":
        assert (same.status, same.err) == (0, "")
    sampled = onnxtune_("verify", "tuned.native.onnx", "tuned.hard.onnx", "--json")
    assert sampled.status == 0 and sampled.json["agrees"]
    moved = onnxtune_("verify", f"{name}.onnx", "tuned.native.onnx", "--json")
    assert moved.status == 1 and not moved.json["agrees"]


def test_tune_keeps_the_original_where_it_does_not_help(folder: Path, onnxtune_: Onnxtune) -> None:
    arguments = ["tune", "boosting.onnx", "--data", "amounts.csv", "--target", "y"]
    arguments += ["--epochs", "1", "--lr", "1e-12", "-o", "tuned.onnx"]
    ran = onnxtune_(*arguments)
    assert (ran.status, ran.err) == (0, "")
    assert "the original is kept" in ran.out
    assert Path("tuned.onnx").read_bytes() == Path("boosting.onnx").read_bytes()
    ran = onnxtune_(*arguments, "--form", "hard", "--json")
    assert ran.status == 0 and ran.json["accepted"] is False
    assert onnxtune_("verify", "boosting.onnx", "tuned.onnx").status == 0


def test_tune_passes_its_options_on(folder: Path, onnxtune_: Onnxtune) -> None:
    table = pd.read_csv("amounts.csv")
    table[:60].to_csv("valid.csv", index=False)
    arguments = ["tune", "boosting.onnx", "--data", "amounts.csv", "--target", "y"]
    arguments += ["--valid", "valid.csv", "--loss", "absolute", "--routing", "leaves"]
    arguments += ["--temperature", "0.2", "--epochs", "2", "--batch-size", "50", "--patience", "3"]
    arguments += ["--device", "cpu", "--seed", "7", "--history", "history.json", "-o", "t.onnx"]
    ran = onnxtune_(*arguments, "--json")
    assert (ran.status, ran.err) == (0, "")
    wanted = {"loss": "absolute", "routing": "leaves", "temperature": 0.2, "seed": 7}
    wanted |= {"device": "cpu", "validation_rows": 60, "rows": ROWS, "epochs": 2}
    assert {key: ran.json[key] for key in wanted} == wanted
    history = json.loads(Path("history.json").read_text())
    assert [epoch["epoch"] for epoch in history] in ([0, 1], [1, 2])


def test_tune_passes_all_options_on(
    folder: Path, onnxtune_: Onnxtune, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def tune(*arguments: Any, **options: Any) -> Any:
        given.update(options)
        raise onnxtune.OnnxTuneError("seen.")

    parameters = inspect.signature(onnxtune.tune).parameters
    monkeypatch.setattr("onnxtune.tuning.tune", tune)
    arguments = ("tune", "boosting.onnx", "--data", "amounts.csv", "--target", "y", "-o", "t.onnx")
    assert onnxtune_(*arguments).err == "onnxtune: seen.\n"
    own = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert own.pop("freeze") == () and given.pop("freeze") == []
    del own["output_weight"]  # of several outputs, which have a target each
    assert given == own
    more = ["--companion", "--init", "random", "--target-transform", "asinh"]
    more += ["--metrics", "r2", "neg_max_error", "--loss", "huber(2)"]
    onnxtune_(*arguments, *more, "--valid", "last", "--test", "words.csv")
    wanted = {"companion": True, "init": "random", "target_transform": "asinh", "valid": "last"}
    wanted["test"] = ("words.csv", "y")
    wanted |= {"metrics": ["r2", "neg_max_error"], "loss": "huber(2)"}
    assert {name: given[name] for name in wanted} == wanted
    for valid, expected in {"0.3": 0.3, "words.csv": ("words.csv", "y"), "week": "week"}.items():
        onnxtune_(*arguments, "--valid", valid)
        assert given["valid"] == expected


def test_tune_validates_on_groups_and_reports_on_test_rows(
    folder: Path, onnxtune_: Onnxtune
) -> None:
    table = pd.read_csv("classes.csv")
    table.assign(week=np.arange(ROWS) // 24).to_csv("weeks.csv", index=False)
    table[:50].to_csv("test.csv", index=False)
    arguments = ["tune", "linear.onnx", "--data", "weeks.csv", "--target", "y", "--epochs", "2"]
    arguments += ["--valid", "week", "--test", "test.csv", "-o", "t.onnx"]
    ran = onnxtune_(*arguments, "--plot", "t.png", "--json")
    assert (ran.status, ran.err) == (0, "")
    # Of few rows all take turns, and weeks stay whole.
    assert ran.json["validation_rows"] == ROWS and ran.json["folds"] == 5
    assert ran.json["test"]["rows"] == 50 and ran.json["test"]["original"] > 0
    assert all(one["test"] > 0 for one in ran.json["candidates"])
    assert ran.json["reliability"]["rows"] == "test"
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    ran = onnxtune_(*arguments)
    assert "original, scaled" in ran.out
    assert f"{ROWS} rows, each for validation in one of 5 folds, 50 for the test" in ran.out
    last = onnxtune_(
        *("tune", "linear.onnx", "--data", "classes.csv", "--target", "y", "--valid", "last"),
        *("--epochs", "1", "-o", "t.onnx", "--json"),
    )
    assert last.json["validation_rows"] == ROWS / 5 and last.json["folds"] == 1


def test_tune_from_random_numbers(folder: Path, onnxtune_: Onnxtune) -> None:
    arguments = ("tune", "linear.onnx", "--data", "classes.csv", "--target", "y", "--epochs", "1")
    ran = onnxtune_(*arguments, "--init", "random", "-o", "t.onnx")
    assert (ran.status, ran.err) == (0, "")
    assert "A baseline from random numbers" in ran.out and "<- taken" in ran.out
    assert Path("t.onnx").read_bytes() != Path("linear.onnx").read_bytes()


def test_tune_on_another_scale(folder: Path, onnxtune_: Onnxtune) -> None:
    table = pd.read_csv("amounts.csv")
    table.assign(y=np.exp(table["y"])).to_csv("positive.csv", index=False)
    arguments = ["tune", "boosting.onnx", "--data", "positive.csv", "--target", "y"]
    arguments += ["--epochs", "1", "-o", "t.onnx", "--json"]
    ran = onnxtune_(*arguments, "--target-transform", "log")
    assert (ran.status, ran.err, ran.json["target_transform"]) == (0, "", "log")
    (written,) = outputs("t.onnx", rows_for("boosting")).values()
    assert (written > 0).all()


def test_tune_freezes_by_glob_and_chooses_an_output(folder: Path, onnxtune_: Onnxtune) -> None:
    frozen = onnxtune_(
        *("tune", "linear.onnx", "--data", "classes.csv", "--target", "y", "--epochs", "1"),
        *("--freeze", "Scaler/*", "*/intercepts", "-o", "t.onnx", "--json"),
    )
    assert list(frozen.json["tensors"]) == ["LinearClassifier/coefficients"]
    chosen = onnxtune_(
        *("tune", "two.onnx", "--data", "amounts.csv", "--target", "y", "--epochs", "1"),
        *("--tune-output", "second", "-o", "t.onnx", "--json"),
    )
    assert chosen.json["output"] == "second" and list(chosen.json["tensors"]) == ["V"]


def test_verify(folder: Path, onnxtune_: Onnxtune) -> None:
    ran = onnxtune_("verify", "forest.onnx", "forest.onnx")
    assert (ran.status, ran.err) == (0, "") and "agree" in ran.out
    ran = onnxtune_(
        *("verify", "forest.onnx", "linear.onnx", "--data", "classes.csv", "--target", "y"),
        "--json",
    )
    assert ran.status == 1
    assert {metric["name"] for metric in ran.json["metrics"]} == {"log loss", "accuracy"}
    model = onnx.load("two.onnx")
    weights = numpy_helper.to_array(model.graph.initializer[0]) + np.float32(1e-3)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "W"))
    onnx.save(model, "moved.onnx")
    before = contents(folder)
    ran = onnxtune_("verify", "two.onnx", "moved.onnx", "--rows", "50", "--seed", "3", "--json")
    assert ran.status == 1 and ran.err == "" and ran.json["rows"] == 50
    assert [output["rows_past"] > 0 for output in ran.json["outputs"]] == [True, False]
    ran = onnxtune_("verify", "two.onnx", "moved.onnx", "--rtol", "0.1", "--atol", "0.1")
    assert ran.status == 0
    assert contents(folder) == before


def test_bench(folder: Path, onnxtune_: Onnxtune, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["bench", "forest.onnx", "zipped.onnx", "--batch-sizes", "1", "20"]
    arguments += ["--data", "classes.csv", "--target", "y", "--threads", "1"]
    ran = onnxtune_(*arguments)
    assert (ran.status, ran.err) == (0, "") and "rows/s" in ran.out
    ran = onnxtune_(*arguments, "--output", "bench.json", "--plot", "bench.png", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert [row["batch_size"] for row in ran.json["rows"]] == [1, 1, 20, 20]
    assert ran.json == json.loads(Path("bench.json").read_text())
    assert Path("bench.png").read_bytes().startswith(b"\x89PNG")


def test_bench_tells_forms_placement_and_the_command(folder: Path, onnxtune_: Onnxtune) -> None:
    arguments = ["bench", "forest.onnx", "--batch-sizes", "5", "--forms", "original", "hard"]
    arguments += ["--transfers", "with", "without", "--placement", "--chunk", "3"]
    ran = onnxtune_(*arguments, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert len(ran.json["rows"]) == 4 and all(row["median_s"] for row in ran.json["rows"])
    assert [placed["copies"] for placed in ran.json["placements"]] == [0, 0]
    assert ran.json["environment"]["command"] == shlex.join(["onnxtune", *arguments, "--json"])


def test_bench_of_a_pickled_estimator(folder: Path, onnxtune_: Onnxtune) -> None:
    rows = np.load("rows.npz")["X"]
    fitted = LogisticRegression().fit(rows, rows[:, 0] > 0)
    joblib.dump(fitted, "fitted.joblib")
    ran = onnxtune_("bench", "forest.onnx", "--batch-sizes", "5", "--native", "fitted.joblib",
                    "--data", "rows.npz", "--json")  # fmt: skip
    assert (ran.status, ran.err) == (0, "")
    assert ran.json["rows"][1]["model"] == "LogisticRegression.predict_proba"
    for bad in ("forest.onnx", "missing.joblib"):
        assert refused(onnxtune_("bench", "forest.onnx", "--native", bad))


def test_bench_compares_two_files(folder: Path, onnxtune_: Onnxtune) -> None:
    arguments = ["bench", "forest.onnx", "--batch-sizes", "5", "--output"]
    for name in ("old.json", "new.json"):
        assert onnxtune_(*arguments, name).status == 0
    ran = onnxtune_("bench", "--compare", "old.json", "old.json")
    assert (ran.status, ran.err) == (0, "") and "1.00" in ran.out
    figures = json.loads(Path("old.json").read_text())
    for name in ("median_s", "low_s", "high_s"):
        figures["rows"][0][name] *= 3
    Path("slow.json").write_text(json.dumps(figures))
    ran = onnxtune_("bench", "--compare", "old.json", "slow.json", "--json")
    assert ran.status == 1 and ran.json["slower"] and ran.json["cells"][0]["verdict"] == "slower"
    wide = onnxtune_("bench", "--compare", "old.json", "slow.json", "--tolerance", "4")
    assert wide.status == 0
    assert refused(onnxtune_("bench", "--compare", "old.json", "missing.json"))
    assert refused(onnxtune_("bench", "forest.onnx", "--compare", "old.json", "new.json"))
    assert refused(onnxtune_("bench", "--compare", "old.json", "old.json", "--output", "x.json"))
    assert refused(onnxtune_("bench"))


def test_bench_without_the_provider(
    folder: Path, onnxtune_: Onnxtune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    arguments = ("bench", "linear.onnx", "--batch-sizes", "10", "--json", "--providers")
    ran = onnxtune_(*arguments, "cpu", "cuda")
    assert (ran.status, ran.err) == (0, "")
    cpu, cuda = ran.json["rows"]
    assert cpu["median_s"] > 0 and cpu["error"] is None
    assert cuda["median_s"] is None and "cuda" in cuda["error"]
    ran = onnxtune_(*arguments, "cuda")
    assert refused(ran) and "'cuda'" in ran.err


def test_demo(folder: Path, onnxtune_: Onnxtune, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of the demo, on small pipelines in the place of its own."""
    from onnxtune import demonstration

    table = pd.read_csv("amounts.csv")
    X, y = table[COLUMNS].astype(np.float32), table["y"]

    def task(name: str) -> Any:
        fitted = make_pipeline(StandardScaler(), LinearRegression())
        return demonstration.Task(
            name, fitted, (X[:90], y[:90]), (X[90:150], y[90:150]), (X[150:], y[150:]), "y"
        )

    monkeypatch.setattr(demonstration, "_cancer", lambda: task("cancer"))
    monkeypatch.setattr(demonstration, "_hours", lambda: task("hours"))
    ran = onnxtune_("demo", "--output", "deep/demo", "--json")
    assert ran.status == 0 and "[2/2]" in ran.err
    assert ran.json["folder"] == "deep/demo"
    files = {path.name for path in Path("deep/demo").iterdir()}
    assert files == set(ran.json["files"])
    forms = {f"cancer.tuned.{form}.onnx" for form in ("native", "hard", "soft")}
    assert files > forms | {"hours.history.json", "hours.history.png"}


# --- Help, and what starting costs ---


HEAVY = ("torch", "onnx", "onnxruntime", "onnx_ir", "numpy", "pandas", "sklearn", "matplotlib")


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(onnxtune.__file__).parents[1])}


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_loads_nothing_heavy(command: str | None) -> None:
    code = f"""
import sys
from onnxtune.cli import main
try:
    main()
except SystemExit as exit_:
    print(exit_.code, *sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)
"""
    ran = fresh(code, *([command] if command else []), "--help")
    assert ran.stderr == "0\n"
    assert ran.stdout.startswith(f"usage: onnxtune {command or ''}".rstrip())
    for name in [] if command else COMMANDS:
        assert name in ran.stdout


def test_version_and_the_package_load_nothing_heavy() -> None:
    code = f"import sys, onnxtune, onnxtune.errors; print(set(sys.modules) & set({HEAVY}))"
    assert fresh(code).stdout == "set()\n"


def test_version(onnxtune_: Onnxtune) -> None:
    ran = onnxtune_("--version")
    assert (ran.status, ran.out) == (0, f"onnxtune {onnxtune.__version__}\n")


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    code = "import sys; from onnxtune.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, "inspect", "forest.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# --- Errors that are not the input's ---


def test_an_interrupt(folder: Path, onnxtune_: Onnxtune, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    before = contents(folder)
    monkeypatch.setattr("onnxtune.training_loop.train", interrupted)
    monkeypatch.setattr("onnxtune.candidates.train", interrupted)
    arguments = ("tune", "two.onnx", "--data", "amounts.csv", "--target", "y")
    ran = onnxtune_(*arguments, "--tune-output", "first", "-o", "t.onnx")
    assert (ran.status, ran.out, ran.err) == (130, "", "onnxtune: interrupted.\n")
    assert contents(folder) == before


def test_an_unexpected_error(
    folder: Path, onnxtune_: Onnxtune, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise IndexError("one\ntwo")

    monkeypatch.setattr("onnxtune.inspection.inspect", broken)
    ran = onnxtune_("inspect", "two.onnx")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("onnxtune: internal error (IndexError: one two); ")
    assert "--debug" in ran.err and ran.err.count("\n") == 1
    with pytest.raises(IndexError):
        main(["inspect", "two.onnx", "--debug"])


def test_too_many_rows(folder: Path, onnxtune_: Onnxtune, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 2 TiB.")

    monkeypatch.setattr("onnxtune.sampling.sample", greedy)
    ran = onnxtune_("verify", "two.onnx", "two.onnx")
    line = "onnxtune: out of memory (Unable to allocate 2 TiB); give fewer rows.\n"
    assert (ran.status, ran.out, ran.err) == (1, "", line)


def test_debug_shows_the_traceback(folder: Path) -> None:
    with pytest.raises(onnxtune.OnnxTuneError, match=r"missing\.onnx"):
        main(["inspect", "missing.onnx", "--debug"])


# --- Bad input: one line, exit status 2, nothing written ---


def refused(ran: Ran) -> bool:
    assert ran.status == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("onnxtune: ") and ran.err.count("\n") == 1, ran.err
    assert ran.err.endswith("\n") and "Traceback" not in ran.err
    assert "internal error" not in ran.err
    return True


@pytest.fixture
def refuse(folder: Path, onnxtune_: Onnxtune) -> Iterator[Callable[..., str]]:
    """Runs a command that must be refused; returns its line."""

    def command(line: str, *more: str) -> str:
        before = contents(folder)
        ran = onnxtune_(*line.split(), *more)
        assert refused(ran)
        assert contents(folder) == before
        return ran.err

    return command


Refuse = Callable[..., str]

WITH_MODEL = {
    "inspect": "inspect BAD",
    "convert": "convert BAD -o new.onnx",
    "convert hard": "convert BAD --form hard",
    "tune": "tune BAD --data classes.csv --target y -o new.onnx --history new.json",
    "verify": "verify BAD linear.onnx",
    "verify candidate": "verify linear.onnx BAD",
    "verify data": "verify BAD linear.onnx --data rows.npz",
    "bench": "bench BAD --batch-sizes 1 --output new.json --plot new.png",
    "bench second": "bench linear.onnx BAD --batch-sizes 1 --data rows.npz",
}


def without_domain(model: bytes) -> bytes:
    proto = onnx.ModelProto.FromString(model)
    del proto.opset_import[:]
    proto.opset_import.add(domain="elsewhere", version=1)
    return proto.SerializeToString()


def of_the_future(model: bytes, ir: int = 8, opset: int = 17) -> bytes:
    proto = onnx.ModelProto.FromString(model)
    proto.ir_version = ir
    proto.opset_import[0].version = opset
    return proto.SerializeToString()


def damaged_forest(model: bytes) -> bytes:
    """Trees whose lists have different lengths."""
    proto = onnx.ModelProto.FromString(model)
    lists = {held.name: held for held in proto.graph.node[0].attribute}
    del lists["nodes_truenodeids"].ints[-3:]
    return proto.SerializeToString()


def text_of(model: str) -> Callable[[Path], bytes]:
    return lambda folder: bytes(parser.parse_model(model).SerializeToString())


BAD_MODELS: dict[str, Callable[[Path], bytes | None]] = {
    "missing": lambda folder: None,
    "empty": lambda folder: b"",
    "png": lambda folder: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40),
    "text": lambda folder: b"a,b,y\n1,2,3\n",
    "protobuf text": lambda folder: b"ir_version: 8\ngraph { name: 'g' }\n",
    "random": lambda folder: np.random.default_rng(0).bytes(2000),
    "zeros": lambda folder: bytes(100),
    "one byte short": lambda folder: (folder / "forest.onnx").read_bytes()[:-1],
    "half": lambda folder: (folder / "forest.onnx").read_bytes()[:1300],
    "no domain": lambda folder: without_domain((folder / "linear.onnx").read_bytes()),
    "future ir": lambda folder: of_the_future((folder / "linear.onnx").read_bytes(), 99),
    "future opset": lambda folder: of_the_future((folder / "two.onnx").read_bytes(), opset=99),
    "damaged trees": lambda folder: damaged_forest((folder / "forest.onnx").read_bytes()),
    "dangling": text_of(DANGLING),
    "twice": text_of(TWICE),
    "circle": text_of(CIRCLE),
    "foreign": text_of(FOREIGN),
    "untyped": text_of(UNTYPED),
}


@pytest.mark.parametrize("command", WITH_MODEL)
@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_bad_model(kind: str, command: str, folder: Path, refuse: Refuse) -> None:
    content = BAD_MODELS[kind](folder)
    if content is not None:
        (folder / "bad.onnx").write_bytes(content)
    assert "bad.onnx" in refuse(WITH_MODEL[command].replace("BAD", "bad.onnx"))


def test_any_prefix_of_a_model_is_refused(folder: Path, refuse: Refuse) -> None:
    """Some of them parse: those that end between two fields of the file."""
    whole = (folder / "linear.onnx").read_bytes()
    graph = onnx.ModelProto.FromString(whole).graph
    parsed = 0
    for length in range(len(whole)):
        path = folder / "bad.onnx"
        path.write_bytes(whole[:length])
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(whole[:length])
        except Exception:
            with pytest.raises(onnxtune.OnnxTuneError, match=r"bad\.onnx"):
                load(path)
            continue
        parsed += 1
        used = {node.domain for node in proto.graph.node}
        if proto.graph != graph or not used <= {opset.domain for opset in proto.opset_import}:
            refuse("inspect bad.onnx")
    assert parsed > 5


UNTUNABLE = {
    "labels.onnx": "labels only",
    "codes.onnx": "OneHotEncoder 'Codes'",
    "plain.onnx": "no learned tensors",
}


@pytest.mark.parametrize(
    "command", ["convert BAD -o new.onnx", "tune BAD --data classes.csv --target y -o new.onnx"]
)
@pytest.mark.parametrize("name", UNTUNABLE)
def test_nothing_to_tune(name: str, command: str, folder: Path, refuse: Refuse) -> None:
    (folder / "plain.onnx").write_bytes(parser.parse_model(NOT_LEARNED).SerializeToString())
    line = refuse(command.replace("BAD", name))
    assert name in line and UNTUNABLE[name] in line


def test_several_outputs_to_tune(refuse: Refuse) -> None:
    line = refuse("tune two.onnx --data amounts.csv --target y -o new.onnx")
    assert "'first'" in line and "'second'" in line and "two.onnx" in line


def frame(folder: Path, name: str = "classes") -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def with_value(table: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    table[column] = table[column].astype(object)
    table.loc[3, column] = value
    return table


BAD_TABLES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    # what is in the file -> what the line says beside its name
    "missing": (lambda f: None, ("file",)),
    "empty": (lambda f: b"", ("is empty",)),
    "no rows": (lambda f: frame(f)[:0], ("empty",)),
    "binary": (lambda f: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), ()),
    "no column": (lambda f: frame(f).drop(columns="c"), ("takes 5",)),
    "surplus column": (lambda f: frame(f).assign(f=1.0), ("takes 5", "'f'")),
    "text": (lambda f: with_value(frame(f), "b", "many"), ("'b'", "many")),
    "no target": (lambda f: frame(f).rename(columns={"y": "z"}), ("'y'", "'z'")),
}
BAD_TARGETS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "missing target": (lambda f: with_value(frame(f), "y", np.nan), ("target", "row 3")),
    "unknown label": (lambda f: with_value(frame(f), "y", 7), ("target", "7", "row 3")),
    "text for a label": (lambda f: with_value(frame(f), "y", "yes"), ("target", "'yes'", "row 3")),
}


def write_table(path: Path, table: Any) -> None:
    if isinstance(table, bytes):
        path.write_bytes(table)
    elif isinstance(table, str):
        path.write_text(table)
    elif table is not None:
        table.to_csv(path, index=False)


WITH_DATA = {
    "convert": "convert forest.onnx --data bad.csv --target y -o new.onnx",
    "tune": "tune forest.onnx --data bad.csv --target y -o new.onnx --history new.json",
    "tune valid": "tune forest.onnx --data classes.csv --target y --valid bad.csv -o new.onnx",
    "tune test": "tune forest.onnx --data classes.csv --target y --test bad.csv -o new.onnx",
    "verify": "verify forest.onnx linear.onnx --data bad.csv --target y",
    "bench": "bench forest.onnx --data bad.csv --target y --batch-sizes 1 --output new.json",
}


READS_TARGET = ("tune", "tune valid", "tune test", "verify")


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        *((kind, command) for kind in BAD_TABLES for command in WITH_DATA),
        *((kind, command) for kind in BAD_TARGETS for command in READS_TARGET),
    ],
)
def test_bad_data(kind: str, command: str, folder: Path, refuse: Refuse) -> None:
    make, said = (BAD_TABLES | BAD_TARGETS)[kind]
    write_table(folder / "bad.csv", make(folder))
    line = refuse(WITH_DATA[command])
    assert all(part in line for part in said), line
    if kind in BAD_TABLES:
        assert "bad.csv" in line


@pytest.mark.parametrize("command", WITH_DATA)
def test_a_column_that_is_there_twice(command: str, folder: Path, refuse: Refuse) -> None:
    text = (folder / "classes.csv").read_text()
    (folder / "bad.csv").write_text(text.replace("a,b,c,d,e,y", "a,b,c,d,y,y"))
    line = refuse(WITH_DATA[command])
    assert "bad.csv" in line and "'y'" in line and "2 times" in line


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("no column", lambda t: t.drop(columns="size"), "'size'"),
        ("no text", lambda t: t.drop(columns="town"), "'town'"),
        ("surplus", lambda t: t.assign(more=1), "'more'"),
        ("text for a number", lambda t: with_value(t, "size", "big"), "'size'"),
        ("no number", lambda t: with_value(t, "pay", "much"), "much"),
        ("missing number", lambda t: with_value(t, "pay", np.nan), "row 3"),
        ("infinite", lambda t: with_value(t, "pay", np.inf), "row 3"),
    ],
)
@pytest.mark.parametrize("command", ["tune", "verify"])
def test_bad_columns(
    command: str,
    name: str,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    said: str,
    folder: Path,
    refuse: Refuse,
) -> None:
    change(frame(folder, "words")).to_csv("bad.csv", index=False)
    models = "words.onnx -o new.onnx" if command == "tune" else "words.onnx words.onnx"
    assert said in refuse(f"{command} {models} --data bad.csv --target pay")


@pytest.mark.parametrize("ending", ["parquet", "npz", "xlsx", "onnx"])
@pytest.mark.parametrize("command", ["tune", "verify", "bench"])
def test_damaged_tables(ending: str, command: str, folder: Path, refuse: Refuse) -> None:
    whole = (folder / "rows.npz").read_bytes()
    (folder / f"bad.{ending}").write_bytes(whole[: len(whole) // 2])
    line = WITH_DATA[command].replace("bad.csv", f"bad.{ending}")
    assert f"bad.{ending}" in refuse(line)


def test_wrong_widths_and_types_in_an_archive(folder: Path, refuse: Refuse) -> None:
    tune = "tune linear.onnx --target y -o new.onnx --data"
    y = np.zeros(ROWS)
    np.savez("wide.npz", X=np.zeros((ROWS, 6), np.float32), y=y)
    assert "'X'" in refuse(f"{tune} wide.npz")
    np.savez("short.npz", X=np.zeros((ROWS - 1, 5), np.float32), y=y)
    assert f"{ROWS - 1}" in refuse(f"{tune} short.npz")
    np.savez("words.npz", X=np.full((ROWS, 5), "word"), y=y)
    assert "'X'" in refuse(f"{tune} words.npz")
    np.savez("named.npz", Z=np.zeros((ROWS, 5)), W=np.zeros((ROWS, 5)), y=y)
    assert "'X'" in refuse(f"{tune} named.npz")
    (folder / "nothing").mkdir()
    assert "nothing" in refuse(f"{tune} nothing")


TUNE = "tune boosting.onnx --data amounts.csv --target y -o new.onnx"
FOREST = "tune forest.onnx --data classes.csv --target y -o new.onnx"
VERIFY = "verify forest.onnx linear.onnx"
BENCH = "bench forest.onnx --batch-sizes 1"

BAD_OPTIONS = {
    # a command -> what its line says
    "": "command",
    "tumble": "'tumble'",
    "inspect": "model",
    "inspect forest.onnx linear.onnx": "linear.onnx",
    "inspect forest.onnx --frobnicate": "--frobnicate",
    "convert forest.onnx --form native": "'native'",
    "convert forest.onnx --temperature 0": "temperature",
    "convert forest.onnx --temperature -1": "temperature",
    "convert forest.onnx --temperature nan": "temperature",
    "convert forest.onnx --temperature abc": "'abc' is neither 'auto' nor a number",
    "tune boosting.onnx --data amounts.csv -o new.onnx": "--target",
    "tune boosting.onnx --data amounts.csv --target y": "--output",
    "tune boosting.onnx --target y -o new.onnx": "--data",
    f"{TUNE} --form onnx": "'onnx'",
    f"{TUNE} --device nonsense": "'nonsense'",
    f"{TUNE} --device meta": "'meta'",
    f"{TUNE} --loss nonsense": "'nonsense'",
    f"{TUNE} --loss log": "log",
    f"{TUNE} --routing hard": "'hard'",
    f"{TUNE} --temperature 0": "temperature",
    f"{TUNE} --temperature abc": "'abc'",
    f"{TUNE} --tune-output nonsense": "'nonsense'",
    f"{TUNE} --freeze nonsense*": "nonsense*",
    f"{TUNE} --freeze *": "freeze",
    f"{TUNE} --epochs 0": "epochs",
    f"{TUNE} --epochs -1": "epochs",
    f"{TUNE} --epochs many": "'many'",
    f"{TUNE} --batch-size 0": "batch_size",
    f"{TUNE} --patience -3": "patience",
    f"{TUNE} --lr 0": "lr",
    f"{TUNE} --lr nan": "lr",
    f"{TUNE} --seed -1": "seed",
    f"{TUNE} --valid 0": "0.0",
    f"{TUNE} --valid nan": "nan",
    f"{TUNE} --valid missing.csv": "missing.csv",
    f"{TUNE} --valid missing/rows": "missing/rows",
    f"{TUNE} --valid nonsense": "'nonsense'",
    f"{TUNE} --valid 1.5": "1.5",
    f"{TUNE} --test missing.csv": "missing.csv",
    f"{TUNE} --init nowhere": "'nowhere'",
    f"{TUNE} --target-transform cube": "'cube'",
    f"{TUNE} --target-transform log": "'log'",
    f"{TUNE} --plot new.txt --history new.json": "new.txt",
    f"{TUNE} --plot new.png --history new.png": "new.png",
    f"{FOREST} --valid 0": "between 0 and 1",
    f"{VERIFY} --rows 0": "rows",
    f"{VERIFY} --rtol -1": "rtol",
    f"{VERIFY} --rtol nan": "rtol",
    f"{VERIFY} --seed -1": "seed",
    f"{VERIFY} --target y": "--data",
    f"{BENCH} --providers abacus": "'abacus'",
    f"{BENCH} --target y": "--data",
    "convert forest.onnx --target y": "--data",
    f"{BENCH} --threads 0": "threads",
    "bench forest.onnx --batch-sizes 0": "batch_sizes must be a whole number",
    "bench forest.onnx --batch-sizes": "--batch-sizes",
    "bench forest.onnx --providers": "--providers",
    f"{BENCH} --plot new.txt --output new.json": "new.txt",
    f"{BENCH} --plot new.png --output new.png": "new.png",
    "demo --output forest.onnx": "forest.onnx",
    "demo --output forest.onnx/deep": "forest.onnx",
}


@pytest.mark.parametrize("line", BAD_OPTIONS)
def test_bad_options(line: str, refuse: Refuse) -> None:
    assert BAD_OPTIONS[line] in refuse(line)


# --- Outputs that must not be written ---


BAD_OUTPUTS = {
    "no folder": "missing/new.onnx",
    "a folder": "deep",
    "under a file": "linear.onnx/new.onnx",
    "the model": "boosting.onnx",
    "the model, another way": "deep/../boosting.onnx",
    "the model's link": "link.onnx",
    "the model's hard link": "twin.onnx",
    "the data": "amounts.csv",
    "a loop": "loop.onnx",
    "too long": "x" * 300 + ".onnx",
    "a device": os.devnull,
}
WITH_OUTPUT = {
    "convert": "convert boosting.onnx --data rows.npz -o OUT",
    "tune": f"{TUNE.removesuffix('new.onnx')} OUT",
    "history": f"{TUNE} --history OUT",
    "tune plot": f"{TUNE} --plot OUT",
    "bench": "bench boosting.onnx --batch-sizes 1 --data amounts.csv --target y --output OUT",
    "plot": "bench boosting.onnx --batch-sizes 1 --data amounts.csv --target y --plot OUT",
}


@pytest.mark.parametrize("command", WITH_OUTPUT)
@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_an_output_that_cannot_be(kind: str, command: str, folder: Path, refuse: Refuse) -> None:
    (folder / "deep").mkdir()
    (folder / "link.onnx").symlink_to("boosting.onnx")
    os.link(folder / "boosting.onnx", folder / "twin.onnx")
    (folder / "loop.onnx").symlink_to("loop.onnx")
    if (kind, command) == ("the data", "convert"):
        (folder / "amounts.csv").unlink()
        (folder / "amounts.csv").symlink_to("rows.npz")
    line = refuse(WITH_OUTPUT[command].replace("OUT", BAD_OUTPUTS[kind]))
    assert BAD_OUTPUTS[kind].split("/")[-1] in line


def test_outputs_that_would_be_one_file(refuse: Refuse) -> None:
    assert "new.onnx" in refuse(f"{TUNE} --history new.onnx")
    assert "new.onnx" in refuse(f"{TUNE} --history ./new.onnx")


def test_files_of_rows_are_inputs(folder: Path, refuse: Refuse) -> None:
    shutil.copy("amounts.csv", "valid.csv")
    line = refuse("tune boosting.onnx --data amounts.csv --target y --valid valid.csv -o valid.csv")
    assert "valid.csv" in line
    tune = "tune boosting.onnx --data amounts.csv --target y --test valid.csv -o"
    assert "valid.csv" in refuse(f"{tune} valid.csv")
    assert "valid.csv" in refuse(f"{tune} new.onnx --plot valid.csv")


def test_default_output_beside_the_model(folder: Path, refuse: Refuse) -> None:
    (folder / "forest.soft.onnx").mkdir()
    assert "forest.soft.onnx" in refuse("convert forest.onnx")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", WITH_OUTPUT)
def test_a_folder_without_permission(command: str, folder: Path, refuse: Refuse) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert "locked" in refuse(WITH_OUTPUT[command].replace("OUT", "locked/new.onnx"))


@pytest.mark.parametrize("command", ["convert", "tune"])
def test_a_disk_that_fills_up(
    command: str, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = refuse(
        WITH_OUTPUT[command].replace("OUT", "new.onnx") + (" --epochs 1" * (command == "tune"))
    )
    assert "new.onnx" in line and "No space left" in line


LONG = "x" * 300


@pytest.mark.parametrize(
    "line",
    [
        f"inspect {LONG}",
        f"verify boosting.onnx {LONG}",
        f"{TUNE} --valid {LONG}",
        f"{TUNE} --test {LONG}",
        f"verify boosting.onnx boosting.onnx --data {LONG}",
    ],
)
def test_names_that_are_too_long(line: str, refuse: Refuse) -> None:
    assert LONG in refuse(line)


def test_tiny_tables(folder: Path, refuse: Refuse) -> None:
    frame(folder, "amounts")[:5].to_csv("few.csv", index=False)
    assert "5 rows" in refuse("tune boosting.onnx --data few.csv --target y -o new.onnx")
