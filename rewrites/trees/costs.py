"""What each form of an ensemble costs, from its shape.

Times are in nanoseconds a row on one thread of an ordinary CPU; only their ratios matter. Measured
by `benchmarks/trees.py`.
"""

from __future__ import annotations

import numpy as np

from rewrites.core.ensembles import EnsembleShape
from rewrites.core.rewrite import Routing

# A forward and a backward pass in torch: a node of soft routing; a step of a traversal; a visited
# node's share of the backward pass.
_SOFT_NODE = 14.0
_STEP = 5.0
_VISITED = 20.0


def step_cost(shape: EnsembleShape, routing: Routing) -> float:
    """Nanoseconds a row of a forward and a backward pass in torch."""
    if routing == "soft":
        return _SOFT_NODE * float(shape.inner.sum())
    depths = shape.depths.astype(np.float64)
    steps = _STEP * depths
    if routing == "straight-through":
        steps = steps + _VISITED * depths + _STEP * depths**2 / 2
    return float(steps.sum())
