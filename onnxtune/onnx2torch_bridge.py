"""onnx2torch, imported where torchvision is broken, with our operators in a domain of their own."""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from onnxtune.errors import UnsupportedError
from onnxtune.preparation import (
    OPSET,
    constant_tensor,
    means_the_same,
    opset_of,
    set_opset,
)
from onnxtune.subgraphs import captured, subgraphs
from onnxtune.torch_node import Converter, Node
from onnxtune.torch_ops import CONVERTERS, is_ours
from onnxtune.torch_subgraphs import CAPTURED
from rewrites.core.builder import PRIVATE_DOMAIN

_REGISTERING = threading.Lock()
# The attribute in which a node with a graph of its own carries the opset.
_OPSET = "onnxtune_opset"


class Values(nn.Module):
    """onnx2torch's graph, which returns a tuple for one value too."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Graph inputs -> graph outputs, each in their order."""
        found = self.graph(*values)
        return (found,) if isinstance(found, Tensor) else tuple(found)


def to_module(core: onnx.ModelProto) -> torch.fx.GraphModule:
    """Convert a model, which is written to, by our operators and onnx2torch's.

    Its tensors are buffers that do not enter the state.

    Raises:
        UnsupportedError: an operator has no torch form.
    """
    opset = opset_of(core) or OPSET
    set_opset(core, PRIVATE_DOMAIN, 1)
    graph = core.graph
    graph.name = graph.name or "core"
    for number, value in enumerate(graph.output):
        # A graph may return what another node of it reads, an input or a constant.
        named = f"onnxtune_output_{number}"
        graph.node.add(op_type="Identity", input=[value.name], output=[named])
        value.name = named
    foreign = [n for n in graph.node if not is_ours(n.domain, n.op_type, PRIVATE_DOMAIN)]
    if opset <= OPSET or all(means_the_same(node, opset) for node in foreign):
        # onnx2torch matches exact schema versions, and knows few beyond this one.
        set_opset(core, "", OPSET)
    for number, node in enumerate(graph.node):
        _check_convertible(node, core)
        if is_ours(node.domain, node.op_type, PRIVATE_DOMAIN):
            node.domain = PRIVATE_DOMAIN
        _hand_in_captured(node, opset)
        # fx forbids some names; a converter that refuses the node calls it by its own.
        node.doc_string = node.name
        node.name = f"n{number}"
    converted = onnx2torch_convert()(core)
    for module in converted.modules():
        # Constants of the graph belong to the code, not to the state.
        module._non_persistent_buffers_set.update(module._buffers)
    return converted


def _hand_in_captured(node: onnx.NodeProto, opset: int) -> None:
    """What the graphs of a node take from around it become inputs of the node and of each."""
    graphs = list(subgraphs(node))
    if not graphs:
        return
    names = list(dict.fromkeys(name for graph in graphs for name in captured(graph)))
    node.input.extend(names)
    node.attribute.append(onnx.helper.make_attribute(CAPTURED, len(names)))
    node.attribute.append(onnx.helper.make_attribute(_OPSET, opset))
    for graph in graphs:
        for name in names:
            graph.input.append(onnx.helper.make_empty_tensor_value_info(name))


def _module_inside(opset: int, graph: onnx.GraphProto) -> nn.Module:
    """The module of a graph inside a node."""
    inner = onnx.ModelProto(ir_version=10)
    set_opset(inner, "", opset)
    inner.graph.CopyFrom(graph)
    del inner.graph.node[:]
    for node in graph.node:
        tensor = constant_tensor(node)
        if tensor is None:
            inner.graph.node.add().CopyFrom(node)
        else:
            inner.graph.initializer.add().CopyFrom(tensor)
            inner.graph.initializer[-1].name = node.output[0]
    return Values(to_module(inner))


def _check_convertible(node: onnx.NodeProto, core: onnx.ModelProto) -> None:
    onnx2torch_convert()
    from onnx2torch.node_converters.registry import get_converter

    if is_ours(node.domain, node.op_type, PRIVATE_DOMAIN):
        return
    try:
        get_converter(node.op_type, opset_of(core, node.domain) or 1, node.domain)
    except NotImplementedError:
        kind = "has no rewrite" if node.domain else "has no torch form"
        raise UnsupportedError(
            f"{node.op_type} '{node.name}' stands between the learned tensors and the output, "
            f"and {kind}. `onnxtune inspect` lists every such node."
        ) from None


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

    def register(operator: str, converter: Converter) -> None:
        def convert_node(node: Any, graph: Any) -> Any:
            seen = Node(node, graph, partial(_module_inside, node.attributes.get(_OPSET)))
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
