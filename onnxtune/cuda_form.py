"""The form of a model for onnxruntime's CUDA provider: every node on the GPU, where that can be."""

from __future__ import annotations

import logging

import onnx
import onnx.inliner

from onnxtune.constant_folding import fold_constants
from onnxtune.cuda_substitutes import substitute
from onnxtune.errors import UnsupportedError
from onnxtune.open_bodies import open_bodies
from onnxtune.placement import Placement, place
from onnxtune.runtime import value_types
from onnxtune.subgraphs import reads
from rewrites.core.naming import node_names
from rewrites.core.rewrite import Provider

_log = logging.getLogger(__name__)


def for_cuda(proto: onnx.ModelProto, origin: str, rows: int = 1000) -> Placement:
    """Prepare a model in standard operators, in place, for the CUDA provider.

    What is the same in every call is computed once, and its tensors lose their names.

    Args:
        proto: the model; its nodes get unique names.
        origin: what to call it in messages.
        rows: of a batch, to tell whether values that would be larger fit into memory.

    Returns:
        Where each node runs.

    Raises:
        UnsupportedError: nothing is left for the GPU; the message names the nodes in the way.
    """
    if proto.functions:
        # onnxruntime does the same when it loads the file.
        proto.CopyFrom(onnx.inliner.inline_local_functions(proto))
    for node, name in zip(proto.graph.node, node_names(proto.graph), strict=True):
        node.name = name
    types = value_types(proto)
    if open_bodies(proto, types, rows):
        types = value_types(proto)
    if substitute(proto, types):
        types = value_types(proto)
    fold_constants(proto, types)
    placement = place(proto, types)
    if not _leaves_work(proto, placement):
        raise UnsupportedError(
            f"{origin}: nothing of it can run on a GPU: {_listed(placement)}. "
            "Serve it with provider 'cpu'."
        )
    return placement


def warn_of_gaps(placement: Placement, origin: str) -> None:
    """Name the nodes without a kernel: onnxruntime copies tensors to the CPU and back for them."""
    if placement.gaps:
        _log.warning(
            "%s: stay on the CPU: %s. `onnxtune split` makes models of their own of them.",
            origin,
            _listed(placement),
        )


def finish(proto: onnx.ModelProto, provider: Provider, origin: str) -> None:
    """Prepare a model, in place, for its provider, and name what will not run there.

    Raises:
        UnsupportedError: as `for_cuda`.
    """
    if provider == "cuda":
        warn_of_gaps(for_cuda(proto, origin), origin)


def _leaves_work(proto: onnx.ModelProto, placement: Placement) -> bool:
    """Whether there is anything to do on the GPU: between nodes on the CPU, only floats are."""
    there = [node for node in proto.graph.node if placement.sides[node.name] == "gpu"]
    if not placement.gaps:
        return bool(there)
    return any(
        placement.type_of(v).is_float for node in there for v in (*reads(node), *node.output)
    )


def _listed(placement: Placement) -> str:
    if not placement.gaps:
        return "it has no nodes"
    first = [str(gap) for gap in placement.gaps[:3]]
    more = len(placement.gaps) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")
