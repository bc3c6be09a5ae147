"""What the command line prints: tables, figures, JSON and progress bars, made as text.

Nothing here prints, but for the progress bar, and nothing heavy is imported: numpy's and torch's
values are known by what they can do.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import Enum
from numbers import Integral, Real
from typing import Any, Protocol, TypeVar, cast, overload

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_FIGURE = re.compile(r"[-+]?(\d[\d,]*(\.\d+)?(e[-+]?\d+)?|inf|nan)( ?(%|x|ns|us|ms|s))?|-|")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], align: str | None = None) -> str:
    """Aligned columns in plain text, without a final line break.

    Args:
        headers: the name of each column.
        rows: cells; text stays as it is (but for line breaks and control characters), numbers go
            through `number`, and None becomes "-".
        align: one letter a column, "l" or "r"; without it, columns of figures go to the right.

    Raises:
        ValueError: a row, or `align`, has not one entry a column.
    """
    body = [[_cell(value) for value in row] for row in rows]
    head = [_cell(name) for name in headers]
    if any(len(row) != len(head) for row in body) or (align and len(align) != len(head)):
        raise ValueError(f"Every row, and align, needs {len(head)} entries.")
    columns = [[row[i] for row in body] for i in range(len(head))]
    sides = align or "".join("r" if _are_figures(column) else "l" for column in columns)
    widths = [
        max(_width(text) for text in [name, *column])
        for name, column in zip(head, columns, strict=True)
    ]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "  ".join(_pad(*entry) for entry in zip(line, widths, sides, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else number(value)
    # Escape codes and half characters from a file's names must not reach the terminal.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _are_figures(column: Sequence[str]) -> bool:
    shown = [text for text in column if text not in ("", "-")]
    return bool(shown) and all(_FIGURE.fullmatch(text) for text in shown)


def _width(text: str) -> int:
    """Columns that the text takes on a terminal: two for wide letters, none for accents."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _pad(text: str, width: int, side: str) -> str:
    blank = " " * (width - _width(text))
    return blank + text if side == "r" else text + blank


def number(value: Any, digits: int = 3) -> str:
    """A compact figure: `12,345`, `0.785`, `1.23e-07`.

    Whole numbers keep every digit; others are rounded to `digits` significant ones, though
    never before the decimal point. None becomes "-"; what is no number, its `str`.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if not isinstance(value, Real):
        return str(value)
    figure = float(value)
    if not math.isfinite(figure):
        return str(figure)
    size = abs(float(f"{figure:.{digits - 1}e}"))
    if 10**digits <= size < 1e12:
        return f"{figure:,.0f}"
    return "0" if size == 0 else f"{figure:.{digits}g}"


def duration(seconds: float | None) -> str:
    """A time in seconds as `58 us`, `1.23 ms` or `2.5 s`; None becomes "-"."""
    if seconds is None:
        return "-"
    size = abs(float(seconds))
    if size == 0 or not math.isfinite(size):
        return f"{number(float(seconds))} s" if size == 0 else number(float(seconds))
    for factor, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        # Rounded first: 999.9 us is 1 ms.
        if float(f"{size * factor:.2e}") < 1000:
            return f"{number(float(seconds) * factor)} {unit}"
    return f"{number(float(seconds))} s"


def as_json(value: Any) -> str:
    """Strict JSON in ASCII, indented, without a final line break.

    Dataclasses become objects (through their `to_dict` where they have one), arrays and tuples
    lists, paths text; NaN and infinities, which JSON lacks, become null. Keys keep the order in
    which they were put in; a set is sorted.

    Raises:
        TypeError: a value has no place in JSON.
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=lambda item: (str(type(item)), item))
    if isinstance(value, list | tuple | Iterator | range):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if hasattr(value, "to_dict") and not isinstance(value, type):
        return _plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in names}
    if hasattr(value, "tolist") and not isinstance(value, type):
        return _plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON.")


class Progress(Protocol[T_co]):
    """What a progress bar can do; over a bare total, call `update` instead of iterating."""

    def __iter__(self) -> Iterator[T_co]:
        """The items, each counted as done when the next one is asked for."""

    def __enter__(self) -> Progress[T_co]:
        """The bar itself."""

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""

    def update(self, n: int = 1) -> object:
        """Count `n` more steps as done."""

    def set_postfix_str(self, text: str) -> object:
        """Show a text behind the bar."""

    def close(self) -> object:
        """Remove the bar."""


class _Silent:
    """A progress bar that shows nothing."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        """Count nothing."""

    def set_postfix_str(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to remove."""


@overload
def progress(work: int, description: str) -> Progress[int]: ...
@overload
def progress(work: Iterable[T], description: str) -> Progress[T]: ...
def progress(work: Any, description: str) -> Progress[Any]:
    """A bar on stderr where that is a terminal, and otherwise the same without the bar.

    Args:
        work: what to iterate over, or the number of steps, each then told by `update`.
        description: the words before the bar.
    """
    counted = isinstance(work, int)
    # A process without a console has no stderr at all.
    if sys.stderr is None or not sys.stderr.isatty():
        return _Silent(() if counted else work)
    from tqdm import tqdm

    bar = tqdm(
        None if counted else work,
        desc=description,
        total=work if counted else None,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
    )
    return cast("Progress[Any]", bar)
