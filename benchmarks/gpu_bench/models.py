"""What has to be made where the exporters are: models in their forms, and Hummingbird's trace."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import onnx
from facts import environment, facts
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tree_bench.ensembles import rows, size_of
from tree_bench.peers import PeerError, install, requirements
from tree_bench.shapes import boosted

import onnxtune
from onnxtune import output
from onnxtune.model import write

FOLDER = Path(__file__).parents[1]
_PACKAGES = ("onnx", "numpy", "scikit-learn", "lightgbm", "skl2onnx", "onnxmltools")

# Hummingbird's own choice for this depth, and the way that may be faster.
SETTINGS = ("default", "tree_trav")


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    trees: int
    depth: int
    fitted: int
    batch: int


FULL = Size(500, 8, 40_000, 100_000)
QUICK = Size(20, 4, 2_000, 2_000)


def prepare(folder: Path, quick: bool, peers: Path | None, command: str) -> dict[str, Any]:
    """Fill a folder; returns its manifest, which is written there, too."""
    size = QUICK if quick else FULL
    folder.mkdir(parents=True, exist_ok=True)
    shape = boosted(size.trees, size.depth, size.fitted, threads=1)
    trees, nodes, depth = size_of(shape.proto)
    manifest: dict[str, Any] = {
        **facts(command),
        "versions": environment(_PACKAGES),
        "quick": quick,
        "batch": size.batch,
        "ensemble": {"trees": trees, "nodes": nodes, "depth": depth},
    }
    onnx.save(shape.proto, folder / "trees.original.onnx")
    shape.estimator.booster_.save_model(folder / "trees.lightgbm.txt")
    for form in ("hard", "soft"):
        made = onnxtune.convert(
            shape.proto, form, data=rows(1000)[0], batch_size=size.batch, provider="cuda"
        )
        onnx.save(made, folder / f"trees.{form}.onnx")
    for name, make in _pipelines(quick).items():
        original, hard = make()
        onnx.save(original, folder / f"{name}.original.onnx")
        onnx.save(hard, folder / f"{name}.hard.onnx")
    manifest["hummingbird"] = _trace(shape.estimator, folder, peers)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    manifest["bytes"] = {name: size for name, size in files.items() if name != "manifest.json"}
    write(folder / "manifest.json", output.as_json(manifest).encode() + b"\n")
    return manifest


def _pipelines(quick: bool) -> dict[str, Callable[[], tuple[onnx.ModelProto, onnx.ModelProto]]]:
    """Classifiers whose labels are compared: trees on raw, on scaled and on projected inputs."""
    count, trees = (500, 5) if quick else (8000, 60)
    steps: dict[str, list[Any]] = {
        "raw": [RandomForestClassifier(trees, max_depth=9, random_state=0)],
        "scaled": [StandardScaler(), GradientBoostingClassifier(n_estimators=trees, max_depth=5,
                                                                random_state=0)],
        "projected": [PCA(12, random_state=0), RandomForestClassifier(trees, max_depth=9,
                                                                      random_state=0)],
    }  # fmt: skip
    return {name: partial(_fitted, found, count) for name, found in steps.items()}


def _fitted(steps: list[Any], count: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    X, y = rows(count)
    model = make_pipeline(*steps).fit(X, (y > np.median(y)).astype(int))
    original = onnxtune.to_onnx(model, X)
    return original, onnxtune.convert(original, "hard", batch_size=100_000, provider="cuda")


def _trace(estimator: Any, folder: Path, peers: Path | None) -> dict[str, Any]:
    """Hummingbird's TorchScript of the ensemble, made in an environment of its own."""
    if peers is None:
        return {"error": "left out; --peers FOLDER makes it"}
    try:
        python = install(peers, requirements())
    except (PeerError, OSError, subprocess.CalledProcessError) as error:
        return {"error": str(error)}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        model, sample = Path(temporary) / "model.joblib", Path(temporary) / "rows.npy"
        joblib.dump(estimator, model)
        np.save(sample, rows(1000, seed=3)[0])
        for setting in SETTINGS:
            target = (folder / f"trees.hummingbird.{setting}.pt").resolve()
            command = [python, "-m", "gpu_bench.trace", model, sample, setting, target]
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=FOLDER, timeout=900, check=False
            )
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                found[setting] = {"error": done.stderr.strip().splitlines()[-1:]}
            else:
                found[setting] = json.loads(done.stdout.splitlines()[-1])
    return found
