"""One factor on the scores in front of a link, from validation rows: the first step of tuning.

Boosting that fits its training rows too well is too sure of itself, and so is a forest that
averages; half of what can be gained in log loss is often this factor (Guo et al. 2017, "On
Calibration of Modern Neural Networks", section 4.2, call it temperature scaling).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from onnxtune.ensembles import ensembles, with_attributes
from onnxtune.export import native
from onnxtune.judging import Court
from onnxtune.links import Source
from onnxtune.losses import Loss, choose_loss
from onnxtune.model import load
from onnxtune.partition import Partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.resizing import holders
from onnxtune.row_losses import loss_input
from onnxtune.rows import Rows
from onnxtune.torch_module import OnnxModule

# Factors of scores that already stand in front of a link.
_FACTORS: tuple[float, ...] = tuple(np.exp(np.linspace(-1.5, 1.5, 61)).tolist())

# Factors of p - 1/K for the probabilities p of a forest.
_LOGIT_FACTORS = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 36.0)

# The rows of one sample may all be easy; as many more as this are taken to be of any class (Agresti
# and Coull 1998, "Approximate Is Better than Exact", add four observations to a proportion).
_ROWS_OF_ANY_CLASS = 4

# How far the scaled model's scores may be from the factor's, over their size.
_TOLERANCE = 1e-3


def scaled(
    court: Court, module: OnnxModule, trained: Iterable[str], logits: bool = True
) -> OnnxModule | None:
    """The model with its scores multiplied by the factor that validates best.

    A forest that votes with probabilities moves to logits, if it may. None where a factor means
    nothing to the loss, where the scores do not come of trained tensors alone, or where 1 is best.
    """
    rows = court.rows(module, ["hard"])
    loss = court.settings_for(module).loss
    if loss.of_source:
        return _multiplied(court, module, rows, set(trained))
    if loss.likelihood and logits:
        return _in_logits(court, module, rows, set(trained))
    return None


def _multiplied(
    court: Court, module: OnnxModule, rows: Rows, trained: set[str]
) -> OnnxModule | None:
    names = scale_tensors(module.prepared, module.cut, court.settings.output)
    if not names or not trained.issuperset(names):
        return None
    before, loss = _scores(court, module, rows), court.settings_for(module).loss
    factor = _chosen(_FACTORS, before, rows, loss, float(court.original.mean()))
    if factor == 1.0:
        return None
    tensors = {name: module.learned[name].value * np.float32(factor) for name in names}
    new = court.module(prepare(load(native(module.prepared, tensors).proto)), "hard")
    return new if _agrees(court, new, factor * before) else None


def _in_logits(
    court: Court, module: OnnxModule, rows: Rows, trained: set[str]
) -> OnnxModule | None:
    share = _scores(court, module, rows)
    classes = share.shape[1]
    if classes < 2 or court.settings.loss.target != "classes":
        return None
    centred = share - 1 / classes
    asked = court.settings.loss.name
    loss = choose_loss(asked, replace(court.scored, source=Source("softmax", "")))
    limit = float(court.original.mean())
    factor = _chosen(_LOGIT_FACTORS, centred, rows, loss, limit)
    if loss.kind != "log" and float(_weighed(loss, centred * factor, rows).mean()) > limit:
        # The log loss makes up for it in training; rows that are nearly right weigh too little.
        return None
    prepared = with_logits(module.prepared, trained, factor)
    if prepared is None:
        return None
    new = court.module(prepared, "hard")
    expected = torch.softmax(factor * centred, dim=1)
    made = new.links[court.settings.output].link != "identity"
    return new if made and _agrees(court, new, expected, linked=True) else None


def _chosen(
    factors: Sequence[float], scores: Tensor, rows: Rows, loss: Loss, limit: float
) -> float:
    """The factor of the scores that is best with a few more rows, of any class, than there are.

    Of those that bring the loss of the given rows within the limit, if any does.
    """
    plain, more = [], []
    for factor in factors:
        found = _weighed(loss, scores * factor, rows)
        plain.append(float(found.mean()))
        any_class = _any_class(loss, scores * factor, rows.target)
        more.append(float(found.sum()) + _ROWS_OF_ANY_CLASS * any_class)
    able = [place for place, value in enumerate(plain) if value <= limit]
    if not able:
        return float(factors[int(np.argmin(plain))])
    return float(factors[min(able, key=more.__getitem__)])


def _weighed(loss: Loss, scores: Tensor, rows: Rows) -> Tensor:
    """[N]: the loss of each row, times its weight where it has one."""
    found = loss.rows(scores, rows.target)
    return found if rows.weight is None else found * rows.weight


def _any_class(loss: Loss, scores: Tensor, target: Tensor) -> float:
    """The mean loss where every row is of every class alike; 0 for numbers."""
    if loss.target == "numbers":
        return 0.0
    classes = scores.shape[1] if loss.target == "classes" else 2
    found = [float(loss.rows(scores, torch.full_like(target, k)).mean()) for k in range(classes)]
    return sum(found) / classes


def known_by_heart(court: Court, module: OnnxModule) -> bool:
    """Whether the model gets every validation row right.

    Then they are easy, or it was fitted on them; if so, tuning only makes it surer of itself.
    """
    loss = court.settings.loss
    if not loss.of_classes or loss.target != "classes":
        return False
    rows = court.rows(module, ["hard"])
    scores = _scores(court, module, rows)
    several = len(torch.unique(rows.target)) > 1
    return several and bool((scores.argmax(dim=1) == rows.target).all())


def with_logits(prepared: Prepared, trained: set[str], factor: float) -> Prepared | None:
    """The model with the only node that votes with probabilities moved to logits."""
    changed = {}
    for node, own in ensembles(
        prepared, holders([n for n in trained if n.endswith("/leaf_values")])
    ):
        attributes = own.logits(node, factor)
        if attributes is not None:
            changed[str(node.name)] = attributes
    return with_attributes(prepared, changed) if len(changed) == 1 else None


def scale_tensors(prepared: Prepared, cut: Partition, output: str) -> list[str]:
    """The tensors that, multiplied by one factor, should multiply the scores of an output by it.

    They are those met first on the way back from it. Whether they do is for the caller to see.
    """
    makers = {name: node for node in prepared.proto.graph.node for name in node.output if name}
    learned = set(cut.tensors)
    found: dict[str, None] = {}
    queue, seen = [cut.outputs[output]], set()
    while queue:
        value = queue.pop()
        node = makers.get(value)
        if node is None or value in seen:
            continue
        seen.add(value)
        own = [name for name in cut.tensors if name.startswith(f"{node.name}/")]
        held = [name for name in node.input if name in learned]
        found |= dict.fromkeys([n for n in own if not n.endswith("/thresholds")] + held)
        if own or (held and node.op_type in ("MatMul", "Gemm", "Mul")):
            continue
        queue.extend(name for name in node.input if name and name not in learned)
    return list(found)


def _scores(court: Court, module: OnnxModule, rows: Rows) -> Tensor:
    """[N, K]: what the loss takes of the validation rows."""
    with torch.no_grad():
        return loss_input(module, {}, rows, court.settings_for(module), "hard")


def _agrees(court: Court, module: OnnxModule, expected: Tensor, linked: bool = False) -> bool:
    """Whether the new model scores as it should on the validation rows."""
    rows = court.rows(module, ["hard"])
    if linked:
        with torch.no_grad():
            values = module.evaluate_settled(rows.settled["hard"], module.tensors())
        found = values[module.cut.outputs[court.settings.output]].reshape(expected.shape)
    else:
        found = _scores(court, module, rows)
    size = float(expected.square().mean().sqrt()) or 1.0
    off = (found - expected).abs().amax(dim=1) > _TOLERANCE * size
    return bool(off.float().mean() <= 0.01)
