"""Which columns of a table feed which input of a model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxtune.errors import DataError
from onnxtune.runtime import ValueType
from onnxtune.tables import Array, listing


def check_inputs(inputs: Sequence[ValueType]) -> None:
    """Refuse what no data can feed.

    Raises:
        DataError: an input that is no tensor of numbers, booleans or strings with rows.
    """
    if not inputs:
        raise DataError("the model has no inputs to feed.")
    for value in inputs:
        try:
            known = value.dtype.kind in "biufO"
        except (DataError, TypeError):
            known = False
        if not known:
            raise DataError(
                f"input '{value.name}' is a {value.kind}; only tensors of numbers, booleans and "
                "strings can be fed from data."
            )
        if value.shape == ():
            raise DataError(
                f"input '{value.name}' is a scalar, without a dimension for the rows; make it an "
                "initializer of the model."
            )


def check_batch(inputs: Sequence[ValueType], feed: Mapping[str, Array], model: str) -> None:
    """Refuse rows of another number than a model's inputs fix.

    Args:
        inputs: the types of the model's inputs.
        feed: input name -> array; without one an input must fix nothing.
        model: what to call it in messages.

    Raises:
        DataError: with what to do instead.
    """
    for value in inputs:
        size = value.shape[0] if value.shape else None
        if size is not None and size > 0 and len(feed.get(value.name, ())) != size:
            raise DataError(
                f"{model}: input '{value.name}' takes batches of exactly {size:,} "
                f"row{'s' * (size != 1)} (its first dimension is fixed); export the model with a "
                "dynamic batch, a first dimension without a size, to use it with other rows."
            )


def sizes_after_rows(value: ValueType) -> tuple[int | None, ...] | None:
    """The dimensions after the rows; some exporters write 0 or -1 for one that varies."""
    if value.shape is None:
        return None
    return tuple(size if size is not None and size > 0 else None for size in value.shape[1:])


def width_of(value: ValueType) -> int | None:
    """How many columns of a table the input takes; None for any number."""
    sizes = sizes_after_rows(value)
    if sizes is None:
        return None
    return sizes[0] if sizes else 1


def check_table_feeds(value: ValueType, origin: str) -> None:
    """Refuse an input of more than two dimensions."""
    sizes = sizes_after_rows(value)
    if sizes is not None and len(sizes) > 1:
        raise DataError(
            f"{origin}: a table cannot feed input '{value.name}' of {len(sizes) + 1} dimensions; "
            "pass a mapping of input name to array."
        )


def _match(names: Sequence[str], wanted: Sequence[str], origin: str, noun: str) -> dict[str, int]:
    """Input name -> position in `names`: the same name, else the name that exporters make of it."""
    counts = Counter(names)
    found = {}
    for name in wanted:
        if counts[name] > 1:
            raise DataError(
                f"{origin}: {noun} '{name}' is there {counts[name]} times; rename the others."
            )
        if counts[name]:
            found[name] = names.index(name)
    left_names: dict[str, list[str]] = {}
    for name in names:
        if name not in found:
            left_names.setdefault(_sanitised(name), []).append(name)
    left_wanted = [name for name in wanted if name not in found]
    times = Counter(_sanitised(name) for name in left_wanted)
    for name in left_wanted:
        candidates = left_names.get(_sanitised(name), [])
        if len(candidates) == 1 and times[_sanitised(name)] == 1:
            found[name] = names.index(candidates[0])
    return found


def counterparts(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Wanted name -> the one of `names` that is the same, or becomes the same in exporters."""
    found = _match(names, wanted, "the model", "input")
    return {name: names[place] for name, place in found.items()}


def _sanitised(name: str) -> str:
    """'hours-per-week' becomes 'hours_per_week', as in skl2onnx."""
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() else name


def match_all(
    names: Sequence[str], inputs: Sequence[ValueType], origin: str, noun: str, has_target: bool
) -> list[int]:
    """The position in `names` for each input.

    Args:
        noun: what the names name: "column" or "array".
        has_target: the target is known, so that no surplus column can be it.

    Raises:
        DataError: an input without a name, or a name without an input.
    """
    found = _match(names, [value.name for value in inputs], origin, noun)
    missing = [value.name for value in inputs if value.name not in found]
    if missing:
        raise DataError(
            f"{origin}: no {noun} for input {listing(missing)}; the {noun}s are {listing(names)}."
        )
    positions = [found[value.name] for value in inputs]
    used = set(positions)
    extra = [name for index, name in enumerate(names) if index not in used]
    if extra:
        advice = "name it as the target or remove it"
        if has_target or len(extra) > 1:
            advice = f"the model takes only {listing([value.name for value in inputs])}; remove it"
        raise DataError(f"{origin}: surplus {noun} {listing(extra)}; {advice}.")
    return positions


