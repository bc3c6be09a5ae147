"""Whether there is an NVIDIA GPU for the tests that need one."""

from __future__ import annotations

import functools

from onnx import parser

from onnxtune import runtime
from onnxtune.errors import ProviderError

_TINY = parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N] X) => (float[N] Y) { Y = Neg(X) }
""")


@functools.cache
def missing() -> str:
    """Why there is no card for onnxruntime and torch; empty where there is one."""
    try:
        runtime.session(_TINY, "cuda")
    except ProviderError as error:
        return f"needs an NVIDIA GPU: {error}"
    import torch

    return "" if torch.cuda.is_available() else "needs an NVIDIA GPU: torch sees none"
