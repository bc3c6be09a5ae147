"""Link functions: what `post_transform` does to scores."""

from __future__ import annotations

import onnx_ir as ir

from rewrites.core.attributes import describe, string
from rewrites.core.builder import Builder
from rewrites.errors import UnsupportedError

LINKS = ("NONE", "LOGISTIC", "SOFTMAX")


def post_transform(node: ir.Node) -> str:
    """The attribute, one of `LINKS`.

    Raises:
        UnsupportedError: another transform.
    """
    link = string(node, "post_transform", "NONE")
    if link not in LINKS:
        raise UnsupportedError(
            f"{describe(node)}: post_transform {link} has no rewrite ({', '.join(LINKS)} have)."
        )
    return link


def apply_link(builder: Builder, scores: ir.Value, link: str) -> ir.Value:
    """Scores [N, K] -> outputs [N, K], elementwise for LOGISTIC, over the columns for SOFTMAX."""
    if link == "LOGISTIC":
        return builder.op("Sigmoid", scores)
    if link == "SOFTMAX":
        return builder.op("Softmax", scores, axis=1)
    return scores