def assign(
    names: Sequence[str], inputs: Sequence[ValueType], origin: str, has_target: bool
) -> list[list[int]]:
    """The positions in `names`, a table's columns without the target, that feed each input.

    Raises:
        DataError: the columns do not fit the inputs.
    """
    for value in inputs:
        check_table_feeds(value, origin)
    if len(inputs) == 1:
        if width_of(inputs[0]) == 1:
            named = _match(names, [inputs[0].name], origin, "column")
            if named:  # a table of texts often has an id and other columns beside
                return [list(named.values())]
        check_width(len(names), inputs[0], origin, has_target, names)
        return [list(range(len(names)))]
    for value in inputs:
        if width_of(value) not in (None, 1):
            raise DataError(
                f"{origin}: input '{value.name}' takes {width_of(value)} columns beside other "
                "inputs, which a table cannot tell apart; pass a mapping of input name to array."
            )
    return [[index] for index in match_all(names, inputs, origin, "column", has_target)]


def check_width(
    width: int, value: ValueType, origin: str, has_target: bool, names: Sequence[str] = ()
) -> None:
    """Refuse a table of another width than the input's."""
    expected = width_of(value)
    if width and expected in (None, width):
        return
    advice = "give the columns that the model was trained on, in their order"
    if expected is not None and width == expected + 1 and not has_target:
        name_it = "name it" if names else "take it out and give it"
        advice = f"if one of them is the target, {name_it} as the target"
    raise DataError(
        f"{origin}: has {width} column{'s' * (width != 1)}"
        f"{f' ({listing(names)})' if names else ''}, but input "
        f"'{value.name}' takes {expected or 'at least one'}; {advice}."
    )


def split_names(names: Sequence[str], target: Any, origin: str) -> tuple[list[int], int | None]:
    """The positions of the columns that are no target, and the target's if it is a column.

    Raises:
        DataError: no column of this name, or several.
    """
    everything = list(range(len(names)))
    if not isinstance(target, str):
        return everything, None
    places = [index for index in everything if names[index] == target]
    if len(places) != 1:
        problem = f"is there {len(places)} times" if places else "is not there"
        raise DataError(f"{origin}: target '{target}' {problem}; there are {listing(names)}.")
    return [index for index in everything if index != places[0]], places[0]


@dataclass(frozen=True)
class Beside:
    """Columns that say something of the rows; each may feed an input as well.

    `groups` tells which rows belong together, `weights` how much each counts.
    """

    groups: str | None = None
    weights: str | None = None


_NOTHING = Beside()

_PURPOSES = {"groups": "to hold out groups of rows by", "weights": "to weigh the rows by"}


def split_beside(
    names: Sequence[str],
    kept: list[int],
    inputs: Sequence[ValueType],
    beside: Beside,
    origin: str,
    by_order: bool,
) -> tuple[list[int], dict[str, int]]:
    """The positions of the columns that feed inputs, and those of `beside` by its fields.

    One feeds an input as well where that has its name, or where a single input, which takes columns
    by their order (`by_order`), has too few without it.

    Raises:
        DataError: no column of a name, or several, or one that may be meant either way.
    """
    places = {
        role: _place(names, kept, getattr(beside, role), purpose, origin)
        for role, purpose in _PURPOSES.items()
        if getattr(beside, role) is not None
    }
    apart = set(places.values())
    found = _match([names[i] for i in kept], [value.name for value in inputs], origin, "column")
    apart -= {kept[place] for place in found.values()}
    if by_order and len(inputs) == 1 and apart:
        apart -= _fed_by_order(names, len(kept), width_of(inputs[0]), sorted(apart), origin)
    return [index for index in kept if index not in apart], places


def _place(
    names: Sequence[str], kept: Sequence[int], column: str, purpose: str, origin: str
) -> int:
    """The position of a column beside the target.

    Raises:
        DataError: no column of this name, or several.
    """
    places = [index for index in kept if names[index] == column]
    if len(places) != 1:
        problem = f"is there {len(places)} times" if places else "is not there"
        if column in names and not places:
            problem = "is the target"
        raise DataError(
            f"{origin}: column '{column}', {purpose}, {problem}; there are "
            f"{listing([names[index] for index in kept])}."
        )
    return places[0]


def _fed_by_order(
    names: Sequence[str], count: int, width: int | None, apart: Sequence[int], origin: str
) -> set[int]:
    """Those of the columns beside the rows that a single input of this width takes as well.

    Raises:
        DataError: it takes one of two, and nothing says which.
    """
    missing = 0 if width is None else width - (count - len(apart))
    if missing == len(apart):
        return set(apart)
    if 0 < missing < len(apart):
        raise DataError(
            f"{origin}: the model takes {width} columns, and one of "
            f"{listing([names[index] for index in apart])} is among them, but nothing says which; "
            "give groups or weights as an array."
        )
    return set()


def text_columns(
    names: Sequence[str],
    inputs: Sequence[ValueType],
    target: Any,
    origin: str,
    beside: Beside = _NOTHING,
) -> tuple[set[str], str | None]:
    """The columns of a .csv file that stay text, and its target column.

    They feed inputs of strings, or tell groups, where "01" and "1" may be two.
    """
    kept, place = split_names(names, target, origin)
    kept, places = split_beside(names, kept, inputs, beside, origin, by_order=True)
    features = [names[index] for index in kept]
    assigned = assign(features, inputs, origin, target is not None)
    pairs = zip(inputs, assigned, strict=True)
    text = {features[i] for value, columns in pairs if value.is_string for i in columns}
    if "groups" in places and places["groups"] not in kept:
        text.add(names[places["groups"]])
    return text, None if place is None else names[place]
