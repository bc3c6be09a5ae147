"""Tune trained classical pipelines end to end, as ONNX.

The public names are loaded when they are first used, so that `import onnxtune` and
`onnxtune --help` cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxtune.benchmark import bench
    from onnxtune.conversion import convert
    from onnxtune.errors import OnnxTuneError
    from onnxtune.estimators import to_onnx
    from onnxtune.heads import replace_head
    from onnxtune.inspection import inspect
    from onnxtune.runner import Runner
    from onnxtune.splitting import split
    from onnxtune.torch_module import to_torch
    from onnxtune.tuner import Tuner
    from onnxtune.tuning import tune
    from onnxtune.verification import verify
    from onnxtune.writers import MLflowWriter, TensorBoardWriter

__version__ = "0.1.0"

__all__ = [
    "MLflowWriter",
    "OnnxTuneError",
    "Runner",
    "TensorBoardWriter",
    "Tuner",
    "__version__",
    "bench",
    "convert",
    "inspect",
    "replace_head",
    "split",
    "to_onnx",
    "to_torch",
    "tune",
    "verify",
]

# Public name -> the module that holds it. No module is called like a public function: the name
# would be the function first and, once imported, the module.
_HOMES = {
    "MLflowWriter": "writers",
    "OnnxTuneError": "errors",
    "Runner": "runner",
    "TensorBoardWriter": "writers",
    "Tuner": "tuner",
    "bench": "benchmark",
    "convert": "conversion",
    "inspect": "inspection",
    "replace_head": "heads",
    "split": "splitting",
    "to_onnx": "estimators",
    "to_torch": "torch_module",
    "tune": "tuning",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxtune' has no attribute '{name}'")
    return getattr(import_module(f"onnxtune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
