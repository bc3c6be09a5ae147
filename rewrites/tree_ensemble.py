"""TreeEnsemble: the leaf values that a row reaches, joined over the trees; sets of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, integer
from rewrites.core.builder import Builder
from rewrites.core.memory import once
from rewrites.core.rewrite import Array, Attributes, Case, Replacement, Rewrite, Tensor
from rewrites.errors import ModelError, UnsupportedError
from rewrites.scores.links import LINKS
from rewrites.trees.ensemble import Ensemble, ensemble_of
from rewrites.trees.hardening import written_or_replaced
from rewrites.trees.indexed import read_indexed
from rewrites.trees.indexed_taking import take_indexed
from rewrites.trees.regressor import regression
from rewrites.trees.taking import ensemble_operator
from rewrites.trees.tensors import declare, write_back

_NAMES = {"thresholds": "nodes_splits", "leaf_values": "leaf_weights"}


def _ensemble(node: ir.Node, tuned: Attributes | None = None) -> Ensemble:
    source = node.inputs[0]
    kinds = (None, ir.DataType.FLOAT, ir.DataType.DOUBLE)
    if source is not None and source.dtype not in kinds:
        raise UnsupportedError(
            f"{describe(node)}: onnxruntime runs it on float and double, not on {source.dtype}."
        )
    nodes = read_indexed(node, tuned)
    return ensemble_of(nodes, np.arange(nodes.targets_count))


@once
def _read(node: ir.Node) -> Ensemble:
    return _ensemble(node)


def _link(node: ir.Node) -> str:
    number = integer(node, "post_transform", 0)
    if not 0 <= number < len(LINKS):
        raise ModelError(f"{describe(node)}: post_transform {number} is none of 0 to 4.")
    return LINKS[number]


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`thresholds` [I] and `leaf_values` [L, K] or [E]."""
    _link(node)
    return declare(_read(node), spread)


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Trees joined, link; in the type of the input."""
    ensemble = _read(node)
    x = builder.as_float(node.inputs[0], keep_double=True)
    outputs = regression(builder, ensemble, x, _link(node))
    if ensemble.thresholds.dtype == np.float64 and outputs.dtype != ir.DataType.DOUBLE:
        outputs = builder.op("Cast", outputs, to=int(ir.DataType.DOUBLE))
    return [outputs]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes | Replacement:
    """Thresholds and leaf values into their places."""
    ensemble = _read(node)
    attributes = write_back(ensemble, tuned, _NAMES)
    known = tensors(node, None)
    return written_or_replaced(node, ensemble, attributes, _ensemble, soften, known, tuned)


def _tensor(kind: str, name: str, values: Sequence[float | str]) -> str:
    return f"{name} = {kind}[{len(values)}] {{{', '.join(str(value) for value in values)}}}"


def _text(
    modes: Sequence[int],
    *attributes: str,
    members: Sequence[float | str] = (),
    weights: Sequence[float] = (1.0, -2.0, 3.0, 0.5, -0.75),
    targets: int = 1,
    kind: str = "float",
) -> str:
    """Two trees: a decision with another one and a leaf behind it, and a decision."""
    known = [
        _tensor("uint8", "nodes_modes", modes),
        _tensor(kind, "nodes_splits", [0.5, -0.25, 1.5]),
        _tensor(kind, "leaf_weights", weights),
        f"leaf_targetids = {[0, 0, 0, targets - 1, targets - 1]}, n_targets = {targets}",
        "nodes_featureids = [0, 1, 2], tree_roots = [0, 2]",
        "nodes_truenodeids = [1, 0, 3], nodes_trueleafs = [0, 1, 1]",
        "nodes_falsenodeids = [2, 1, 4], nodes_falseleafs = [1, 1, 1]",
        *attributes,
    ]
    if members:
        known.append(_tensor(kind, "membership_values", members))
    return f"""<ir_version: 9, opset_import: ["" : 21, "ai.onnx.ml" : 5]>
    g ({kind}[N, 3] x) => ({kind}[N, {targets}] y) {{
        [trees] y = ai.onnx.ml.TreeEnsemble <{", ".join(known)}> (x)
    }}"""


REWRITE = Rewrite(
    operator="TreeEnsemble",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    ensemble=ensemble_operator(_read, take_indexed),
    cases=(
        Case("one target", _text([0, 1, 2])),
        Case("one target, double", _text([0, 1, 3], kind="double")),
        Case(
            "two targets, SOFTMAX, NaN to the true child in places",
            _text(
                [1, 0, 3],
                "nodes_missing_value_tracks_true = [1, 0, 1], post_transform = 2",
                targets=2,
            ),
        ),
        Case(
            "the mean, PROBIT",
            _text(
                [0, 0, 0],
                "aggregate_function = 0, post_transform = 4",
                weights=[0.25, 0.125, 0.75, 0.5, 0.375],
            ),
        ),
        Case("the least", _text([0, 0, 0], "aggregate_function = 2")),
        Case(
            "sets of categories, a large one among them",
            _text([0, 6, 6], members=[0, 2, "nan", 1, 40, "nan"]),
        ),
    ),
)
