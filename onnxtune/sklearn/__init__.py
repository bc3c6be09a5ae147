"""onnxtune for users of scikit-learn."""

from __future__ import annotations

from onnxtune.sklearn.written_pipeline import write_back

__all__ = ["write_back"]
