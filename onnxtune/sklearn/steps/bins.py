"""Bins: the edges between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.errors import UnsupportedError
from onnxtune.sklearn.steps.step import Part, Step, put


def _write(step: Any, part: Part) -> None:
    edges = [np.array(own) for own in step.bin_edges_]
    for column, own in enumerate(edges):
        # The outermost edges bound nothing, and are not in the graph.
        own[1:-1] = put(own[1:-1], part.change("Less", "input 1", column))
        if (np.diff(own[1:-1]) < 0).any():
            raise UnsupportedError(
                f"tuning put the edges of its column {column} out of order, and it looks values up "
                "in sorted ones; tune with a smaller lr, or freeze the edges."
            )
    step.bin_edges_ = np.array([*edges, None], object)[:-1]


STEPS = (Step("sklearn", ("KBinsDiscretizer",), _write),)
