"""One factor on the scores in front of a link, from validation rows: the first step of tuning.

Boosting that fits its training rows too well is too sure of itself, and so is a forest that
averages; half of what can be gained in log loss is often this factor (Guo et al. 2017, "On
Calibration of Modern Neural Networks", section 4.2, call it temperature scaling).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from onnxtune.export import native
from onnxtune.judging import Court
from onnxtune.learned import ir_node
from onnxtune.losses import Loss
from onnxtune.model import load
from onnxtune.partition import Partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.rows import Rows
from onnxtune.torch_module import OnnxModule
from onnxtune.training_loop import loss_input
from rewrites.core.naming import node_names
from rewrites.core.registry import find

_log = logging.getLogger(__name__)

# Factors of scores that already stand in front of a link.
_FACTORS = np.exp(np.linspace(-1.5, 1.5, 61))

# Factors of p - 1/K for the probabilities p of a forest.
_LOGIT_FACTORS = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 36.0)

# The rows of one sample may all be easy; as many more as this are taken to be of any class (Agresti
# and Coull 1998, "Approximate Is Better than Exact", add four observations to a proportion).
_ROWS_OF_ANY_CLASS = 4

# How far the scaled model's scores may be from the factor's, over their size.
_TOLERANCE = 1e-3


def scaled(court: Court, module: OnnxModule, trained: Iterable[str]) -> OnnxModule | None:
    """The model with its scores multiplied by the factor that validates best.

    A forest that votes with probabilities moves to logits. None where a factor means nothing to
    the loss, where the scores do not come of trained tensors alone, or where 1 is best.
    """
    rows = court.rows(module, ["hard"])
    loss = court.settings_for(module).loss
    if loss.of_source:
        return _multiplied(court, module, rows, set(trained))
    if loss.name == "log":
        return _in_logits(court, module, rows, set(trained))
    return None


def _multiplied(
    court: Court, module: OnnxModule, rows: Rows, trained: set[str]
) -> OnnxModule | None:
    names = scale_tensors(module.prepared, module.cut, court.settings.output)
    if not names or not trained.issuperset(names):
        return None
    before, loss = _scores(court, module, rows), court.settings_for(module).loss
    losses = [_total(loss, before * factor, rows.target) for factor in _FACTORS]
    factor = float(_FACTORS[int(np.argmin(losses))])
    if factor == 1.0 or _known_by_heart(court, factor, float(_FACTORS[-1])):
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
    losses = []
    for factor in _LOGIT_FACTORS:
        scores = torch.log_softmax(factor * centred, dim=1)
        of_right = scores.gather(1, rows.target[:, None]).sum()
        losses.append(-float(of_right + _ROWS_OF_ANY_CLASS * scores.mean()))
    factor = _LOGIT_FACTORS[int(np.argmin(losses))]
    if _known_by_heart(court, factor, _LOGIT_FACTORS[-1]):
        return None
    prepared = with_logits(module.prepared, trained, factor)
    if prepared is None:
        return None
    new = court.module(prepared, "hard")
    expected = torch.softmax(factor * centred, dim=1)
    made = new.links[court.settings.output].link != "identity"
    return new if made and _agrees(court, new, expected, linked=True) else None


def _total(loss: Loss, scores: Tensor, target: Tensor) -> float:
    """The loss of all rows, and of a few more whose class may be any."""
    found = float(loss.rows(scores, target).sum())
    if loss.target == "numbers":
        return found
    classes = range(scores.shape[1] if loss.target == "classes" else 2)
    others = [float(loss.rows(scores, torch.full_like(target, k)).mean()) for k in classes]
    return found + _ROWS_OF_ANY_CLASS * sum(others) / len(classes)


def _known_by_heart(court: Court, factor: float, largest: float) -> bool:
    """Whether the scores part the validation rows so well that no factor is too large.

    A model does that on rows that it was fitted on, and there tuning only makes it surer of itself.
    """
    if factor < largest:
        return False
    _log.warning(
        "The model is right on its %d validation rows as if it had been fitted on them; tune it on "
        "rows that it has not seen, or it gets worse on new ones.",
        len(court.original),
    )
    return True


def with_logits(prepared: Prepared, trained: set[str], factor: float) -> Prepared | None:
    """The model with the only node that votes with probabilities moved to logits."""
    proto = onnx.ModelProto()
    proto.CopyFrom(prepared.source.proto)
    moved = 0
    for node, name in zip(proto.graph.node, node_names(proto.graph), strict=True):
        rewrite = find(node.domain, node.op_type)
        if rewrite is None or rewrite.ensemble is None or f"{name}/leaf_values" not in trained:
            continue
        attributes = rewrite.ensemble.logits(ir_node(prepared, node, name), factor)
        if attributes is None:
            continue
        replaced = {attribute.name for attribute in attributes}
        kept = [held for held in node.attribute if held.name not in replaced]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(ir.serde.serialize_attribute(each) for each in attributes)
        moved += 1
    return prepare(load(proto)) if moved == 1 else None


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
    return bool(off.double().mean() <= 0.01)
