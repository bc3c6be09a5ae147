"""Tables, figures, JSON and progress bars."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxtune import output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234e-7, "1.23e-07"),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (0.785, "0.785"),
        (0.78549, "0.785"),
        (58.14, "58.1"),
        (999.4, "999"),
        (999.6, "1,000"),
        (-1234.5, "-1,234"),
        (2.5e15, "2.5e+15"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (10**20, "100,000,000,000,000,000,000"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (None, "-"),
        (True, "yes"),
        (np.float32(0.5), "0.5"),
        (np.int64(1000), "1,000"),
        ("as it is", "as it is"),
    ],
)
def test_number(value: Any, text: str) -> None:
    assert output.number(value) == text


def test_number_with_more_digits() -> None:
    assert output.number(3.14159265, digits=5) == "3.1416"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3e-9, "3 ns"),
        (58e-6, "58 us"),
        (1.234e-3, "1.23 ms"),
        (999.9e-6, "1 ms"),
        (0.9999, "1 s"),
        (2.5, "2.5 s"),
        (3725.0, "3,725 s"),
        (-0.002, "-2 ms"),
        (0, "0 s"),
        (None, "-"),
        (math.nan, "nan"),
        (np.float64(58e-6), "58 us"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text


def test_table_aligns_figures_to_the_right() -> None:
    text = output.table(
        ["model", "time", "rows"], [["a.onnx", "58 us", 12345], ["longer.onnx", "1.2 ms", None]]
    )
    assert text.splitlines() == [
        "model          time    rows",
        "-----------  ------  ------",
        "a.onnx        58 us  12,345",
        "longer.onnx  1.2 ms       -",
    ]


def test_table_follows_align_and_takes_no_rows() -> None:
    assert output.table(["a", "name"], [["1", "x"]], align="lr").splitlines()[2] == "1     x"
    assert output.table(["a", "b"], []).splitlines() == ["a  b", "-  -"]


def test_table_counts_the_columns_of_wide_letters_and_accents() -> None:
    lines = output.table(["name", "n"], [["模型", 1], ["e\u0301t", 22]]).splitlines()
    assert lines[2] == "模型   1"
    assert lines[3] == "e\u0301t    22"


def test_table_keeps_a_cell_on_one_line_and_escapes_control_characters() -> None:
    text = output.table(["name"], [["two\nlines \x1b[31mred \udc80"]])
    assert text.splitlines()[2] == r"two lines \x1b[31mred \udc80"


def test_table_refuses_rows_of_another_length() -> None:
    with pytest.raises(ValueError, match="2 entries"):
        output.table(["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="2 entries"):
        output.table(["a", "b"], [], align="l")


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
def test_table_has_one_line_a_row_whatever_the_text(rows: list[list[str]]) -> None:
    lines = output.table(["a", "b"], rows).split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(line.isprintable() for line in lines)


class Form(enum.Enum):
    SOFT = "soft"


@dataclasses.dataclass(frozen=True)
class Inner:
    path: Path
    values: Any


@dataclasses.dataclass(frozen=True)
class Report:
    hidden: int

    def to_dict(self) -> dict[str, Any]:
        return {"shown": self.hidden}


def test_as_json_of_everything_that_a_report_holds() -> None:
    value = {
        "z": Inner(Path("a") / "b", np.array([[1.5, np.nan], [np.inf, 2.0]], np.float32)),
        "a": (np.float64("nan"), np.int64(3), np.bool_(True), np.float32(0.5), np.str_("s")),
        "report": Report(7),
        "set": {"b", "a"},
        "generator": (i for i in range(2)),
        "form": Form.SOFT,
        "day": datetime.date(2024, 2, 29),
        "text": "größe \udc80",
        1: None,
        np.int64(2): -math.inf,
        "empty": np.zeros((0, 3)),
    }
    text = output.as_json(value)
    assert text.isascii()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "z": {"path": os.path.join("a", "b"), "values": [[1.5, None], [None, 2.0]]},
        "a": [None, 3, True, 0.5, "s"],
        "report": {"shown": 7},
        "set": ["a", "b"],
        "generator": [0, 1],
        "form": "soft",
        "day": "2024-02-29",
        "text": "größe \udc80",
        "1": None,
        "2": None,
        "empty": [],
    }
    assert list(json.loads(text))[:3] == ["z", "a", "report"]


def test_as_json_refuses_what_has_no_form() -> None:
    with pytest.raises(TypeError, match="complex"):
        output.as_json({"a": 1j})
    with pytest.raises(TypeError, match="type"):
        output.as_json(Inner)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_as_json_keeps_what_is_json_already(value: Any) -> None:
    assert json.loads(output.as_json(value)) == value


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_silent_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with output.progress(["a", "b"], "reading") as bar:
        assert list(bar) == ["a", "b"]
    with output.progress(3, "tuning") as steps:
        steps.update()
        steps.set_postfix_str("loss 1")
    steps.close()
    monkeypatch.setattr(sys, "stderr", None)
    assert list(output.progress(range(2), "reading")) == [0, 1]
    assert capsys.readouterr() == ("", "")


def test_progress_draws_on_the_terminal_of_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with output.progress(["a", "b"], "reading") as bar:
        assert list(bar) == ["a", "b"]
    with output.progress(3, "tuning") as steps:
        steps.update(2)
        steps.set_postfix_str("loss 1")
    assert "reading" in terminal.getvalue()
    assert "tuning" in terminal.getvalue()
    assert "loss 1" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_the_module_loads_nothing_heavy() -> None:
    heavy = {"numpy", "torch", "onnx", "onnxruntime", "pandas", "matplotlib", "tqdm"}
    code = f"import sys, onnxtune.output; print(*sorted({heavy!r} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ran.stdout.strip() == ""
