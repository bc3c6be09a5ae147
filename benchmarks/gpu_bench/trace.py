"""Runs inside Hummingbird's own environment: its TorchScript of a model, as a file.

    python -m gpu_bench.trace model.joblib rows.npy SETTING target.pt

It imports nothing of onnxtune.
"""

from __future__ import annotations

import json
import sys

import joblib  # type: ignore[import-untyped]
import numpy as np
import torch


def main() -> int:
    """Trace, save, load and compare."""
    from hummingbird.ml import constants, convert  # type: ignore[import-not-found]

    model, rows, setting, target = sys.argv[1:]
    estimator, X = joblib.load(model), np.load(rows)
    extra = {} if setting == "default" else {constants.TREE_IMPLEMENTATION: setting}
    container = convert(estimator, "torch.jit", X[:100], extra_config=extra)
    torch.jit.save(container.model, target)
    loaded = torch.jit.load(target)
    with torch.no_grad():
        made = loaded(torch.from_numpy(X))
    first = made[0] if isinstance(made, tuple | list) else made
    expected = estimator.predict(X)
    away = np.abs(np.ravel(first.numpy()) - expected).max() / np.sqrt(np.mean(expected**2))
    import hummingbird

    found = {"deviation": float(away), "torch": torch.__version__,
             "hummingbird-ml": hummingbird.__version__}  # fmt: skip
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
