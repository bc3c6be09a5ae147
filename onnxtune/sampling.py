"""Rows sampled from a graph itself, for comparing two models where no data is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.flow import Array, Forest, Trace
from onnxtune.provenance import trace
from onnxtune.runtime import ValueType

# Shares of the rows of a column: placed on and beside thresholds, and given a missing value.
_ON_THRESHOLDS, _SPECIAL = 0.6, 0.06
# Distances from a threshold, in floats; four cross it whatever a Scaler in between rounds.
_STEPS = np.array([-4, -1, 0, 1, 4])
# Numbers that a block of steered rows may take, so that memory does not grow with the rows.
_BLOCK = 1 << 22


def sample(model: onnx.ModelProto, rows: int, seed: int = 0) -> dict[str, Array]:
    """Make rows that exercise a model, from nothing but its graph.

    A column that trees read is placed on, right beside and between their thresholds, behind
    whatever Scaler or constant arithmetic lies in between; half of the rows are steered to nodes
    of the trees, so that deep leaves are reached too. NaN is given where the graph has a place
    for it, infinities where only trees read the column as it is. A column with an encoder gets
    its categories, and unless the encoder refuses them an unknown one and the empty string. All
    other columns are normally distributed, around 0 behind the Scaler or centring they pass.

    Args:
        model: the model; its inputs must be tensors.
        rows: length of the first axis; an input whose first axis is fixed gets that length.
        seed: the same seed gives the same rows.

    Returns:
        Input name -> array of the input's type, strings as `object`, the batch first.

    Raises:
        ArgumentError: `rows` is negative.
        UnsupportedError: an input is a map or a sequence.
    """
    if rows < 0:
        raise ArgumentError(f"rows is {rows}; give 0 or more.")
    seen = trace(model)
    for value in seen.inputs:
        if not value.kind.startswith("tensor("):
            raise UnsupportedError(
                f"Input '{value.name}' is a {value.kind}; rows are sampled for tensors only. "
                "Give data."
            )
    if seed < 0:
        raise ArgumentError(f"seed is {seed}; give 0 or more.")
    random = np.random.default_rng(seed)
    recipes = _recipes(seen)
    steered = rows // 2 if seen.forests else 0
    drawn = []
    for value in seen.inputs:
        free = _draw(seen, value, recipes, rows - steered, random)
        bound = _draw(seen, value, recipes, steered, random, specials=False)
        drawn.append(np.concatenate([free, bound]))
    blocks = np.array_split(np.arange(rows - steered, rows), max(1, len(seen.forests)))
    for forest, block in zip(seen.forests, blocks, strict=False):
        _steer(seen, forest, block, drawn, random)
    return {v.name: _shaped(v, matrix) for v, matrix in zip(seen.inputs, drawn, strict=True)}


def _shaped(value: ValueType, matrix: Array) -> Array:
    if not value.shape:
        return matrix
    batch, *rest = value.shape
    if batch is not None:
        matrix = np.resize(matrix, (batch, matrix.shape[1]))
    if len(rest) == 1:
        return matrix
    return matrix.reshape(len(matrix), *(size or 1 for size in rest))


@dataclass(frozen=True)
class _Recipe:
    """What one input column takes: exact `values`, numbers between `knots`, `specials`."""

    values: Array
    knots: Array
    specials: Array


def _recipes(seen: Trace) -> dict[int, _Recipe]:
    """Recipes of the columns of which the graph tells more than where their middle is."""
    limits = np.concatenate(seen.thresholds) if seen.thresholds else np.zeros((0, 5))
    limits = limits[np.argsort(limits[:, 0], kind="stable")]
    found = {}
    for value in seen.inputs:
        for column in seen.columns(value):
            low, high = np.searchsorted(limits[:, 0], [column, column + 1])
            recipe = _recipe(seen, value, column, limits[low:high])
            if recipe.values.size or recipe.specials.size:
                found[column] = recipe
    return found


def _recipe(seen: Trace, value: ValueType, column: int, limits: Array) -> _Recipe:
    kind = value.dtype.kind
    values = _categories(seen.categories.get(column, []), column not in seen.closed, value.dtype)
    knots, specials = np.zeros(0), list(seen.specials.get(column, ()))
    if kind in "fiu" and column not in seen.closed:
        place, step = _place(limits, value.dtype)
        usable = np.isfinite(place) & np.isfinite(step)
        place, step = place[usable], step[usable]
        knots = np.unique(place)
        values = np.unique(np.concatenate([values, _beside(place, step, value.dtype)]))
    if kind == "f":
        specials += [np.nan] * bool(seen.routes_nan[column] and not seen.poisoned[column])
        raw = seen.raw[column] and not seen.moved[column] and not seen.reads[column]
        specials += [np.inf, -np.inf] * bool(raw)
    return _Recipe(values, knots, np.unique(specials) if kind in "fiu" else np.zeros(0))


def _categories(known: list[Any], is_open: bool, dtype: np.dtype[Any]) -> Array:
    """The categories, and where others are allowed an unknown one and the empty string."""
    if dtype.kind == "O":
        texts = [category for category in known if isinstance(category, str)]
        if is_open:
            unknown = "unknown"
            while unknown in texts:
                unknown += "_"
            texts += [unknown, ""]
        return np.array(list(dict.fromkeys(texts)), object)
    # an encoder may read a number as text
    kind = dtype if dtype.kind in "fiu" else np.dtype("int64")
    numbers = np.unique(np.array([n for n in map(_number, known) if np.isfinite(n)], kind))
    return np.append(numbers, numbers[-1] + 1) if is_open and numbers.size else numbers


def _number(category: Any) -> float | int:
    if not isinstance(category, str):
        return float(category) if isinstance(category, float) else int(category)
    try:
        return float(category)
    except ValueError:
        return np.nan


def _place(limits: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Thresholds as numbers of the input column, and the distance of floats at each.

    That distance is the larger of the input's and of the threshold's, brought back to the input.
    Not finite where no input can reach the threshold.
    """
    _, threshold, scale, offset, spacing = limits.T
    with np.errstate(all="ignore"):
        place = (threshold - offset) / scale
        step = spacing / np.abs(scale)
        if dtype.kind == "f":
            place = place.astype(dtype)
            step = np.maximum(step, np.spacing(np.abs(place)))
    return place.astype(np.float64), step.astype(np.float64)


