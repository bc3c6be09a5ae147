"""Scan and If: operators that hold a graph of their own.

What such a graph takes from around it stands behind the node's own inputs here
(`onnx2torch_bridge` puts it there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from onnxtune.errors import UnsupportedError
from onnxtune.torch_node import Converted, Converter, Holder, Node

CAPTURED = "onnxtune_captured"


def _scan(node: Node) -> Converted:
    """Over the first axes of the scanned inputs, forwards."""
    for name in ("scan_input_axes", "scan_output_axes", "scan_input_directions",
                 "scan_output_directions"):  # fmt: skip
        if any(node.attributes.get(name, [])):
            raise UnsupportedError(f"Scan '{node.name}': {name} other than 0 have no torch form.")
    scanned = int(node.attributes["num_scan_inputs"])
    captured = int(node.attributes.get(CAPTURED, 0))
    states = len(node.inputs) - captured - scanned
    body = node.subgraph("body")
    constant = _keeps_states(node.graph("body"), states)
    if len(node.outputs) != len(node.graph("body").output):
        raise UnsupportedError(f"Scan '{node.name}' leaves outputs of its body out.")

    def scan(*values: Tensor) -> Any:
        held = list(values[:states])
        rows = values[states : states + scanned]
        around = values[states + scanned :]
        if constant:
            # Every step is by itself, so that all can be taken at once.
            def step(*row: Tensor) -> tuple[Tensor, ...]:
                return tuple(body(*held, *row, *around)[states:])

            found = [*held, *_at_once(step, rows)]
        else:
            found = _one_by_one(body, held, rows, around)
        return found if len(found) > 1 else found[0]

    return Holder(scan, body), list(range(len(node.inputs)))


def _at_once(step: Callable[..., tuple[Tensor, ...]], rows: Sequence[Tensor]) -> Sequence[Tensor]:
    if len(rows[0]):
        made: Sequence[Tensor] = torch.vmap(step)(*rows)
        return made
    # It needs a row to know the shapes.
    one = [row.new_zeros(1, *row.shape[1:]) for row in rows]
    return [made[:0] for made in torch.vmap(step)(*one)]


def _one_by_one(
    body: nn.Module, held: list[Tensor], rows: Sequence[Tensor], around: Sequence[Tensor]
) -> list[Tensor]:
    """Steps that depend on the one before; the axis is the sequence's, not that of the rows."""
    made = []
    for step in zip(*rows, strict=True):
        found = body(*held, *step, *around)
        made.append(found[len(held) :])
        held = list(found[: len(held)])
    return [*held, *(torch.stack(parts) for parts in zip(*made, strict=True))]


def _keeps_states(body: onnx.GraphProto, states: int) -> bool:
    """Whether every state leaves a step as it came."""
    same = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity"}
    for given, made in zip(body.input[:states], body.output[:states], strict=True):
        name = made.name
        while name in same:
            name = same[name]
        if name != given.name:
            return False
    return True


def _if(node: Node) -> Converted:
    branches = [node.subgraph("then_branch"), node.subgraph("else_branch")]
    known = node.constant(0)

    def result(found: Any) -> Any:
        return found if len(found) > 1 else found[0]

    places = list(range(1, len(node.inputs)))
    if known is not None:
        taken = branches[0 if bool(known.ravel()[0]) else 1]
        return Holder(lambda *around: result(taken(*around)), taken), places

    def choose(condition: Tensor, *around: Tensor) -> Any:
        return result(branches[0 if bool(condition.reshape(())) else 1](*around))

    return Holder(choose, *branches), [0, *places]


CONVERTERS: dict[str, Converter] = {"If": _if, "Scan": _scan}
