"""Distributions of tuning's parameters, ready for scikit-learn's searches."""

from __future__ import annotations

from typing import Any

from scipy import stats

from onnxtune.errors import ArgumentError

_SPACE: dict[str, Any] = {
    "lr": stats.loguniform(1e-4, 3e-2),
    "epochs": stats.randint(10, 61),
    "batch_size": [None, 32, 64, 128, 256],
    "noise": stats.uniform(0.0, 0.1),
    "clip": [None, 1.0, 5.0],
    "patience": stats.randint(4, 13),
    "valid": stats.uniform(0.15, 0.2),
    "companion": [False, True],
    "routing": ["auto", "leaves", "straight-through", "soft"],
    "max_size": [1, 2, 4, 8],
    "temperature": stats.loguniform(0.02, 0.2),
}

# Those that make sense for every model, and cost no more than another run.
_USUAL = ("lr", "epochs", "batch_size", "noise", "patience")


def search_space(*names: str, prefix: str = "") -> dict[str, Any]:
    """Values to draw for RandomizedSearchCV and its kin, by parameter.

    Args:
        names: of parameters; without any those that hold for every model: "lr", "epochs",
            "batch_size", "noise", "patience". More: "clip", "valid", "companion", and for trees
            "routing", "max_size", "temperature".
        prefix: what stands before the names where the estimator is a step of a pipeline, such as
            "tuned__".

    Returns:
        Parameter -> a frozen distribution of scipy.stats, or a list.

    Raises:
        ArgumentError: there is no range for a parameter of this name.
    """
    for name in names:
        if name not in _SPACE:
            raise ArgumentError(f"'{name}' has no range; those that do are {', '.join(_SPACE)}.")
    return {f"{prefix}{name}": _SPACE[name] for name in names or _USUAL}
