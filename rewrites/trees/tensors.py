"""The learned tensors of a tree ensemble, and how tuned ones go back into its attributes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Attributes, Constraint, Tensor
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.nodes import neighbours

# Its inverse, over the smallest temperature, still is a float32.
_LEAST_SPREAD = 1e-30


def declare(
    ensemble: Ensemble, spread: Array | None, constraint: Constraint | None = None
) -> dict[str, Tensor]:
    """`thresholds` [I], `leaf_values` and, where the node has some, `base_values` [B].

    `leaf_values` is [L, K] where every leaf has an entry for every column, else [E], one number
    per entry. Infinite thresholds stay: their unit is 0. A number that is in several places of the
    trees is one here, and sets of values are no thresholds.
    """
    dense = is_dense(ensemble)
    held = ensemble.values[leaf_numbers(ensemble)[0]]
    if not dense:
        held = ensemble.votes.weights[entry_places(ensemble)]
    rms = _rms(held)
    tensors = {}
    first, _ = threshold_numbers(ensemble)
    if len(first):
        unit = np.where(ensemble.movable, threshold_spreads(ensemble, spread), 0.0)
        tensors["thresholds"] = Tensor(ensemble.thresholds[first], "thresholds", unit[first])
    tensors["leaf_values"] = Tensor(held, "leaves", rms, constraint if dense else None)
    if len(ensemble.base_values):
        base_unit = _rms(ensemble.base_values) if constraint is None else 0.0
        tensors["base_values"] = Tensor(ensemble.base_values, "leaves", max(rms, base_unit))
    return tensors


def _rms(values: Array) -> float:
    finite = values[np.isfinite(values)]
    size = float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 0.0
    return size or 1.0


def is_dense(ensemble: Ensemble) -> bool:
    """Whether every leaf has one entry for every column."""
    return not ensemble.votes.further and bool((ensemble.entries >= 0).all())


def threshold_numbers(ensemble: Ensemble) -> tuple[Array, Array]:
    """Of each learned threshold the first inner node that has it, [P]; of each node its own, [I].

    A node that tests for a set has none, but P.
    """
    real = np.flatnonzero(ensemble.sets < 0)
    first, own = _distinct(ensemble.inner_places[real])
    number = np.full(len(ensemble.sets), len(first))
    number[real] = own
    return real[first], number


def leaf_numbers(ensemble: Ensemble) -> tuple[Array, Array]:
    """The first of the leaves that are one in the operator, [P]; of each leaf that one's, [L]."""
    return _distinct(ensemble.leaf_places)


def entry_places(ensemble: Ensemble) -> Array:
    """[E] the places of the learned leaf values among the operator's weights."""
    places = _all_entries(ensemble)
    return np.asarray(places[_distinct(places)[0]])


def entry_numbers(ensemble: Ensemble) -> list[Array]:
    """[L, K] for the first weights of leaves, the second, ...: which learned value, or -1."""
    own = _distinct(_all_entries(ensemble))[1]
    found, start = [], 0
    for entries in (ensemble.entries, *ensemble.votes.further):
        number = np.full(entries.shape, -1)
        held = entries >= 0
        count = int(held.sum())
        number[held] = own[start : start + count]
        found.append(number)
        start += count
    return found


def _all_entries(ensemble: Ensemble) -> Array:
    layers = (ensemble.entries, *ensemble.votes.further)
    return np.concatenate([entries[entries >= 0] for entries in layers])


def _distinct(places: Array) -> tuple[Array, Array]:
    """Where each distinct place is met first, [P] ascending, and of each place its number."""
    whole = np.arange(len(places))
    if len(places) < 2 or np.bincount(places).max() == 1:
        return whole, whole
    _, first, inverse = np.unique(places, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first))
    return first[order], rank[inverse]


def threshold_spreads(ensemble: Ensemble, spread: Array | None) -> Array:
    """[I] float64: the spread of the feature that each inner node reads, always positive.

    Without data it is the standard deviation of the feature's own thresholds; a feature with one
    threshold only, or constant in the data, takes the mean of the others.
    """
    features = ensemble.features
    width = int(features.max(initial=0)) + 1
    at = features[ensemble.movable]
    limits = ensemble.thresholds[ensemble.movable].astype(np.float64)
    if spread is not None and len(spread) >= width:
        per_feature = np.asarray(spread, np.float64)[:width].copy()
    else:
        count = np.maximum(np.bincount(at, minlength=width), 1)
        with np.errstate(over="ignore"):  # huge doubles take the fallback
            mean = np.bincount(at, limits, width) / count
            square = np.bincount(at, (limits - mean[at]) ** 2, width) / count
        per_feature = np.sqrt(square)
    # Below what its thresholds resolve, a spread is rounding.
    sizes = np.zeros(width)
    np.maximum.at(sizes, at, np.abs(limits))
    least = np.maximum(8 * np.finfo(ensemble.thresholds.dtype).eps * sizes, _LEAST_SPREAD)
    usable = np.isfinite(per_feature) & (per_feature > least)
    fallback = float(per_feature[usable].mean()) if usable.any() else 1.0
    return np.where(usable, per_feature, fallback)[features]


def gate_slopes(builder: Builder, ensemble: Ensemble) -> ir.Value:
    """[I]: one over the width of each gate, temperature times spread."""
    dtype = ensemble.thresholds.dtype
    spread = threshold_spreads(ensemble, builder.spread)
    # At a vanishing temperature the steepest slope that the type can hold.
    steepest = float(np.finfo(dtype).max) / 4
    slopes = 1.0 / np.maximum(builder.temperature * spread, 1.0 / steepest)
    return builder.constant("inverse_temperature", slopes, dtype)


def write_back(
    ensemble: Ensemble, tensors: Mapping[str, Array], names: Mapping[str, str]
) -> Attributes:
    """Tuned tensors -> values for the operator's attributes, by the roles' names there.

    Places that hold no tuned number are NaN, for "leave it".
    """
    attributes: Attributes = {}
    if "thresholds" in tensors:
        first, _ = threshold_numbers(ensemble)
        tuned = np.asarray(tensors["thresholds"], ensemble.thresholds.dtype)
        strict = (ensemble.strict & ~ensemble.never)[first]
        limits = np.where(strict, neighbours(tuned, np.inf), tuned)
        attributes[names["thresholds"]] = _scatter(ensemble.inner_places[first], limits)
    if "leaf_values" in tensors:
        places = entry_places(ensemble)
        attributes[names["leaf_values"]] = _scatter(places, np.ravel(tensors["leaf_values"]))
    if "base_values" in tensors:
        attributes[names["base_values"]] = np.asarray(tensors["base_values"])
    return attributes


def _scatter(places: Array, values: Array) -> Array:
    out = np.full(int(places.max(initial=-1)) + 1, np.nan, values.dtype)
    out[places] = values
    return out
