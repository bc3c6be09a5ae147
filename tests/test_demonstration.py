"""The demo, whole."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from onnxtune.cli import main


@pytest.mark.slow
def test_demo_leaves_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--output", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in report["rows"]} == {"cancer", "hours"}
    cancer = next(r for r in report["rows"] if r["model"] == "cancer" and r["metric"] == "log loss")
    assert cancer["accepted"]
    assert cancer["after"] < cancer["before"]
    assert all(row["native_equals_hard"] for row in report["rows"])
    assert report["seconds"] < 120
    for name in ("cancer", "hours"):
        for form in ("", ".hard", ".soft", ".tuned.native", ".tuned.hard", ".tuned.soft"):
            onnx.checker.check_model(onnx.load(folder / f"{name}{form}.onnx"))
        assert (folder / f"{name}.history.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((folder / f"{name}.history.json").read_text())["history"]
    # What the demo tells the user to try works.
    tuned = tmp_path / "tuned.onnx"
    arguments = ["--data", str(folder / "hours.train.csv"), "--target", "hours-per-week"]
    assert main(["tune", str(folder / "hours.onnx"), *arguments, "-o", str(tuned)]) == 0
    assert tuned.exists()
