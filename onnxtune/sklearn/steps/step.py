"""What a family of steps is, and what it is handed to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxtune.sklearn.number_places import Change
from rewrites.core.rewrite import Array


@dataclass(frozen=True)
class Part:
    """What of an exported graph comes of one step.

    Attributes:
        nodes: by name, in order.
        changes: what tuning changed, by node and role: an attribute, or "input 1" for the
            initializer that the node reads there.
    """

    nodes: dict[str, onnx.NodeProto]
    changes: dict[tuple[str, str], Change]

    def change(self, operator: str, role: str, number: int = 0) -> Change | None:
        """Of one of the nodes with this operator, counted from 0; None where nothing changed."""
        names = [name for name, node in self.nodes.items() if node.op_type == operator]
        return self.changes.get((names[number], role)) if number < len(names) else None

    def first(self, *where: tuple[str, str]) -> Change | None:
        """The first of several (operator, role) that changed."""
        found = (self.change(*place) for place in where)
        return next((change for change in found if change is not None), None)

    def trees(self) -> Iterator[tuple[onnx.NodeProto, dict[str, Change]]]:
        """The tree ensembles that changed, each with its changes by role."""
        for name, node in self.nodes.items():
            held = {role: change for (own, role), change in self.changes.items() if own == name}
            if held and node.op_type.startswith("TreeEnsemble"):
                yield node, held


@dataclass(frozen=True)
class Step:
    """A family of steps.

    Attributes:
        library: the package that they are of.
        kinds: names of their classes.
        write: puts what changed into a fitted step, in place. What it cannot put there it leaves:
            the pipeline is exported again, and what does not come out of it is told.
    """

    library: str
    kinds: tuple[str, ...]
    write: Callable[[Any, Part], None]


def put(own: Any, change: Change | None, new: Array | None = None) -> Any:
    """A step's numbers with the tuned ones in the places of those that changed.

    Args:
        own: what the step holds, of as many numbers as the change.
        change: None leaves them.
        new: what to put in the places; the tuned numbers themselves where it is not given.
    """
    if change is None or own is None:
        return own
    held = np.asarray(own)
    if held.size != change.after.size:
        return own
    numbers = np.asarray(change.after if new is None else new, np.float64)
    moved = change.moved.reshape(held.shape)
    kind = held.dtype if held.dtype.kind == "f" else np.float64
    return np.where(moved, numbers.reshape(held.shape), held).astype(kind)


def transposed(change: Change | None) -> Change | None:
    """The change of a matrix that the step holds the other way round."""
    return None if change is None else Change(change.before.T, change.after.T)