def _beside(place: Array, step: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers on and right beside each place."""
    if dtype.kind in "iu":
        return _cast((np.floor(place)[:, None] + [-1, 0, 1]).ravel(), dtype)
    with np.errstate(over="ignore"):
        near = (place[:, None] + step[:, None] * _STEPS).astype(dtype)
    exact = place.astype(dtype)
    next_ones = [np.nextafter(exact, dtype.type(end)) for end in (-np.inf, np.inf)]
    found: Array = np.concatenate([near.ravel(), *next_ones])
    return found[np.isfinite(found)]


def _cast(numbers: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu":
        limit = np.iinfo(dtype)
        # float64 cannot hold the largest int64, so stay clear of it
        numbers = np.clip(np.rint(numbers), limit.min, int(limit.max) - limit.max // 2**20)
    with np.errstate(over="ignore"):
        return numbers.astype(dtype)


def _draw(
    seen: Trace,
    value: ValueType,
    recipes: dict[int, _Recipe],
    rows: int,
    random: np.random.Generator,
    specials: bool = True,
) -> Array:
    matrix = _background(seen, value, rows, random)
    for place, column in enumerate(seen.columns(value)):
        if column in recipes:
            matrix[:, place] = _column(recipes[column], matrix[:, place], random, specials)
    return matrix


def _background(seen: Trace, value: ValueType, rows: int, random: np.random.Generator) -> Array:
    """Normal data whose middle and spread undo the centring on the way to the reader."""
    own = slice(seen.columns(value).start, seen.columns(value).stop)
    scale, offset, width = seen.scale[own], seen.offset[own], own.stop - own.start
    if value.is_string:
        return np.full((rows, width), "", object)
    if value.dtype.kind == "b":
        return random.random((rows, width)) < 0.5
    normal = random.standard_normal((rows, width))
    if value.dtype.kind in "iu":
        normal = np.where(
            (scale == 1) & (offset == 0), np.floor(random.random(normal.shape) * 10), normal
        )
    usable = np.isfinite(scale) & (scale != 0) & np.isfinite(offset)
    return _cast((normal - np.where(usable, offset, 0)) / np.where(usable, scale, 1), value.dtype)


def _column(
    recipe: _Recipe, background: Array, random: np.random.Generator, specials: bool
) -> Array:
    """One column: its exact values dealt out evenly, others, specials, all in random order."""
    rows, found = len(background), background.copy()
    special = int(np.ceil(_SPECIAL * rows)) if specials and recipe.specials.size else 0
    exact = rows - special
    if recipe.knots.size:
        exact = min(exact, int(np.ceil(_ON_THRESHOLDS * rows)))
        found[:] = _cast(_between(recipe.knots, rows, random), background.dtype)
    if recipe.values.size:
        found[special : special + exact] = np.resize(random.permutation(recipe.values), exact)
    if special:
        found[:special] = np.resize(random.permutation(recipe.specials), special)
    shuffled: Array = random.permutation(found)
    return shuffled


def _between(knots: Array, rows: int, random: np.random.Generator) -> Array:
    """Numbers spread evenly inside the gaps between knots, and some way outside of them."""
    margin = max(float(np.ptp(knots)) / 4, abs(float(knots[0])) / 8, 1e-3)
    ends = np.concatenate([knots[:1] - margin, knots, knots[-1:] + margin])
    gap = random.integers(0, len(ends) - 1, rows)
    inside: Array = ends[gap] + random.random(rows) * (ends[gap + 1] - ends[gap])
    return inside


@dataclass(frozen=True)
class _Nodes:
    """Nodes of a forest: `parent` is -1 at a root, `is_true` says by which test one is reached.

    `local` indexes `columns` (numbers of input columns), -1 at leaves and at branches that read
    anything else. `bounds[i]` holds what the branch's false (0) or true (1) side asks of its
    column: the lowest and the highest number.
    """

    parent: Array
    is_true: Array
    columns: Array
    local: Array
    place: Array
    step: Array
    bounds: Array


def _steer(
    seen: Trace, forest: Forest, block: Array, drawn: Sequence[Array], random: np.random.Generator
) -> None:
    """Change rows so that each visits one node of the forest, and meets its threshold there.

    From the node up to the root every branch on the way narrows what its column may hold. Where
    a branch reads something that is no column of numbers, the way is left to chance.
    """
    nodes = _nodes(seen, forest)
    if not len(nodes.columns):
        return
    places = [
        (i, column - numbers.start)
        for i, numbers in enumerate(map(seen.columns, seen.inputs))
        for column in nodes.columns[np.isin(nodes.columns, numbers)].tolist()
    ]
    visited = np.resize(random.permutation(len(nodes.parent)), len(block))
    parts = 1 + len(block) * len(nodes.columns) // _BLOCK
    for rows, node in zip(
        np.array_split(block, parts), np.array_split(visited, parts), strict=True
    ):
        low, high = _box(nodes, node)
        held = np.stack([drawn[i][rows, j] for i, j in places], axis=1).astype(np.float64)
        held = np.where(low <= high, np.clip(held, low, high), held)
        aimed = np.flatnonzero(nodes.local[node] >= 0)
        there, column = node[aimed], nodes.local[node[aimed]]
        goal = nodes.place[there] + nodes.step[there] * random.choice(_STEPS, len(aimed))
        bottom, top = low[aimed, column], high[aimed, column]
        held[aimed, column] = np.where(bottom <= top, np.clip(goal, bottom, top), goal)
        for (i, j), numbers in zip(places, held.T, strict=True):
            drawn[i][rows, j] = _cast(numbers, drawn[i].dtype)


def _box(nodes: _Nodes, node: Array) -> tuple[Array, Array]:
    """What the way from the root to a node asks of each column: [rows, columns], twice."""
    low = np.full((len(node), len(nodes.columns)), -np.inf)
    high = -low
    child, rows = node, np.arange(len(node))
    for _ in range(len(nodes.parent)):
        parent, side = nodes.parent[child], nodes.is_true[child]
        inner = parent >= 0
        if not inner.any():
            break
        child, rows, side = parent[inner], rows[inner], side[inner]
        known = nodes.local[child] >= 0
        at = rows[known], nodes.local[child[known]]
        asked = nodes.bounds[child[known], side[known].astype(np.int64)]
        low[at] = np.maximum(low[at], asked[:, 0])
        high[at] = np.minimum(high[at], asked[:, 1])
    return low, high


def _nodes(seen: Trace, forest: Forest) -> _Nodes:
    held = forest.attributes
    mode, feature = np.array(held["nodes_modes"]), held["nodes_featureids"]
    limit = forest.thresholds
    branch = mode != "LEAF"
    source = np.where(branch, forest.flow.source[np.where(branch, feature, 0)], -1)
    parent, is_true = _parents(held, branch)
    low_side, strict = np.isin(mode, ["BRANCH_LEQ", "BRANCH_LT"]), np.isin(mode, _STRICT)
    place, step = np.zeros(len(mode)), np.zeros(len(mode))
    bounds = np.full((len(mode), 2, 2), [-np.inf, np.inf])
    usable = np.zeros(len(mode), bool)
    for value in seen.inputs:
        numbers = seen.columns(value)
        own = (source >= numbers.start) & (source < numbers.stop)
        own &= ~np.isin(source, list(seen.categories))
        if value.dtype.kind not in "fiu" or not own.any():
            continue
        at, scale = feature[own], forest.flow.scale[feature[own]]
        spacing = np.spacing(np.abs(limit[own])).astype(np.float64)
        limits = np.stack([at, limit[own], scale, forest.flow.offset[at], spacing], axis=1)
        place[own], step[own] = _place(limits, value.dtype)
        if value.dtype.kind == "f":
            below, above = place[own] - 4 * step[own], place[own] + 4 * step[own]
        else:
            below = np.where(strict[own], np.ceil(place[own]) - 1, np.floor(place[own]))
            above = below + 1
        # the side of the small numbers is the true one, unless > or a negative scale turns it
        small = (low_side[own] == (scale > 0)).astype(np.int64)
        bounds[np.flatnonzero(own), small, 1] = below
        bounds[np.flatnonzero(own), 1 - small, 0] = above
        usable |= own & np.isfinite(place) & np.isfinite(step)
    equal = np.isin(mode, ["BRANCH_EQ", "BRANCH_NEQ"])
    bounds[equal] = [-np.inf, np.inf]
    true_side = np.where(mode == "BRANCH_EQ", 1, 0)
    bounds[np.flatnonzero(equal), true_side[equal]] = place[equal, None]
    columns = np.unique(source[usable])
    local = np.where(usable, np.searchsorted(columns, source), -1)
    return _Nodes(parent, is_true, columns, local, place, step, bounds)


_STRICT = ["BRANCH_LT", "BRANCH_GTE"]


def _parents(held: dict[str, Any], branch: Array) -> tuple[Array, Array]:
    """Parent of each node, -1 for a root, and whether the true side of its test leads there."""
    tree, number = held["nodes_treeids"], held["nodes_nodeids"]
    span = int(number.max(initial=0)) + 1
    keys = tree * span + number
    order = np.argsort(keys, kind="stable")
    parent, is_true = np.full(len(keys), -1), np.zeros(len(keys), bool)
    for side, name in ((False, "nodes_falsenodeids"), (True, "nodes_truenodeids")):
        wanted = (tree * span + held[name])[branch]
        child = order[np.clip(np.searchsorted(keys[order], wanted), 0, len(keys) - 1)]
        found = keys[child] == wanted
        parent[child[found]] = np.flatnonzero(branch)[found]
        is_true[child[found]] = side
    return parent, is_true
