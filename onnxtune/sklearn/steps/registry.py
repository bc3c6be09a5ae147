"""Finds the families of steps: every module of this package with `STEPS`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from onnxtune.sklearn import steps
from onnxtune.sklearn.steps.step import Step


@cache
def all_steps() -> dict[tuple[str, str], Step]:
    """(package, class) -> the family."""
    found: dict[tuple[str, str], Step] = {}
    for module in pkgutil.iter_modules(steps.__path__):
        loaded = importlib.import_module(f"{steps.__name__}.{module.name}")
        for step in getattr(loaded, "STEPS", ()):
            found |= {(step.library, kind): step for kind in step.kinds}
    return found


def find(estimator: Any) -> Step | None:
    """The family of a fitted step, or None."""
    kind = type(estimator)
    return all_steps().get((kind.__module__.partition(".")[0], kind.__name__))
