"""Every error derives from `OnnxTuneError`; those for bad values also from `ValueError`."""

from rewrites.errors import (
    ArgumentError,
    DataError,
    MissingDependencyError,
    ModelError,
    OnnxTuneError,
    ProviderError,
    UnsupportedError,
)

__all__ = [
    "ArgumentError",
    "DataError",
    "MissingDependencyError",
    "ModelError",
    "OnnxTuneError",
    "ProviderError",
    "UnsupportedError",
]
