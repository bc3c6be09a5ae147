"""The way back where the kernel would take tuned trees for other ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Attributes, Replacement, Tensor
from rewrites.errors import UnsupportedError
from rewrites.trees.ensemble import Ensemble


def written_or_replaced(
    node: ir.Node,
    ensemble: Ensemble,
    attributes: Attributes,
    reread: Callable[[ir.Node, Attributes], Ensemble],
    soften: Callable[[ir.Node, Builder], Sequence[ir.Value]],
    tensors: Mapping[str, Tensor],
    tuned: Mapping[str, Array],
) -> Attributes | Replacement:
    """The attributes, where onnxruntime still sees the same trees; else the hard form."""
    if still_the_same(ensemble, lambda numbers: reread(node, numbers), attributes):
        return attributes
    return in_standard_operators(node, soften, tensors, tuned)


def in_standard_operators(
    node: ir.Node,
    soften: Callable[[ir.Node, Builder], Sequence[ir.Value]],
    tensors: Mapping[str, Tensor],
    tuned: Mapping[str, Array],
) -> Replacement:
    """The hard form with the tuned tensors in it."""

    def build(builder: Builder) -> Sequence[ir.Value]:
        builder.tensors = {
            role: replace(tensor, value=tuned.get(role, tensor.value))
            for role, tensor in tensors.items()
        }
        return soften(node, builder)

    return Replacement("onnxruntime would take branches for equal that are tuned apart", build)


def still_the_same(
    ensemble: Ensemble, reread: Callable[[Attributes], Ensemble], attributes: Attributes
) -> bool:
    """Whether onnxruntime sees the same trees with the tuned numbers in the operator."""
    if not ensemble.by_numbers:
        return True
    try:
        return ensemble.same_trees(reread(attributes))
    except UnsupportedError:
        return False
