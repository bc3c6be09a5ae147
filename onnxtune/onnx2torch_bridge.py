"""onnx2torch, imported where torchvision is broken, with our operators in a domain of their own."""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch

from onnxtune.torch_node import Node, Operation
from onnxtune.torch_ops import CONVERTERS
from rewrites.core.builder import PRIVATE_DOMAIN

_REGISTERING = threading.Lock()


def onnx2torch_convert() -> Callable[..., torch.fx.GraphModule]:
    """onnx2torch's `convert`, with our operators registered in the private domain."""
    with _REGISTERING:
        return _convert_with_ours()


@cache
def _convert_with_ours() -> Callable[..., torch.fx.GraphModule]:
    with _torchvision_or_stand_in():
        import onnx2torch
        from onnx2torch.node_converters.registry import add_converter
        from onnx2torch.utils.common import OnnxMapping, OperationConverterResult

    def register(operator: str, converter: Callable[[Node], tuple[Operation, list[int]]]) -> None:
        def convert_node(node: Any, graph: Any) -> Any:
            seen = Node(node, graph)
            module, places = converter(seen)
            inputs = tuple(seen.inputs[place] for place in places)
            mapping = OnnxMapping(inputs=inputs, outputs=seen.outputs)
            return OperationConverterResult(torch_module=module, onnx_mapping=mapping)

        add_converter(operation_type=operator, version=1, domain=PRIVATE_DOMAIN)(convert_node)

    for operator, converter in CONVERTERS.items():
        register(operator, converter)
    convert: Callable[..., torch.fx.GraphModule] = onnx2torch.convert
    return convert


@contextlib.contextmanager
def _torchvision_or_stand_in() -> Iterator[None]:
    """Let onnx2torch import where torchvision cannot be.

    onnx2torch wants it for NonMaxSuppression and RoiAlign alone, which no core holds; beside a
    CPU-only torch, PyPI's torchvision fails as it is imported.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        pass
    else:
        yield
        return
    stand_ins = _stand_ins(["torchvision", "torchvision.ops"])
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _stand_ins(names: Sequence[str]) -> dict[str, types.ModuleType]:
    made = {}
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made[name] = module
    made["torchvision"].ops = made["torchvision.ops"]  # type: ignore[attr-defined]
    for function in ("nms", "batched_nms", "roi_align", "RoIAlign"):
        setattr(made["torchvision.ops"], function, None)
    return made
