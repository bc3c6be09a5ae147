"""Several outputs as one: their columns side by side, and the weighted sum of their losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from onnxtune.data import Table
from onnxtune.data import load as load_data
from onnxtune.errors import ArgumentError, DataError
from onnxtune.graph_names import names_of, unused
from onnxtune.links import Source
from onnxtune.losses import Loss, RowLoss, choose_loss
from onnxtune.model import Model
from onnxtune.partition import float_outputs
from onnxtune.preparation import Prepared, prepare
from onnxtune.problem import Problem, pose
from onnxtune.runtime import input_types
from onnxtune.tables import to_array
from onnxtune.validation import LAST
from rewrites.core.rewrite import Array

_NAME = "joint"


@dataclass(frozen=True)
class _Part:
    """One of the outputs: its columns `[start, stop)` in the joint one, its loss and its weight."""

    name: str
    start: int
    stop: int
    problem: Problem
    loss: Loss
    weight: float

    def rows(self, value: Tensor, target: Tensor) -> Tensor:
        """[N]: the weighted loss of this output."""
        wanted = target[:, self.start : self.stop]
        if self.loss.target != "numbers":
            wanted = wanted[:, :1]  # the class stands in the first of its columns
        if self.loss.target == "classes":
            wanted = wanted[:, 0].long()
        return self.weight * self.loss.rows(value[:, self.start : self.stop], wanted)

    def encoded(self, target: Array) -> Array:
        """[N, stop - start] of the target as it came."""
        rows = len(target)
        found = self.problem.target(Table({}, target, rows)).reshape(rows, -1)
        return np.pad(
            found.astype(np.float64), ((0, 0), (0, self.stop - self.start - found.shape[1]))
        )


@dataclass(frozen=True)
class Joint:
    """The model with the joint output, and its loss.

    `name` is that of the output; what was added to the graph is called `<name>/...`.
    """

    name: str
    prepared: Prepared
    loss: Loss
    parts: tuple[_Part, ...]

    def target(self, y: Any, what: str) -> Array:
        """[N, columns] of a mapping from outputs to their targets.

        Raises:
            ArgumentError: no mapping, or not of these outputs.
            DataError: a target does not fit its output, or has other rows.
        """
        names = [part.name for part in self.parts]
        if not isinstance(y, Mapping) or set(y) != set(names):
            raise ArgumentError(
                f"{what} must be a mapping of the outputs {', '.join(map(repr, names))} to their "
                "targets."
            )
        found = [
            part.encoded(to_array(y[part.name], f"{what}['{part.name}']")) for part in self.parts
        ]
        if len({len(each) for each in found}) > 1:
            counts = ", ".join(f"{n!r} {len(e)}" for n, e in zip(names, found, strict=True))
            raise DataError(f"{what}: its targets have other numbers of rows ({counts}).")
        return np.concatenate(found, axis=1)

    def targets(self, y: Any, valid: Any, test: Any) -> tuple[Array, Any, Any]:
        """The targets of all rows as `tune` takes them, wherever there are some."""
        pairs = []
        for name, pair in (("valid", valid), ("test", test)):
            apart = isinstance(pair, tuple | list) and len(pair) in (2, 3)
            apart = apart and isinstance(pair[1], Mapping)
            pairs.append((pair[0], self.target(pair[1], name), *pair[2:]) if apart else pair)
        return self.target(y, "y"), pairs[0], pairs[1]


def joint_problem(
    prepared: Prepared,
    X: Any,
    outputs: Sequence[str],
    loss: str | RowLoss | Mapping[str, str | RowLoss],
    weights: Mapping[str, float] | None,
    temperature: float,
    max_size: float,
    companion: bool,
    valid: Any,
    sample_weight: Any,
) -> Joint:
    """The outputs as one.

    Args:
        prepared: the model.
        X: the rows, to look at the outputs on.
        outputs: two names or more.
        loss: of all, or by output.
        weights: by output, 1 where there is none.
        temperature: of soft gates.
        max_size: trees, over those of the original.
        companion: whether a network was asked for.
        valid: may name a column of X with groups.
        sample_weight: may name a column of X.

    Raises:
        ArgumentError: an output, a loss or a weight that does not fit.
        DataError: the rows do not fit the model.
    """
    if max_size < 1 or companion:
        raise ArgumentError("max_size below 1 and companion are for one output, not for several.")
    groups = valid if isinstance(valid, str) and valid != LAST else None
    column = sample_weight if isinstance(sample_weight, str) else None
    inputs = input_types(prepared.source.proto)
    table = load_data(X, inputs, groups=groups, weights=column)
    names = [str(name) for name in outputs]
    if len(set(names)) < max(2, len(names)):
        raise ArgumentError("output must name one output, or several different ones.")
    _check_names("loss", loss if isinstance(loss, Mapping) else (), names)
    _check_names("output_weight", weights or (), names)
    parts: list[_Part] = []
    for name in names:
        asked = loss.get(name, "auto") if isinstance(loss, Mapping) else loss
        problem = pose(prepared, table, name, asked, None, temperature, torch.device("cpu"))
        # The links of the single outputs lie before the joint one, which holds what they make.
        scored = replace(problem.scored, source=Source("identity", name))
        own = choose_loss(asked if callable(asked) else problem.loss.name, scored)
        start = parts[-1].stop if parts else 0
        weight = float((weights or {}).get(name, 1.0))
        if not 0 < weight < np.inf:
            raise ArgumentError(f"output_weight of '{name}' must be above 0, not {weight:g}.")
        stop = start + problem.scored.columns
        parts.append(_Part(name, start, stop, replace(problem, loss=own), own, weight))

    def rows(value: Tensor, target: Tensor) -> Tensor:
        return torch.stack([part.rows(value, target) for part in parts]).sum(dim=0)

    title = " + ".join(f"{part.weight:g} {part.loss.name} of {part.name}" for part in parts)
    made, name = _with_joint(prepared, parts)
    return Joint(name, made, Loss(title, rows, False, "numbers"), tuple(parts))


def _check_names(what: str, given: Iterable[str], names: Sequence[str]) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ArgumentError(
            f"{what}: '{unknown[0]}' is none of the outputs {', '.join(map(repr, names))}."
        )


def _with_joint(prepared: Prepared, parts: Sequence[_Part]) -> tuple[Prepared, str]:
    """The model with the columns of all parts as its last output."""
    source = prepared.source
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    graph = proto.graph
    taken = set(names_of(graph))
    name = unused(_NAME, taken)
    while any(other.startswith(f"{name}/") for other in taken):
        name = unused(_NAME, taken)
    values, floats = [], float_outputs(prepared)
    for place, part in enumerate(parts):
        shape = unused(f"{name}/shape", taken)
        width = np.array([-1, part.stop - part.start], np.int64)
        graph.initializer.append(numpy_helper.from_array(width, shape))
        flat = unused(f"{name}/columns", taken)
        graph.node.append(
            helper.make_node(
                "Reshape", [floats[part.name], shape], [flat], name=f"{name}/reshape_{place}"
            )
        )
        single = unused(f"{name}/float", taken)
        graph.node.append(
            helper.make_node(
                "Cast", [flat], [single], name=f"{name}/cast_{place}", to=onnx.TensorProto.FLOAT
            )
        )
        values.append(single)
    graph.node.append(helper.make_node("Concat", values, [name], name=f"{name}/concat", axis=1))
    total = parts[-1].stop
    graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, total]))
    return prepare(Model(proto, source.content, source.origin, source.path)), name
