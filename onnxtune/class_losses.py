"""Row losses of classes: scores or probabilities against the right class.

Those of several classes take values [N, K] and class indices [N]; those called `binary` take values
[N, K] and targets [N, K] between 0 and 1, a column being a question of its own with two answers,
averaged over the columns. Each returns [N] of the values' dtype, with gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RowLoss = Callable[[Tensor, Tensor], Tensor]

# A forest may give a class no probability at all; the losses of probabilities take this much for
# granted, so that such a row has a finite loss and a gradient.
SMALLEST_PROBABILITY = 1e-3


@dataclass(frozen=True)
class ClassLoss:
    """One loss in the forms that outputs need.

    Attributes:
        logits: of softmax(z), z [N, K].
        mirrored: of sigmoid(z) for two scores of opposite sign, (-z, z).
        columns: of a model a column, pushing one of which up says nothing of others.
        probabilities: of probabilities [N, K] that sum to 1.
        binary: of sigmoid(z).
        binary_share: of one column [N, 1] of probabilities.
    """

    logits: RowLoss
    mirrored: RowLoss
    columns: RowLoss
    probabilities: RowLoss
    binary: RowLoss
    binary_share: RowLoss


def _right(values: Tensor, target: Tensor) -> Tensor:
    """[N]: the value in the column of the right class."""
    return values.gather(1, target.unsqueeze(1)).squeeze(1)


def _others(values: Tensor, target: Tensor) -> Tensor:
    """[N, K] with minus infinity in the column of the right class."""
    return values.scatter(1, target.unsqueeze(1), -math.inf)


def _lifted(output: Tensor, target: Tensor) -> Tensor:
    """[N]: (p_y + e) / (1 + K e), e = `SMALLEST_PROBABILITY`."""
    taken = _right(output, target)
    # A probability of 0 keeps its gradient; clamp's there differs between versions of torch.
    taken = torch.where(taken >= 0, taken, torch.zeros_like(taken))
    return (taken + SMALLEST_PROBABILITY) / (1 + output.shape[1] * SMALLEST_PROBABILITY)


def _both(output: Tensor) -> Tensor:
    """[N, 2]: the probabilities of both answers."""
    return torch.cat([1 - output, output], dim=1)


def _of_share(rows: RowLoss) -> RowLoss:
    """A loss of probabilities, for a column [N, 1] of those of the second class."""
    return lambda output, target: rows(_both(output), target.squeeze(1).long())


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return F.cross_entropy(logits, target, reduction="none")


def _log_of_mirrored(scores: Tensor, target: Tensor) -> Tensor:
    """-log sigmoid(z_y)."""
    return -F.logsigmoid(_right(scores, target))


def _log_of_columns(scores: Tensor, target: Tensor) -> Tensor:
    """The binary log losses of every class against the rest, summed."""
    wanted = F.one_hot(target, scores.shape[1]).to(scores.dtype)
    return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(1)


def _log_of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    """-log((p_y + e) / (1 + K e)), e = `SMALLEST_PROBABILITY`."""
    return -_lifted(output, target).log()


def _binary_log(logits: Tensor, target: Tensor) -> Tensor:
    """-y log sigmoid(z) - (1 - y) log sigmoid(-z)."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)


LOG = ClassLoss(
    _cross_entropy,
    _log_of_mirrored,
    _log_of_columns,
    _log_of_probabilities,
    _binary_log,
    _of_share(_log_of_probabilities),
)
"""The negative logarithm of the right class's probability: Good (1952), "Rational Decisions", J. R.
Stat. Soc. B 14(1), section 8."""


def focal(focus: float) -> ClassLoss:
    """-(1 - p_y)^g log p_y: the log loss with less weight on rows that are right already.

    Lin, Goyal, Girshick, He and Dollar (2017), "Focal Loss for Dense Object Detection", section
    3.2, without the weights of classes (their alpha).

    Args:
        focus: g from 0 on; 0 gives the log loss.
    """

    def weighed(right: Tensor, wrong: Tensor) -> Tensor:
        """Of log p and log(1 - p): no power of 0 has an infinite slope there."""
        return -(focus * wrong).exp() * right

    def signed(scores: Tensor) -> Tensor:
        """Where the probability of what is right is sigmoid(z)."""
        return weighed(F.logsigmoid(scores), F.logsigmoid(-scores))

    def logits(scores: Tensor, target: Tensor) -> Tensor:
        logarithms = F.log_softmax(scores, dim=1)
        return weighed(_right(logarithms, target), _others(logarithms, target).logsumexp(1))

    def mirrored(scores: Tensor, target: Tensor) -> Tensor:
        return signed(_right(scores, target))

    def columns(scores: Tensor, target: Tensor) -> Tensor:
        wanted = F.one_hot(target, scores.shape[1]).bool()
        return signed(torch.where(wanted, scores, -scores)).sum(1)

    def probabilities(output: Tensor, target: Tensor) -> Tensor:
        right = _lifted(output, target)
        return weighed(right.log(), (1 - right).log())

    def binary(scores: Tensor, target: Tensor) -> Tensor:
        return (target * signed(scores) + (1 - target) * signed(-scores)).mean(1)

    return ClassLoss(logits, mirrored, columns, probabilities, binary, _of_share(probabilities))


def _hinge_of_scores(scores: Tensor, target: Tensor) -> Tensor:
    """max(0, 1 - (s_y - max of the other s_k))."""
    return F.relu(1 - _right(scores, target) + _others(scores, target).amax(1))


def _hinge_of_mirrored(scores: Tensor, target: Tensor) -> Tensor:
    """max(0, 1 - s_y) of two scores of opposite sign."""
    return F.relu(1 - _right(scores, target))


def _binary_hinge(scores: Tensor, target: Tensor) -> Tensor:
    """y max(0, 1 - s) + (1 - y) max(0, 1 + s)."""
    return (target * F.relu(1 - scores) + (1 - target) * F.relu(1 + scores)).mean(1)


HINGE = ClassLoss(
    _hinge_of_scores,
    _hinge_of_mirrored,
    _hinge_of_scores,
    _hinge_of_scores,
    _binary_hinge,
    _of_share(_hinge_of_scores),
)
"""The margin's shortfall from 1. Two classes: Cortes and Vapnik (1995), "Support-Vector Networks",
Machine Learning 20(3), section 3. Several: Crammer and Singer (2001), "On the Algorithmic
Implementation of Multiclass Kernel-based Vector Machines", JMLR 2, section 3. As
`sklearn.metrics.hinge_loss`."""
