"""Whether there is an NVIDIA GPU for the tests that need one, and one that does not compute."""

from __future__ import annotations

import functools
from typing import Any

import onnxruntime
import pytest

from onnxtune import runtime


@functools.cache
def missing() -> str:
    """Why there is no card for onnxruntime and torch; empty where there is one."""
    absence = runtime.absence("cuda")
    if absence is not None:
        return f"needs an NVIDIA GPU: {absence}"
    import torch

    return "" if torch.cuda.is_available() else "needs an NVIDIA GPU: torch sees none"


def on_a_card(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Let CUDA be there, and run on the CPU; returns the options of every session."""
    real = onnxruntime.InferenceSession
    given: list[dict[str, str]] = []

    def start(content: bytes, options: Any, providers: Any, **rest: Any) -> Any:
        given.append(dict(providers[0][1]))
        made = real(content, options, providers=["CPUExecutionProvider"])
        monkeypatch.setattr(made, "get_providers", lambda: [name for name, _ in providers])
        return made

    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    return given
