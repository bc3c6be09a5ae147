"""The learned tensors of a tree ensemble, and how tuned ones go back into its attributes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Attributes, Constraint, Tensor
from rewrites.trees.ensemble import Ensemble, neighbours

# Its inverse, over the smallest temperature, still is a float32.
_LEAST_SPREAD = 1e-30


def declare(
    ensemble: Ensemble, spread: Array | None, constraint: Constraint | None = None
) -> dict[str, Tensor]:
    """`thresholds` [I], `leaf_values` and, where the node has some, `base_values` [B].

    `leaf_values` is [L, K] where every leaf has an entry for every column, else [E], one number
    per entry. Infinite thresholds stay: their unit is 0.
    """
    values = ensemble.values
    dense = is_dense(ensemble)
    held = values if dense else values[ensemble.entries >= 0]
    rms = _rms(held)
    tensors = {}
    if len(ensemble.thresholds):
        unit = np.where(ensemble.movable, threshold_spreads(ensemble, spread), 0.0)
        tensors["thresholds"] = Tensor(ensemble.thresholds, "thresholds", unit)
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
    """Whether every leaf has an entry for every column."""
    return bool((ensemble.entries >= 0).all())


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


def write_back(ensemble: Ensemble, tensors: Mapping[str, Array], prefix: str) -> Attributes:
    """Tuned tensors -> values for `nodes_values`, `<prefix>_weights` and `base_values`.

    Places that hold no tuned number are NaN, for "leave it".
    """
    attributes: Attributes = {}
    if "thresholds" in tensors:
        tuned = np.asarray(tensors["thresholds"], ensemble.thresholds.dtype)
        strict = ensemble.strict & ~ensemble.never
        limits = np.where(strict, neighbours(tuned, np.inf), tuned)
        attributes["nodes_values"] = _scatter(ensemble.inner_places, limits)
    if "leaf_values" in tensors:
        entries = ensemble.entries[ensemble.entries >= 0]
        attributes[f"{prefix}_weights"] = _scatter(entries, np.ravel(tensors["leaf_values"]))
    if "base_values" in tensors:
        attributes["base_values"] = np.asarray(tensors["base_values"])
    return attributes


def _scatter(places: Array, values: Array) -> Array:
    out = np.full(int(places.max(initial=-1)) + 1, np.nan, values.dtype)
    out[places] = values
    return out
