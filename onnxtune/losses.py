"""Losses per row, in torch: by name, by what the graph ends with, or a callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxtune.errors import ArgumentError
from onnxtune.links import Source

LossName = Literal["log", "squared", "absolute", "poisson"]
LOSSES: tuple[LossName, ...] = ("log", "squared", "absolute", "poisson")

# A forest may give a class no probability at all; the log loss takes this much for granted, so
# that such a row has a finite loss and a gradient.
SMALLEST_PROBABILITY = 1e-3

RowLoss = Callable[[Tensor, Tensor], Tensor]


# What the target of a loss holds: numbers [N, K], class indices [N], or 0 and 1 [N, 1] for the two
# classes of a single score.
Target = Literal["numbers", "classes", "binary"]


@dataclass(frozen=True)
class Loss:
    """A loss of one output.

    `of_source` says whether `rows` takes the value in front of the link (logits, a log rate) or
    the output itself. `rows(value [N, K], target)` gives [N].
    """

    name: str
    rows: RowLoss
    of_source: bool
    target: Target


@dataclass(frozen=True)
class Output:
    """What a loss needs to know of an output.

    Attributes:
        source: its link, and whether it is of two mirrored scores.
        columns: their number.
        labels: the number of classes that it scores; 0 for no classifier.
        distribution: whether its rows are probabilities that sum to 1.
        share: whether every value lies between 0 and 1.
    """

    source: Source
    columns: int
    labels: int = 0
    distribution: bool = False
    share: bool = False


def choose_loss(loss: str | RowLoss, output: Output) -> Loss:
    """The loss that was asked for, or the one that fits the graph.

    Args:
        loss: a name of `LOSSES`, "auto", or a callable (output [N, K], target) -> [N].
        output: what it is a loss of.

    Raises:
        ArgumentError: no such loss, or one that does not fit the output.
    """
    link = output.source.link
    scored: Target = (
        "classes"
        if output.labels == output.columns > 1
        else "binary"
        if output.labels == 2 and output.columns == 1
        else "numbers"
    )
    if callable(loss):
        return Loss(getattr(loss, "__name__", "custom"), loss, False, scored)
    if loss == "auto":
        logarithmic = scored != "numbers" or link == "sigmoid"
        loss = "log" if logarithmic else "poisson" if link == "exp" else "squared"
    if loss == "log":
        return _log(output, scored)
    if loss == "poisson":
        if link == "exp":
            return Loss("poisson", _poisson_of_log_rate, True, "numbers")
        return Loss("poisson", _poisson, False, "numbers")
    if loss == "squared":
        return Loss("squared", _squared, False, "numbers")
    if loss == "absolute":
        return Loss("absolute", _absolute, False, "numbers")
    raise ArgumentError(f"Loss '{loss}' is none of {', '.join(LOSSES)}, 'auto' or a callable.")


def _log(output: Output, scored: Target) -> Loss:
    source = output.source
    if scored == "classes":
        if source.link == "softmax":
            return Loss("log", _cross_entropy, True, scored)
        if source.link == "sigmoid":
            # Columns that are not mirrored are a model each: pushing one up says nothing of others.
            rows: RowLoss = _log_of_mirrored if source.mirrored else _one_against_rest
            return Loss("log", rows, True, scored)
        # Scores that are no probabilities (a hinge, a ridge) are taken for logits.
        rows = _log_of_probabilities if output.distribution else _cross_entropy
        return Loss("log", rows, False, scored)
    if source.link == "sigmoid":
        return Loss("log", _binary, True, scored)
    if scored == "binary":
        return Loss("log", _binary_of_share if output.share else _binary, False, scored)
    raise ArgumentError(
        "The log loss needs class probabilities; this output has "
        f"{output.columns} column{'s' * (output.columns != 1)} and no class labels."
    )


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return F.cross_entropy(logits, target, reduction="none")


def _log_of_mirrored(scores: Tensor, target: Tensor) -> Tensor:
    """-log sigmoid(z_y), for two scores of opposite sign."""
    return -F.logsigmoid(scores.gather(1, target.unsqueeze(1)).squeeze(1))


def _one_against_rest(scores: Tensor, target: Tensor) -> Tensor:
    """The binary log losses of every class against the rest, summed."""
    wanted = F.one_hot(target, scores.shape[1]).to(scores.dtype)
    return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(1)


def _log_of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    """-log((p_y + e) / (1 + K e)), e = `SMALLEST_PROBABILITY`."""
    smallest = SMALLEST_PROBABILITY
    taken = output.gather(1, target.unsqueeze(1)).squeeze(1)
    # A probability of 0 keeps its gradient; clamp's there differs between versions of torch.
    taken = torch.where(taken >= 0, taken, torch.zeros_like(taken))
    return -((taken + smallest) / (1 + output.shape[1] * smallest)).log()


def _binary(logits: Tensor, target: Tensor) -> Tensor:
    """The log loss of 0/1 targets, averaged over the columns."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)


def _binary_of_share(output: Tensor, target: Tensor) -> Tensor:
    """The log loss of 0/1 targets, of probabilities lifted by e like those of several classes."""
    both = torch.cat([1 - output, output], dim=1)
    return _log_of_probabilities(both, target.squeeze(1).long())


def _squared(output: Tensor, target: Tensor) -> Tensor:
    """(f - y)^2, averaged over the columns."""
    return (output - target).square().mean(1)


def _absolute(output: Tensor, target: Tensor) -> Tensor:
    """|f - y|, averaged over the columns."""
    return (output - target).abs().mean(1)


def _poisson(output: Tensor, target: Tensor) -> Tensor:
    """Half the Poisson deviance of the rate f: f - y - y log(f / y)."""
    rate = output.clamp(min=torch.finfo(output.dtype).tiny)
    return (rate - target - torch.xlogy(target, rate) + torch.xlogy(target, target)).mean(1)


def _poisson_of_log_rate(log_rate: Tensor, target: Tensor) -> Tensor:
    """Half the Poisson deviance of the rate exp(z): exp(z) - y - y z + y log y."""
    return (log_rate.exp() - target - target * log_rate + torch.xlogy(target, target)).mean(1)
