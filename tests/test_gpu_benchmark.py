"""benchmarks/gpu.py on the CPU provider: both steps, so that it is ready when there is a card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Ends in an error where something is loaded that a machine with a card need not have.
_BLOCK = """
import importlib.abc, runpy, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"onnx2torch", "skl2onnx", "onnxmltools", "lightgbm"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
sys.argv = sys.argv[1:]
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def gpu(*words: Any, blocked: bool = False) -> str:
    script = str(ROOT / "benchmarks" / "gpu.py")
    start = ["-c", _BLOCK, script] if blocked else [script]
    done = subprocess.run(
        [sys.executable, *start, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_both_steps(tmp_path: Path) -> None:
    gpu("prepare", tmp_path / "models", "--quick")
    run = ["run", tmp_path / "models", "--provider", "cpu", "--rows", 3000, "--batch-sizes", 1, 50]
    said = gpu(*run, "--output", tmp_path / "gpu.json", blocked=True)
    record = json.loads((tmp_path / "gpu.json").read_text())
    parts = {name: part["found"] for name, part in record["parts"].items()}
    failed = {name for name, found in parts.items() if "error" in found}
    assert failed == {"tuning"} and "onnx2torch" in parts["tuning"]["error"]
    assert all(check["holds"] is not False for check in record["checks"])
    assert "times as fast" in said and (tmp_path / "gpu.png").exists()
    assert str(tmp_path) not in (tmp_path / "gpu.json").read_text()
    gpu(*run, "--only", "tuning", "--output", tmp_path / "tuning.json")
    tuned = json.loads((tmp_path / "tuning.json").read_text())["parts"]["tuning"]["found"]
    assert {name: one["worst"] for name, one in tuned.items()} == {
        "soft": 0.0,
        "straight-through": 0.0,
    }
