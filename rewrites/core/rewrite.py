"""What a rewrite is: an operator's tensors, its standard-operator form, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from rewrites.core.builder import Builder
    from rewrites.core.ensembles import EnsembleOperator

Array = np.ndarray[Any, np.dtype[Any]]

# How a decision node passes a row on: a sigmoid; a step whose backward pass is a sigmoid's
# (torch only); a step.
Routing = Literal["soft", "straight-through", "hard"]

# How hard routing of trees is evaluated in standard operators.
TreeForm = Literal["traversal", "level-wise", "gemm"]
TREE_FORMS: tuple[TreeForm, ...] = ("traversal", "level-wise", "gemm")

Provider = Literal["cpu", "cuda"]
PROVIDERS: tuple[Provider, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class Serving:
    """Where a hard form is to run: what the choice among the forms of trees depends on.

    Attributes:
        trees: the form, or "auto".
        provider: the execution provider.
        batch_size: rows a call.
        memory: bytes that a call may take; None for no limit.
    """

    trees: TreeForm | Literal["auto"] = "auto"
    provider: Provider = "cpu"
    batch_size: int = 1000
    memory: int | None = None


ANYWHERE = Serving()


# Learning rates are set per group.
Group = Literal["thresholds", "leaves", "weights", "offsets"]


@dataclass(frozen=True)
class Constraint:
    """Where tuned numbers must stay.

    `simplex`: every row is nonnegative and keeps its sum. `interval`: low <= value <= high.
    `positive`: value > 0.
    """

    kind: Literal["simplex", "interval", "positive"]
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Tensor:
    """A learned tensor of a node.

    `value` is what the node holds; `unit`, broadcastable to it, is the size of one standardised
    step (a threshold's is the spread of its feature), so that one learning rate fits all.
    """

    value: Array
    group: Group
    unit: Array | float = 1.0
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Replacement:
    """Nodes that stand in for one whose operator cannot carry the tuned numbers."""

    reason: str
    build: Callable[[Builder], Sequence[ir.Value | None]]


# The tuned numbers as the node's attributes: attribute name -> array, in the attribute's order.
Attributes = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A model in the ONNX text format that exercises a rewrite.

    `skips` names the checks that cannot apply, each with the reason.
    """

    name: str
    text: str
    skips: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewrite:
    """How one operator is handled.

    Attributes:
        operator: its name; `domain` its domain.
        tensors: the node's learned tensors by role. The second argument is the spread (standard
            deviation) of each feature of the node's first input, [F], or None where no data say.
            Raises an `OnnxTuneError` where the rewrite does not cover the node's attributes.
        soften: builds the standard-operator form through a `Builder` and returns one value per
            output of the node; None leaves the node as it is.
        harden: tuned tensors by role -> attributes, or a `Replacement` where the operator cannot
            carry them. With untouched tensors it returns the attributes as they are.
        differentiable: (input, output) pairs along which a gradient flows. Of an output that only
            the node's own tensors reach the input is None; "every input" is from each to output 0.
        covers: whether a node has a numeric form. One on words or maps has none: it stays as it is,
            as if its operator had no rewrite.
        carrier: for an operator that only wraps its input's numbers (ZipMap): the input whose
            tensor stands for the output.
        ensemble: for an ensemble of trees, its shape, and how a part or copies are taken.
        cases: models for the tests.
    """

    operator: str
    domain: str
    tensors: Callable[[ir.Node, Array | None], dict[str, Tensor]]
    soften: Callable[[ir.Node, Builder], Sequence[ir.Value | None]] | None
    harden: Callable[[ir.Node, Mapping[str, Array]], Attributes | Replacement]
    differentiable: tuple[tuple[int | None, int], ...] | Literal["every input"] = ((0, 0),)
    covers: Callable[[ir.Node], bool] = field(default=lambda node: True)
    carrier: int | None = None
    ensemble: EnsembleOperator | None = None
    cases: tuple[Case, ...] = ()


def no_tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """For an operator that has learned nothing."""
    return {}


def unchanged(node: ir.Node, tensors: Mapping[str, Array]) -> Attributes:
    """For an operator without tensors: nothing to write back."""
    return {}
