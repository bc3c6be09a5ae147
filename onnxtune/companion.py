"""A small network beside the model, blended with it where validation rows say that it helps.

What a model of steps cannot follow, a smooth network often can, and the other way round. The
network is trained from nothing, beside the model and not behind it; what is written is
share * model + (1 - share) * network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxtune import number_losses
from onnxtune.companion_graph import NetLink, Port, check_opset, with_companion
from onnxtune.companion_net import NetLoss, Networks, trained
from onnxtune.errors import UnsupportedError
from onnxtune.export import native
from onnxtune.judging import Court, Held
from onnxtune.links import Source
from onnxtune.losses import RowLoss, choose_loss
from onnxtune.memory import memory_at_hand
from onnxtune.metrics import paired
from onnxtune.model import load
from onnxtune.preparation import Prepared, prepare
from onnxtune.problem import Problem, Split
from onnxtune.result import Candidate
from onnxtune.rows import hard_output, some_rows
from onnxtune.torch_module import OnnxModule
from onnxtune.tune_report import COMPANION
from rewrites.core.rewrite import Array

# Parts of the validation rows; of each network one judges it, the next two stop it and set its
# share, and the rest are trained on.
_FOLDS = 5

# What training takes at most, over the rows as numbers of four bytes.
_COPIES = 6

# With fewer validation rows none is taken: of so few a network may get each right by chance.
_FEWEST = 100

# The model's shares that are tried.
_SHARES = np.linspace(0, 1, 21)

# A class is given at least this probability before its logarithm is taken.
_SMALLEST = 1e-7


@dataclass(frozen=True)
class _Kind:
    """What the output is to a network.

    Attributes:
        link: from its scores to what the output holds.
        loss: of its scores.
        value_loss: of what the output holds, [N, K] and the target -> [N].
    """

    link: NetLink
    loss: NetLoss
    value_loss: NetLoss


def check_companion(problem: Problem, split: Split) -> None:
    """Refuse what no companion can be made for, before anything is trained.

    Raises:
        UnsupportedError: the output is no number, rate or probability, or not one row of them a
            row; the rows are no matrix, or too large a one; or the model's opset is too old.
    """
    _kind(problem, (np.zeros(1), np.ones(1)))
    check_opset(problem.prepared.source.proto)
    found = hard_output(problem.original, some_rows(split.valid.table), problem.output)
    if found.dim() > 2:
        raise UnsupportedError(
            f"a companion needs an output of one row of numbers a row, and '{problem.output}' has "
            f"shape {list(found.shape)}."
        )
    columns = _matrix(split.valid.entering).shape[1]
    size = _COPIES * 4 * columns * (split.table.rows + split.valid.table.rows)
    if size > memory_at_hand():
        raise UnsupportedError(
            f"a companion of {columns:,} columns would take about {size / 1e9:.2g} GB, and "
            f"{memory_at_hand() / 1e9:.2g} GB are at hand; give fewer rows."
        )


def accompanied(
    problem: Problem, split: Split, court: Court, taken: Candidate | None
) -> tuple[Candidate, bool]:
    """The model with a companion, and whether it gains beyond chance.

    It is judged on validation rows that chose nothing of it, and must gain on the original and on
    what would be handed out without it. All are judged by what their outputs hold.

    Args:
        problem: what is tuned toward.
        split: the rows.
        court: what judges; its validation rows are the split's.
        taken: the tuned model that was taken; None for the original.
    """
    prepared = problem.prepared if taken is None else taken.prepared
    tensors: Mapping[str, Array] = {} if taken is None else taken.tensors
    module = court.module(prepared, "hard")
    module.load_tensors(tensors)

    def output(model: OnnxModule, held: Held) -> Tensor:
        found = hard_output(model, held.table.feed, problem.output).cpu().double()
        return found.reshape(len(found), -1)

    valid = split.valid
    own = output(module, valid)
    rows, target, scale = _rows(problem, split)
    kind = _kind(problem, scale)
    count, fit = len(valid.target), len(split.target)
    weight = _weight(valid.weight, count)
    fold = np.random.default_rng(court.settings.seed).permutation(count) % _FOLDS
    parts = [fit + np.flatnonzero(fold == k) for k in range(_FOLDS)]
    stops = [np.concatenate([parts[(k + 1) % _FOLDS], parts[(k + 2) % _FOLDS]])
             for k in range(_FOLDS)]  # fmt: skip
    trains = [np.concatenate([np.arange(fit), parts[(k + 3) % _FOLDS], parts[(k + 4) % _FOLDS]])
              for k in range(_FOLDS)]  # fmt: skip
    networks = trained(
        rows,
        target,
        own.shape[1],
        kind.loss,
        trains,
        stops,
        int(np.clip(fit // 16, 32, 128)),
        court.settings.seed,
        torch.from_numpy(np.concatenate([_weight(split.weight, fit), weight])).float(),
    )
    networks = _rescaled(networks, scale)
    values = _values(kind, networks, rows[fit:])
    wanted = torch.as_tensor(valid.target)
    shares = [_share(kind, own, values[k], wanted, weight, stops[k] - fit) for k in range(_FOLDS)]
    losses = np.empty(count)
    for k, part in enumerate(parts):
        at = torch.from_numpy(part - fit)
        blended = shares[k] * own[at] + (1 - shares[k]) * values[k][at]
        losses[part - fit] = kind.value_loss(blended, wanted[at]).numpy() * weight[part - fit]
    share = float(np.mean(shares))
    made = _with(problem, native(prepared, tensors).proto, networks, kind.link, share, own, valid)
    test = None
    if court.test is not None:
        blended = share * output(module, court.test) + (1 - share) * _values(
            kind, networks, _matrix(court.test.entering)
        ).mean(dim=0)
        each = kind.value_loss(blended, torch.as_tensor(court.test.target)).numpy()
        test = float((each * _weight(court.test.weight, len(each))).mean())
    size = 1.0 if taken is None else taken.size
    untouched = kind.value_loss(output(problem.original, valid), wanted).numpy() * weight
    verdict = replace(court, original=untouched).verdict(losses, size)
    gain, _, z = paired(losses, kind.value_loss(own, wanted).numpy() * weight)
    helps = verdict.accepted and gain > 0 and z > court.needed_z and count >= _FEWEST
    made_of = Candidate(COMPANION, "hard", size, made, {}, verdict, losses, test, court.temperature)
    return made_of, helps


def _kind(problem: Problem, scale: tuple[Array, Array]) -> _Kind:
    """Networks learn plain numbers less `scale`'s first, over its second."""
    loss, scored = problem.loss, problem.scored
    if loss.likelihood:
        several = loss.target == "classes"
        if not (scored.distribution if several else scored.share):
            raise UnsupportedError(
                f"a companion needs probabilities, and '{problem.output}' holds scores."
            )
        if loss.kind == "focal":
            return _focal_kind(problem, several)
        if several:
            return _Kind("softmax", _class_losses, _class_value_losses)
        return _Kind("sigmoid", _binary_losses, _binary_value_losses)
    if loss.power is not None:
        of_values = number_losses.deviance(loss.power, scored.size)
        return _Kind("exp", _by_network(number_losses.deviance_of_log(loss.power)), of_values)
    if loss.target != "numbers" or loss.of_classes:
        raise UnsupportedError(
            "a companion of a classifier needs the log or focal loss, and "
            f"'{loss.name}' is asked for."
        )
    mean, spread = (torch.from_numpy(each.astype(np.float32)) for each in scale)
    of_scores = _by_network(loss.rows)
    return _Kind(
        "identity",
        lambda scores, target: of_scores(scores * spread + mean, target),
        loss.rows,
    )


