"""Random numbers for a model's learned tensors: the same graph as if it had learned nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnxtune.met_values import met_values
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array, Tensor

# The size of random leaf values, over that of the learned ones.
_LEAVES = 0.1

# The spread of the logarithm of random scales.
_SCALES = 0.25

# Rows that thresholds are drawn from.
_MOST_ROWS = 5000


def random_start(module: OnnxModule, feed: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """A random value for every learned tensor, of its type and shape.

    A threshold becomes what its feature is in a row drawn at random; leaves become small, or
    random distributions where they are bound to be some; weights have a size that keeps that of
    the scores; scales are near those that were learned, and positive; offsets become 0. What
    cannot move stays.

    Args:
        module: the model; its tensors' first values and units tell the sizes.
        feed: rows, as `onnxtune.data.load` makes them.
        seed: of everything that is drawn.

    Returns:
        Tensor name -> value, of every learned tensor.
    """
    rng = np.random.default_rng(seed)
    thresholds = [name for name, held in module.learned.items() if held.group == "thresholds"]
    drawn = _thresholds(module, thresholds, feed, rng) if thresholds else {}
    found = {}
    for name, tensor in module.learned.items():
        value = drawn[name] if name in drawn else _numbers(module, name, tensor, rng)
        found[name] = value.astype(tensor.value.dtype).reshape(tensor.value.shape)
    return found


def _thresholds(
    module: OnnxModule, names: list[str], feed: Mapping[str, Array], rng: np.random.Generator
) -> dict[str, Array]:
    """Of each of these tensors, numbers out of the rows that its node meets."""
    rows = min(len(array) for array in feed.values())
    taken = rng.permutation(rows)[:_MOST_ROWS]
    met = met_values(module.prepared, names, {name: array[taken] for name, array in feed.items()})
    found = {}
    for name in names:
        tensor = module.learned[name]
        unit = np.broadcast_to(tensor.unit, tensor.value.shape)
        if name in met:
            value = _drawn(*met[name], rng)
        else:
            value = tensor.value + unit * rng.standard_normal(tensor.value.shape)
        keeps = (unit == 0) | ~np.isfinite(value)
        found[name] = np.where(keeps, tensor.value, value)
    return found


def _drawn(data: Array, features: Array, rng: np.random.Generator) -> Array:
    """[P]: of each feature one of its finite numbers [N, F]; NaN where it has none."""
    used, place = np.unique(features, return_inverse=True)
    columns = data[:, used].astype(np.float64)
    finite = np.isfinite(columns)
    # The rows with a number first, in any order.
    order = np.argsort(~finite, axis=0, kind="stable")
    count = finite.sum(axis=0)[place]
    pick = np.floor(rng.random(len(features)) * count).astype(np.int64)
    value = columns[order[pick, place], place]
    return np.asarray(np.where(count > 0, value, np.nan))


def _numbers(module: OnnxModule, name: str, tensor: Tensor, rng: np.random.Generator) -> Array:
    """What is no threshold."""
    value = tensor.value
    unit = np.broadcast_to(tensor.unit, value.shape)
    if tensor.constraint is not None and tensor.constraint.kind != "positive":
        return _bound(tensor, rng)
    if tensor.group == "leaves":
        if name.endswith("/base_values"):
            return np.zeros(value.shape)
        return np.asarray(_LEAVES * _rms(value) * rng.standard_normal(value.shape))
    free = tensor.constraint is None
    if free and (tensor.group == "offsets" or _is_added(module, name)):
        return np.zeros(value.shape)
    inputs = _fan_in(module, name) if free else None
    if inputs is not None:
        return np.asarray(unit * rng.standard_normal(value.shape) / np.sqrt(inputs))
    size = np.abs(value, dtype=np.float64)
    size = np.where(np.isfinite(size) & (size > 0), size, np.abs(unit))
    found = np.asarray(size * np.exp(_SCALES * rng.standard_normal(value.shape)))
    return found if free else np.copysign(found, value)


def _bound(tensor: Tensor, rng: np.random.Generator) -> Array:
    """Numbers within a constraint: rows keep their sums, or each is within its interval."""
    assert tensor.constraint is not None
    value = tensor.value.astype(np.float64)
    if tensor.constraint.kind == "interval":
        low, high = tensor.constraint.low, tensor.constraint.high
        return np.asarray(rng.uniform(low, high, value.shape))
    parts = np.asarray(rng.exponential(size=value.shape))
    return np.asarray(parts / parts.sum(axis=1, keepdims=True) * value.sum(axis=1, keepdims=True))


def _rms(value: Array) -> float:
    finite = value[np.isfinite(value)].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 1.0


def _reader(module: OnnxModule, name: str) -> onnx.NodeProto | None:
    """The node that reads an initializer in the core; None for a tensor of a node's own."""
    return next((node for node in module.cut.core.graph.node if name in node.input), None)


def _is_added(module: OnnxModule, name: str) -> bool:
    """Whether an initializer is added to something, or taken from it."""
    node = _reader(module, name)
    if node is None:
        return False
    if node.op_type == "Gemm":
        return list(node.input).index(name) == 2
    return node.op_type in ("Add", "Sub", "Sum")


def _fan_in(module: OnnxModule, name: str) -> int | None:
    """How many numbers go into one that the weights make; None for what scales single numbers."""
    shape: tuple[int, ...] = module.learned[name].value.shape
    node = _reader(module, name)
    if node is None:
        # Nodes of ai.onnx.ml hold weights as [outputs, inputs].
        return shape[1] if len(shape) > 1 else None
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    second = list(node.input).index(name) == 1
    turned = "transB" if second else "transA"
    if any(attribute.name == turned and attribute.i for attribute in node.attribute):
        second = not second
    if len(shape) == 1:
        return shape[0]
    return shape[-2] if second else shape[-1]
