"""A model with a part of its trees, to be tuned toward the data and the whole model's outputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onnxtune.data import Table, take
from onnxtune.errors import UnsupportedError
from onnxtune.export import native
from onnxtune.judging import Court
from onnxtune.losses import Loss, Output
from onnxtune.model import load
from onnxtune.number_losses import SMALLEST_RATE
from onnxtune.preparation import prepare
from onnxtune.problem import Problem, Split
from onnxtune.resizing import carried, holders, resized, single_trees, tree_nodes
from onnxtune.row_losses import evaluate
from onnxtune.rows import core_rows, hard_output
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array

# What a model that is to become smaller may lose of the original's loss.
ALLOWED_LOSS = 0.02

# Factors of the remaining trees' leaves that are tried where a part is kept.
_FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)


def smaller(
    court: Court, original: OnnxModule, split: Split, trained: list[str], max_size: float
) -> tuple[OnnxModule, float]:
    """The model with a part of its trees, their leaves scaled, and its size.

    Of every group of trees that vote for the same columns the first ones are kept: in boosting
    these matter most, and in a forest all matter alike.

    Raises:
        UnsupportedError: there are no trees that could be left out.
    """
    groups = tree_nodes(original.prepared, holders(trained))
    place = f"{original.prepared.source.origin}: max_size={max_size:g} wants fewer trees"
    if not groups:
        others = tree_nodes(original.prepared, list(original.cut.roles))
        reason = (
            "freeze keeps them all."
            if others
            else "the model has none that can be left out (of a sum or an average of trees)."
        )
        raise UnsupportedError(f"{place}, and {reason}")
    kept = {node: _first_of_each(group, max_size) for node, group in groups.items()}
    trees = sum(len(group) for group in groups.values())
    size = sum(len(numbers) for numbers in kept.values()) / trees
    if size > max_size * (1 + 1e-9):
        if trees == len(groups):
            raise UnsupportedError(f"{place}, and {single_trees(trees)}")
        raise UnsupportedError(
            f"{place}, and one for each output is {size:.3g} times the model's {trees}; give at "
            f"least {np.ceil(1000 * size) / 1000:g}."
        )
    new = resized(original.prepared, kept)
    own = {name: learned.value for name, learned in original.learned.items()}
    shares = {node: new.taken[node].share for node in kept}
    bound = any(
        original.learned[name].constraint is not None
        for name in (f"{node}/leaf_values" for node in kept)
        if name in original.learned
    )
    module = court.module(new.prepared, "hard")
    some = min(split.table.rows, 5000)
    part = Table(take(split.table.feed, slice(some)), None, some)
    weight = None if split.weight is None else split.weight[:some]
    names = list(module.learned)
    rows = core_rows(module, part, split.target[:some], ["hard"], names, weight=weight)
    # Leaves that are distributions must keep their sum; of others training rows tell the size.
    tried = [shares] if bound else [dict.fromkeys(kept, f) for f in _FACTORS] + [shares]
    losses, settings = [], court.settings_for(module)
    for scale in tried:
        module.load_tensors(carried(new, own, scale))
        losses.append(float(evaluate(module, {}, rows, settings, "hard").mean()))
    scale = tried[min(range(len(tried)), key=losses.__getitem__)]
    proto = native(new.prepared, carried(new, own, scale)).proto
    return court.module(prepare(load(proto)), "hard"), size


def _first_of_each(groups: Array, share: float) -> Array:
    """[T'] the first trees of every group, one at least, in order."""
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups)
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    allowed = np.maximum(1, np.floor(share * counts + 1e-9))
    return np.flatnonzero(rank < allowed[groups])


def teacher_for(problem: Problem, whole: OnnxModule, split: Split) -> Tensor:
    """What the whole model puts out for the training rows, as the loss takes a target, [N, K]."""
    found = hard_output(whole, split.table.feed, problem.output)
    value = found.reshape(len(found), -1)
    return as_target(value, problem.loss, problem.scored)


def as_target(value: Tensor, loss: Loss, scored: Output) -> Tensor:
    """Scores as probabilities where the loss wants classes, rates above 0, numbers as they are."""
    if loss.target == "classes" and not scored.share:
        return torch.softmax(value, dim=1)
    if loss.target == "binary" and not scored.share:
        return torch.sigmoid(value)
    if loss.power is not None:
        return value.clamp(min=SMALLEST_RATE * scored.size)
    return value
