"""Converts every ONNX model below a folder, and compares each with its original.

    python benchmarks/corpus.py FOLDER [--limit N]

For each model: the hard form against the original on rows sampled from its graph, the native form
of untouched tensors against the original's bytes, and the torch module against the original where
something can be tuned. Prints how many hold, the reasons for the others, and writes
benchmarks/results/corpus.json. The exit status is 1 where a conversion gives another answer.
"""

from __future__ import annotations

import argparse
import collections
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import onnxtune
from onnxtune import output
from onnxtune.errors import OnnxTuneError
from onnxtune.export import native
from onnxtune.model import Model, load, write
from onnxtune.output import progress
from onnxtune.partition import partition
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from onnxtune.sampling import sample
from onnxtune.torch_module import learned_tensors

RESULTS = Path(__file__).parent / "results" / "corpus.json"


def hard_form(model: Model) -> str:
    """The hard form gives the original's answers."""
    verdict = onnxtune.verify(model, onnxtune.convert(model, form="hard"), rows=200, rtol=1e-4)
    return "holds" if verdict.agrees else "WRONG"


def native_form(model: Model) -> str:
    """Untouched tensors leave the original's bytes."""
    prepared = prepare(model)
    tensors = learned_tensors(prepared, partition(prepared), {})
    written = native(prepared, {name: tensor.value for name, tensor in tensors.items()})
    same = written.proto.SerializeToString() == model.proto.SerializeToString()
    return "holds" if same else "WRONG"


def torch_form(model: Model) -> str:
    """The torch module in hard routing gives the original's answers."""
    module = onnxtune.to_torch(model, routing="hard")
    feed = sample(model.proto, 100)
    expected = run(model.proto, feed)
    for name, value in module.predict(feed).items():
        wanted = expected[name]
        if isinstance(wanted, list):
            wanted = np.array([list(row.values()) for row in wanted])
        got = value.detach().numpy().reshape(np.shape(wanted))
        size = np.sqrt(np.nanmean(np.square(wanted, dtype=np.float64))) if np.size(wanted) else 0
        close = np.isclose(got, wanted, rtol=1e-4, atol=1e-4 * size, equal_nan=True)
        if (~close).mean() > 0.01:
            return "WRONG"
    return "holds"


CHECKS: dict[str, Callable[[Model], str]] = {
    "hard": hard_form,
    "native": native_form,
    "torch": torch_form,
}


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    paths = sorted(options.folder.rglob("*.onnx"))[: options.limit]
    if not paths:
        parser.error(f"{options.folder}: holds no .onnx file")
    found: dict[str, dict[str, str]] = {name: {} for name in CHECKS}
    for path in progress(paths, "models"):
        for name, check in CHECKS.items():
            try:
                found[name][str(path.relative_to(options.folder))] = check(load(path))
            except OnnxTuneError as error:
                # Names of files, nodes and numbers apart, alike reasons are counted together.
                plain = re.sub(r"^\S+\.onnx: |'[^']*'|\d+", "_", str(error))
                found[name][str(path.relative_to(options.folder))] = f"refused: {plain}"
            except Exception as error:  # whatever it is, it is to be counted
                reason = " ".join(str(error).split())
                outcome = f"CRASH {type(error).__name__}: {reason}"
                found[name][str(path.relative_to(options.folder))] = outcome
    counts = {name: collections.Counter(results.values()) for name, results in found.items()}
    rows = [
        [name, reason[:150], count]
        for name, counted in counts.items()
        for reason, count in counted.most_common()
    ]
    print(output.table(["check", "outcome", "models"], rows))
    wrong = [
        f"{name} {path}: {outcome}"
        for name, results in found.items()
        for path, outcome in results.items()
        if outcome.startswith(("WRONG", "CRASH"))
    ]
    print("\n".join(wrong), file=sys.stderr)
    RESULTS.parent.mkdir(exist_ok=True)
    write(RESULTS, output.as_json({"models": len(paths), "outcomes": counts}).encode() + b"\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
