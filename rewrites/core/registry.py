"""Finds the rewrites: every module of this package, and those that other packages register."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import rewrites
from rewrites.core.rewrite import Rewrite
from rewrites.errors import OnnxTuneError

ENTRY_POINT_GROUP = "onnxtune.rewrites"

_Registered = dict[tuple[str, str], Rewrite]


@cache
def all_rewrites() -> _Registered:
    """(domain, operator) -> rewrite.

    A module directly inside `rewrites` that has a `REWRITE` holds one operator. An installed
    package adds its own with an entry point of the group `onnxtune.rewrites` that names a
    `Rewrite`. One that cannot be taken is left out with a warning (`problems` has the text), so
    that a broken package breaks no other model.

    Raises:
        OnnxTuneError: two rewrites of this package claim one operator.
    """
    registered, said = _found()
    for text in said:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return registered


def problems() -> tuple[str, ...]:
    """What is wrong with the rewrites that other packages register, a line each."""
    return _found()[1]


def forget() -> None:
    """Look for rewrites anew the next time, for packages that came or went since."""
    all_rewrites.cache_clear()
    _found.cache_clear()


def find(domain: str, operator: str) -> Rewrite | None:
    """The rewrite of an operator, or None."""
    return all_rewrites().get((domain, operator))


@cache
def _found() -> tuple[_Registered, tuple[str, ...]]:
    registered: _Registered = {}
    origins: dict[tuple[str, str], str] = {}
    said = []
    for module in pkgutil.iter_modules(rewrites.__path__):
        if module.ispkg:
            continue
        loaded = importlib.import_module(f"rewrites.{module.name}")
        rewrite = getattr(loaded, "REWRITE", None)
        if isinstance(rewrite, Rewrite):
            key = (rewrite.domain, rewrite.operator)
            if key in registered:
                raise OnnxTuneError(f"Two rewrites claim {key[0]}:{key[1]}; remove one.")
            registered[key], origins[key] = rewrite, "onnxtune"
    points = entry_points(group=ENTRY_POINT_GROUP)
    # The first of two is taken: in an order that does not depend on the file system.
    for point in sorted(points, key=lambda point: (_package(point), point.name, point.value)):
        loaded_one = _load(point)
        if isinstance(loaded_one, str):
            said.append(loaded_one)
            continue
        key = (loaded_one.domain, loaded_one.operator)
        if key not in registered:
            registered[key], origins[key] = loaded_one, f"package {_package(point)}"
        elif registered[key] is not loaded_one:
            said.append(
                f"{_called(point)} is left out: {origins[key]} has a rewrite of "
                f"{key[0]}:{key[1]} already. Remove one of the two."
            )
    return registered, tuple(said)


def _load(point: EntryPoint) -> Rewrite | str:
    """The rewrite, or why there is none."""
    try:
        loaded = point.load()
    except Exception as error:  # a package may raise anything as it is imported
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
        return (
            f"{_called(point)} cannot be loaded ({reason}). Mend or uninstall the package; its "
            "operator has no rewrite until then."
        )
    if isinstance(loaded, Rewrite):
        return loaded
    return (
        f"{_called(point)} is a {type(loaded).__name__}, not a rewrites.core.rewrite.Rewrite. Let "
        "it name one."
    )


def _called(point: EntryPoint) -> str:
    return (
        f"The entry point {point.name} = {point.value} ({ENTRY_POINT_GROUP}) of package "
        f"{_package(point)}"
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"
