"""Finds the rewrites: every module of this package, and those that other packages register."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

import rewrites
from rewrites.core.rewrite import Rewrite
from rewrites.errors import OnnxTuneError

ENTRY_POINT_GROUP = "onnxtune.rewrites"


@cache
def all_rewrites() -> dict[tuple[str, str], Rewrite]:
    """(domain, operator) -> rewrite.

    A module directly inside `rewrites` that has a `REWRITE` holds one operator. An installed
    package adds its own with an entry point of the group `onnxtune.rewrites` that names a
    `Rewrite`.

    Raises:
        OnnxTuneError: two rewrites claim one operator.
    """
    found: list[Rewrite] = []
    for module in pkgutil.iter_modules(rewrites.__path__):
        if not module.ispkg:
            loaded = importlib.import_module(f"rewrites.{module.name}")
            if isinstance(getattr(loaded, "REWRITE", None), Rewrite):
                found.append(loaded.REWRITE)
    found.extend(point.load() for point in entry_points(group=ENTRY_POINT_GROUP))

    registered: dict[tuple[str, str], Rewrite] = {}
    for rewrite in found:
        key = (rewrite.domain, rewrite.operator)
        if key in registered:
            raise OnnxTuneError(f"Two rewrites claim the operator {key[0]}:{key[1]}; remove one.")
        registered[key] = rewrite
    return registered


def find(domain: str, operator: str) -> Rewrite | None:
    """The rewrite of an operator, or None."""
    return all_rewrites().get((domain, operator))
