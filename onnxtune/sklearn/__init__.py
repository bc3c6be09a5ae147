"""scikit-learn's face: tuned estimators, and tuned numbers back in fitted pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxtune.sklearn.classifier import TunedClassifier
from onnxtune.sklearn.regressor import TunedRegressor
from onnxtune.sklearn.search import search_space
from onnxtune.sklearn.transformer import TunedTransformer

if TYPE_CHECKING:
    from onnxtune.sklearn.written_pipeline import write_back

__all__ = ["TunedClassifier", "TunedRegressor", "TunedTransformer", "search_space", "write_back"]


def __getattr__(name: str) -> Any:
    if name != "write_back":
        raise AttributeError(f"module 'onnxtune.sklearn' has no attribute '{name}'")
    # It exports; a process that only unpickles and predicts needs no skl2onnx.
    from onnxtune.sklearn.written_pipeline import write_back

    return write_back
