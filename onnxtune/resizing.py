"""Models with other trees: a part of them, or several copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxtune.ensembles import ensembles, with_attributes
from onnxtune.preparation import Prepared
from rewrites.core.ensembles import EnsembleShape, Taken
from rewrites.core.rewrite import Array, Tensor

# Noise further out than this share of a logistic distribution is cut.
_TAIL = 1e-4


@dataclass(frozen=True)
class Resized:
    """A model whose tree nodes hold other trees, their numbers as they were.

    `taken` says, by node, where each number came from.
    """

    prepared: Prepared
    taken: dict[str, Taken]


def tree_nodes(prepared: Prepared, names: Sequence[str]) -> dict[str, Array]:
    """Those of the nodes whose trees can be taken apart -> [T], the group of each tree.

    Trees of one group vote for the same columns.
    """
    found = {node.name: own.groups(node) for node, own in ensembles(prepared, names)}
    return {str(name): groups for name, groups in found.items() if groups is not None}


def single_trees(count: int) -> str:
    """For a message: why none of so many trees can be left out, each in a node of its own."""
    if count == 1:
        return "its only tree cannot be left out."
    return f"its trees sit in {count} nodes of one tree each, none of which can be left out."


def holders(names: list[str]) -> list[str]:
    """The nodes that hold these tensors."""
    return list(dict.fromkeys(name.rsplit("/", 1)[0] for name in names))


def tree_shapes(prepared: Prepared, names: Sequence[str]) -> list[EnsembleShape]:
    """The shapes of those of the nodes that hold trees."""
    return [own.shape(node) for node, own in ensembles(prepared, names)]


def resized(prepared: Prepared, trees: Mapping[str, Array]) -> Resized:
    """The model with these trees: node name -> numbers of the trees to take, repeated or not."""
    taken = {
        str(node.name): own.take(node, trees[str(node.name)])
        for node, own in ensembles(prepared, trees)
    }
    changed = {name: found.attributes for name, found in taken.items()}
    return Resized(with_attributes(prepared, changed), taken)


def carried(
    new: Resized, tensors: Mapping[str, Array], scale: Mapping[str, float]
) -> dict[str, Array]:
    """The tensors of the old model as the new one takes them.

    Args:
        new: the resized model.
        tensors: by name.
        scale: node name -> factor of its leaf values.
    """
    found = dict(tensors)
    for node, taken in new.taken.items():
        for role, origin in taken.origin.items():
            name = f"{node}/{role}"
            if name in tensors and not origin.size:
                del found[name]
            elif name in tensors:
                value = np.asarray(tensors[name]).reshape(-1)[origin]
                factor = scale.get(node, 1.0) if role == "leaf_values" else 1.0
                found[name] = value * value.dtype.type(factor)
    return found


def dithered(
    prepared: Prepared,
    learned: Mapping[str, Tensor],
    tensors: Mapping[str, Array],
    nodes: Mapping[str, Array],
    copies: int,
    temperature: float,
    seed: int,
) -> tuple[Resized, dict[str, Array]]:
    """Hard trees that stand for soft ones: copies with noise on their thresholds.

    A soft gate is the probability that x <= t + width * noise, with logistic noise: the mean over
    copies of the ensemble, each with noise of its own, comes near the soft model. The noise is
    stratified over the copies, so that they spread evenly.

    Args:
        prepared: the model.
        learned: its tensors, for the widths.
        tensors: tuned values by name.
        nodes: the nodes to copy, as `tree_nodes` finds them.
        copies: M.
        temperature: of the soft model.
        seed: of the noise.

    Returns:
        The model with M times the trees, and its tensors.
    """
    new = resized(prepared, {name: np.tile(np.arange(len(g)), copies) for name, g in nodes.items()})
    # Copies share their leaves' size, whether these were trained or not.
    leaves = {name: learned[name].value for name in map("{}/leaf_values".format, nodes)}
    scale = {name: new.taken[name].share for name in nodes}
    found = carried(new, leaves | dict(tensors), scale)
    rng = np.random.default_rng(seed)
    for node, groups in nodes.items():
        name = f"{node}/thresholds"
        if name not in tensors:
            continue
        origin = new.taken[node].origin["thresholds"]
        copy = new.taken[node].tree["thresholds"] // len(groups)
        count = np.size(tensors[name])
        order = np.argsort(rng.random((copies, count)), axis=0)
        place = ((order + rng.random((copies, count))) / copies).clip(_TAIL, 1 - _TAIL)
        noise = np.log(place / (1 - place))[copy, origin]
        width = temperature * np.broadcast_to(learned[name].unit, (count,))[origin]
        found[name] = (found[name] + width * noise).astype(found[name].dtype)
    return new, found