def _by_network(rows: RowLoss) -> NetLoss:
    """A loss of scores [N, K], for those of several networks [M, N, K]."""

    def found(scores: Tensor, target: Tensor) -> Tensor:
        flat = rows(scores.reshape(-1, scores.shape[-1]), target.reshape(-1, *target.shape[2:]))
        return flat.reshape(scores.shape[:-1])

    return found


def _focal_kind(problem: Problem, several: bool) -> _Kind:
    """Probabilities are judged by their logits."""
    link: NetLink = "softmax" if several else "sigmoid"
    scored = replace(problem.scored, source=Source(link, ""))
    rows = choose_loss(problem.loss.name, scored).rows

    def of_values(value: Tensor, target: Tensor) -> Tensor:
        logits = value.clamp(min=_SMALLEST).log() if several else value.logit(_SMALLEST)
        return rows(logits, target)

    return _Kind(link, _by_network(rows), of_values)


def _class_losses(scores: Tensor, target: Tensor) -> Tensor:
    flat = F.cross_entropy(scores.reshape(-1, scores.shape[-1]), target.ravel(), reduction="none")
    return flat.reshape(target.shape)


def _class_value_losses(value: Tensor, target: Tensor) -> Tensor:
    return -value.gather(1, target[:, None])[:, 0].clamp(_SMALLEST, 1).log()


