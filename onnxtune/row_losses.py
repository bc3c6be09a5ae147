"""The loss of every row, with gradient in training and without it in judging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from onnxtune.errors import ArgumentError, OnnxTuneError
from onnxtune.losses import Loss
from onnxtune.parameters import Parameter
from onnxtune.rows import Rows
from onnxtune.settings import Settings
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array, Routing

# Rows that are evaluated at once.
_PIECE = 4096


def loss_input(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    settings: Settings,
    routing: Routing,
) -> Tensor:
    """[N, K]: what the loss takes, the output or the value in front of its link."""
    module.routing = routing
    tensors: dict[str, Tensor] = {**module.tensors()}
    tensors |= {name: parameter.value() for name, parameter in parameters.items()}
    values = module.evaluate_settled(rows.settled[routing], tensors)
    name = module.links[settings.output].value if settings.loss.of_source else None
    return values[name or module.cut.outputs[settings.output]].reshape(len(rows), -1)


def row_losses(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    settings: Settings,
    routing: Routing,
) -> Tensor:
    """The loss of each row, times its weight where it has one, [N], with gradient."""
    columns = loss_input(module, parameters, rows, settings, routing)
    loss = settings.loss
    if loss.target != "classes" and rows.target.shape != columns.shape:
        raise OnnxTuneError(
            f"the target has shape {tuple(rows.target.shape)}, "
            f"the output '{settings.output}' {tuple(columns.shape)}."
        )
    found = loss.rows(columns, rows.target)
    if rows.teacher is not None:
        found = (found + expected_loss(loss, columns, rows.teacher)) / 2
    if not isinstance(found, Tensor) or found.shape != (len(rows),):
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArgumentError(
            f"the loss '{loss.name}' returned {shape}; it must return one number a row, [N], "
            f"here [{len(rows)}]."
        )
    return found if rows.weight is None else found * rows.weight


def expected_loss(loss: Loss, columns: Tensor, teacher: Tensor) -> Tensor:
    """[N]: the loss of each row where its target is drawn from what the teacher [N, K] says.

    Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural Network", section 2; of
    numbers, the loss toward the teacher's.
    """
    if loss.target == "numbers":
        return loss.rows(columns, teacher)
    if loss.target == "binary":
        one = torch.ones_like(columns)
        return (teacher * loss.rows(columns, one)[:, None]
                + (1 - teacher) * loss.rows(columns, 0 * one)[:, None]).mean(1)  # fmt: skip
    share = teacher.clamp(min=0) / teacher.clamp(min=0).sum(1, keepdim=True).clamp(min=1e-12)
    losses = [
        loss.rows(columns, torch.full((len(columns),), place, device=columns.device))
        for place in range(columns.shape[1])
    ]
    return (share * torch.stack(losses, dim=1)).sum(1)


@torch.no_grad()
def evaluate(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    settings: Settings,
    routing: Routing,
) -> Array:
    """The loss of each row, [N] float64, without gradient, in pieces that fit into memory."""
    found: Sequence[Tensor] = [
        row_losses(module, parameters, rows.take(slice(at, at + _PIECE)), settings, routing)
        for at in range(0, len(rows), _PIECE)
    ]
    return torch.cat(list(found)).double().cpu().numpy()
