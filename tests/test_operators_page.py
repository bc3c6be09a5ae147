"""docs/operators.md is what the rewrites say of themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rewrites.core.registry import all_rewrites
from rewrites.core.rewrite import Tensor

SCRIPT = Path(__file__).parents[1] / "docs" / "operators.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators_page", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script: Any) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    assert text == script.page(), "run python docs/operators.py"


def test_every_operator_and_tensor_is_on_it(script: Any) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    for _, operator in all_rewrites():
        assert f"\n## {operator}\n" in text
    assert "| `thresholds` | a list | thresholds | the spread of the feature |  |" in text
    assert "| `gamma` | a list | weights | a factor of e | positive |" in text
    assert "- one class with support vectors has no scores\n" in text
    assert "LabelEncoder" in text


def test_steps_that_no_page_describes_are_read_off_the_numbers(script: Any) -> None:
    value = np.array([3.0, -4.0], np.float32)
    for unit, said in (
        (np.array([3.0, 4.0]), "its own size"),
        (np.sqrt(12.5), "root mean square of all of them"),
        (1.0, "1"),
        (7.0, "by the rewrite"),
    ):
        assert script._step("Unknown", "role", [Tensor(value, "weights", unit)]) == said


def test_reasons_are_first_sentences_without_advice(script: Any) -> None:
    reasons = script.reasons_of(all_rewrites()["ai.onnx.ml", "TreeEnsembleClassifier"])
    assert len(reasons) >= 5
    assert not any("; give" in text or "`onnxtune inspect`" in text for text in reasons)
