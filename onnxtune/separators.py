"""Tables whose columns something else than a comma separates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from onnxtune.errors import DataError

# What may stand between columns -> what a message calls it.
_OTHERS = {";": "';'", "\t": "a tab", "|": "'|'"}


@contextlib.contextmanager
def separator_hint(names: Sequence[str]) -> Iterator[None]:
    """Add a hint to what is wrong with the columns of a file, where their header is in one piece.

    Raises:
        DataError: with the hint.
    """
    try:
        yield
    except DataError as error:
        found = next((name for mark, name in _OTHERS.items() if mark in names[0]), None)
        if len(names) > 1 or found is None:
            raise
        raise DataError(
            f"{error} The whole header is one column with {found} in it: if that separates the "
            "columns, save the file with commas instead."
        ) from None
