"""Projections: PCA and truncated SVD."""

from __future__ import annotations

from typing import Any

from onnxtune.sklearn.steps.step import Part, Step, put, transposed


def _write(step: Any, part: Part) -> None:
    step.components_ = put(step.components_, transposed(part.change("MatMul", "input 1")))
    if hasattr(step, "mean_"):
        step.mean_ = put(step.mean_, part.change("Sub", "input 1"))
    if getattr(step, "whiten", False):
        variance = part.change("Sqrt", "input 0")
        step.explained_variance_ = put(step.explained_variance_, variance)


STEPS = (Step("sklearn", ("PCA", "IncrementalPCA", "TruncatedSVD"), _write),)
