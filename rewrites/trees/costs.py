"""What each form of an ensemble costs, from its shape: the choice among forms.

`python benchmarks/tree_forms.py` measures the forms side by side, on shapes that were not used to
set the figures here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewrites.core.ensembles import EnsembleShape
from rewrites.core.rewrite import Provider, Routing, Serving, TreeForm
from rewrites.errors import UnsupportedError
from rewrites.trees.descents import can_be_filled


@dataclass(frozen=True)
class _Prices:
    """Nanoseconds.

    Attributes:
        call: an operator.
        tree, node, matrix: whatever the rows, a tree's level in a traversal, a node, a tree's
            product.
        step: a row's in a traversal.
        gate, leaf, match, product: a row's decision with its value, share of a leaf, comparison
            with a leaf's way, entry of a matrix product.
        cache, beyond: arrays of more bytes than `cache` cost `beyond` times as much to pass over.
    """

    call: float
    tree: float
    node: float
    matrix: float
    step: float
    gate: float
    leaf: float
    match: float
    product: float
    cache: float
    beyond: float


# Of the CPU fitted to measurements on one thread, so that the choice is right; of CUDA estimated
# from launches of 8 us, 4 TB/s and 10 TFLOP/s.
_PRICES: dict[Provider, _Prices] = {
    "cpu": _Prices(362.0, 60.4, 33.5, 259.0, 5.37, 1.16, 0.274, 1.0, 0.0117, 4.25e6, 1.7),
    "cuda": _Prices(8000.0, 0.0, 0.0, 0.0, 0.012, 0.004, 0.003, 0.003, 0.0002, 3e7, 2.0),
}

# Steps down trees that are filled up, beside those of others.
_FILLED = 0.8

# Forward and backward in torch: a node of soft routing; a step of a traversal; a visited node.
_SOFT_NODE, _TORCH_STEP, _VISITED = 12.0, 5.0, 20.0


# Bytes of constants beyond which a form is refused: a file of 2 GiB cannot be written.
_MOST_CONSTANTS = 1 << 30


@dataclass(frozen=True)
class Forecast:
    """A form's cost.

    Attributes:
        form: its name.
        seconds: of a batch.
        row_bytes: memory that a row takes beside the model.
    """

    form: TreeForm
    seconds: float
    row_bytes: int


def forecasts(shape: EnsembleShape, serving: Serving) -> list[Forecast]:
    """Of every form of hard routing, the cheapest first."""
    price, rows = _PRICES[serving.provider], serving.batch_size
    depth = int(shape.depths.max(initial=0))
    gates, leaves = float(shape.inner.sum()), float((shape.inner + 1).sum())
    width = int(shape.inner.max(initial=0))
    padded = float(shape.trees * width)

    def spread(numbers: float) -> float:
        return 1.0 if 4 * numbers * rows < price.cache else price.beyond

    # A traversal's arrays are its trees', the others' their nodes'.
    filled = can_be_filled(shape.depths, 2 * shape.inner + 1)
    steps = price.step * float((shape.depths * np.where(filled, _FILLED, 1.0)).sum())
    passed = spread(gates) * (price.gate * gates + 2 * price.leaf * (gates + leaves))
    matched = spread(padded) * (price.gate * padded + price.match * (padded + shape.trees))
    product = price.product * padded * (width + 1)
    calls = {
        "traversal": price.call * (7 * depth + 8) + price.tree * shape.trees * depth,
        "level-wise": price.call * (8 * depth + 10) + price.node * gates,
        "gemm": price.call * 16 + price.matrix * shape.trees + price.node * padded,
    }
    row: dict[TreeForm, tuple[float, float]] = {
        "traversal": (steps, shape.trees * (20 + 4 * shape.columns)),
        "level-wise": (passed, 16 * (gates + leaves)),
        "gemm": (matched + product, 9 * (2 * padded + shape.trees)),
    }
    found = [
        Forecast(form, (calls[form] + rows * time) * 1e-9, int(size))
        for form, (time, size) in row.items()
    ]
    return sorted(found, key=lambda forecast: forecast.seconds)


def choose(shape: EnsembleShape, serving: Serving, where: str) -> Forecast:
    """The form that was asked for, else the cheapest that fits into memory.

    A traversal always does: it takes fewer trees at a time.

    Raises:
        UnsupportedError: the form that was asked for takes more memory than there is, or more
            constants than a file holds.
    """
    found = forecasts(shape, serving)
    width = int(shape.inner.max(initial=0))
    constants = {"gemm": shape.trees * width * (width + 1)}

    def fits(forecast: Forecast) -> bool:
        if constants.get(forecast.form, 0) > _MOST_CONSTANTS:
            return False
        size = forecast.row_bytes * serving.batch_size
        return forecast.form == "traversal" or serving.memory is None or size <= serving.memory

    if serving.trees == "auto":
        return next(forecast for forecast in found if fits(forecast))
    asked = next(forecast for forecast in found if forecast.form == serving.trees)
    if constants.get(asked.form, 0) > _MOST_CONSTANTS:
        raise UnsupportedError(
            f"{where}: the form {asked.form} holds {constants[asked.form] / 1e9:.2g} GB of "
            "constants, which make a file too large; choose the form traversal."
        )
    if not fits(asked):
        size, held = asked.row_bytes * serving.batch_size, serving.memory or 0
        raise UnsupportedError(
            f"{where}: the form {asked.form} takes {size / 1e9:.2g} GB for a batch of "
            f"{serving.batch_size:,} rows, and {held / 1e9:.2g} GB are at hand; choose the form "
            "traversal, or a smaller batch size."
        )
    return asked


def most_trees(forecast: Forecast, serving: Serving, trees: int) -> int:
    """How many trees a traversal may take down at a time within the memory at hand."""
    if serving.memory is None:
        return trees
    size = forecast.row_bytes * serving.batch_size / max(1, trees)
    return int(min(trees, max(1, serving.memory // max(1, int(size)))))


def soft_row_bytes(shape: EnsembleShape) -> int:
    """Memory that a row takes in the soft form, beside the model."""
    return int(16 * (2 * shape.inner + 1).sum())


def check_soft(shape: EnsembleShape, serving: Serving, where: str) -> None:
    """Refuse a soft form that a batch would not fit into memory with.

    Raises:
        UnsupportedError: with the figures.
    """
    size = soft_row_bytes(shape) * serving.batch_size
    if serving.memory is not None and size > serving.memory:
        raise UnsupportedError(
            f"{where}: the soft form takes {size / 1e9:.2g} GB for a batch of "
            f"{serving.batch_size:,} rows, and {serving.memory / 1e9:.2g} GB are at hand; give a "
            "smaller batch size, or choose the hard form."
        )


def step_cost(shape: EnsembleShape, routing: Routing) -> float:
    """Nanoseconds a row of a forward and a backward pass in torch."""
    if routing == "soft":
        return _SOFT_NODE * float(shape.inner.sum())
    depths = shape.depths.astype(np.float64)
    steps = _TORCH_STEP * depths
    if routing == "straight-through":
        steps = steps + _VISITED * depths + _TORCH_STEP * depths**2 / 2
    return float(steps.sum())
