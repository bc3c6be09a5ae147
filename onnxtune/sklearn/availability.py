"""Methods that are there or not, at the cost of a look into a dictionary."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from sklearn.utils.metaestimators import available_if


class _Known:
    """A descriptor: scikit-learn's `available_if`, once it is known past it."""

    def __init__(self, function: Callable[..., Any], known: str, check: Callable[[Any], bool]):
        self._function, self._known = function, known
        self._asked = available_if(check)(function)
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # Beside a single row even scikit-learn's look is felt.
        if instance is not None and instance.__dict__.get(self._known):
            return MethodType(self._function, instance)
        return self._asked.__get__(instance, owner)


def available_if_known(known: str, check: Callable[[Any], bool]) -> Callable[..., Any]:
    """A method that is there where an attribute of the instance is true, or else a check says so.

    Args:
        known: the attribute, which a fit sets.
        check: what tells before that.
    """
    return lambda function: _Known(function, known, check)