def _binary_losses(scores: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(dim=-1)


def _binary_value_losses(value: Tensor, target: Tensor) -> Tensor:
    right = torch.where(target > 0.5, value, 1 - value)
    return -right.clamp(_SMALLEST, 1).log().mean(dim=-1)


def _matrix(entering: Sequence[Array]) -> Array:
    """What enters the core, [N, F] float32.

    Raises:
        UnsupportedError: there is nothing.
    """
    arrays = [np.asarray(array) for array in entering]
    if not arrays:
        raise UnsupportedError("a companion needs rows that enter the tuned part of the graph.")
    flat = [array.reshape(len(array), -1).astype(np.float32) for array in arrays]
    return np.concatenate(flat, axis=1)


def _rows(problem: Problem, split: Split) -> tuple[Array, Tensor, tuple[Array, Array]]:
    """All rows, training rows first; their target as networks take it; and how to come back.

    Scores for plain numbers are learned in standardised units, so that one step size fits all.
    """
    fitted = problem.original.run_prefix(split.table.feed)
    rows = np.concatenate([_matrix(fitted), _matrix(split.valid.entering)])
    target = np.concatenate([split.target, split.valid.target])
    if problem.loss.target == "classes":
        return rows, torch.from_numpy(target), (np.zeros(1), np.ones(1))
    mean, spread = np.zeros(target.shape[1]), np.ones(target.shape[1])
    if problem.loss.plain:
        mean, spread = split.target.mean(axis=0), split.target.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
    return rows, torch.from_numpy(target.astype(np.float32)), (mean, spread)


def _rescaled(networks: Networks, scale: tuple[Array, Array]) -> Networks:
    """The networks in the units of the target."""
    mean, spread = (np.asarray(each, np.float32) for each in scale)
    weights = (*networks.weights[:-1], networks.weights[-1] * spread)
    biases = (*networks.biases[:-1], networks.biases[-1] * spread + mean)
    low, high = networks.low * spread + mean, networks.high * spread + mean
    return replace(networks, weights=weights, biases=biases, low=low, high=high)


def _values(kind: _Kind, networks: Networks, rows: Array) -> Tensor:
    """[M, N, K]: what each network puts out."""
    scores = torch.from_numpy(networks.scores(rows)).double()
    if kind.link == "softmax":
        return torch.softmax(scores, dim=-1)
    if kind.link == "sigmoid":
        return torch.sigmoid(scores)
    return scores.exp() if kind.link == "exp" else scores


def _weight(given: Array | None, rows: int) -> Array:
    """[N]: how much each row counts, 1 where nothing is said."""
    return np.ones(rows) if given is None else given


def _share(
    kind: _Kind, model: Tensor, network: Tensor, target: Tensor, weight: Array, rows: Array
) -> float:
    """The model's share with the lowest loss on some rows."""
    at, own = torch.from_numpy(rows), torch.from_numpy(weight[rows])
    losses = [
        float((own * kind.value_loss(s * model[at] + (1 - s) * network[at], target[at])).mean())
        for s in _SHARES
    ]
    return float(_SHARES[int(np.argmin(losses))])


def _with(
    problem: Problem,
    proto: onnx.ModelProto,
    networks: Networks,
    link: NetLink,
    share: float,
    own: Tensor,
    valid: Held,
) -> Prepared:
    original = problem.original
    inputs = [
        Port(value.name, np.asarray(array).dtype, np.ndim(array))
        for value, array in zip(original.cut.inputs, valid.entering, strict=True)
    ]
    value = problem.prepared.type_of(original.cut.outputs[problem.output])
    rank = hard_output(original, some_rows(valid.table), problem.output).dim()
    blended = Port(value.name, np.dtype(value.dtype), rank)
    labels = problem.labels if own.shape[1] > 1 else None
    made = with_companion(
        proto, inputs, blended, networks, link, share, labels, original.prepared.proto
    )
    return prepare(load(made))
