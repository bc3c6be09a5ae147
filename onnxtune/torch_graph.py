"""A rewritten core as a torch graph whose learned tensors are inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxtune.errors import UnsupportedError
from onnxtune.onnx2torch_bridge import onnx2torch_convert
from onnxtune.preparation import OPSET, means_the_same, opset_of, set_opset
from onnxtune.torch_ops import CONVERTERS
from rewrites.core.builder import PRIVATE_DOMAIN


class CoreGraph(nn.Module):
    """onnx2torch's graph with its promoted constants, and what its values are called."""

    def __init__(
        self, graph: torch.fx.GraphModule, slopes: Mapping[str, Tensor], values: Sequence[str]
    ) -> None:
        super().__init__()
        self.graph = graph
        self.value_names = tuple(values)
        self.slope_names = tuple(f"slope_{number}" for number in range(len(slopes)))
        for name, slope in zip(self.slope_names, slopes.values(), strict=True):
            self.register_buffer(name, slope)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Core inputs, learned tensors and slopes -> the values of `value_names`."""
        found = self.graph(*values)
        return (found,) if isinstance(found, Tensor) else tuple(found)


def to_fx(
    proto: onnx.ModelProto, inputs: Sequence[str], tensors: Sequence[str], values: Sequence[str]
) -> CoreGraph:
    """Convert a rewritten core, its learned tensors and slopes passed in as inputs.

    onnx2torch turns initializers into anonymous buffers and folds some away; as graph inputs they
    keep their identity, and a tensor that is used twice stays one.
    """
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    slopes = {
        name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
        for name, tensor in held.items()
        if name.endswith("/inverse_temperature")
    }
    promoted = [*tensors, *slopes]
    core = onnx.ModelProto(ir_version=proto.ir_version)
    core.opset_import.extend(proto.opset_import)
    set_opset(core, PRIVATE_DOMAIN, 1)
    newest = opset_of(core) or OPSET
    foreign = [node for node in proto.graph.node if node.op_type not in CONVERTERS]
    if newest <= OPSET or all(means_the_same(node, newest) for node in foreign):
        # onnx2torch matches exact schema versions, and knows few beyond this one.
        set_opset(core, "", OPSET)
    graph = core.graph
    graph.name = "core"
    graph.node.extend(proto.graph.node)
    graph.initializer.extend(t for name, t in held.items() if name not in promoted)
    typed = {value.name: value for value in proto.graph.input}
    for name in (*inputs, *promoted):
        if name in typed:
            graph.input.append(typed[name])
        elif name in held:
            tensor = held[name]
            info = onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            graph.input.append(info)
        else:  # a tensor that this routing does not read, such as thresholds of no inner node
            graph.input.append(onnx.helper.make_tensor_value_info(name, 1, None))
    for number, value in enumerate(values):
        output = f"onnxtune_output_{number}"
        graph.node.add(op_type="Identity", input=[value], output=[output])
        graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
    for number, node in enumerate(graph.node):
        _check_convertible(node, core)
        if node.op_type in CONVERTERS:
            node.domain = PRIVATE_DOMAIN
        # fx forbids some names; a converter that refuses the node calls it by its own.
        node.doc_string = node.name
        node.name = f"n{number}"
    converted = onnx2torch_convert()(core)
    for module in converted.modules():
        # Constants of the graph belong to the code, not to the state.
        module._non_persistent_buffers_set.update(module._buffers)
    whole = CoreGraph(converted, slopes, values)
    whole._non_persistent_buffers_set.update(whole._buffers)
    return whole


def _check_convertible(node: onnx.NodeProto, core: onnx.ModelProto) -> None:
    onnx2torch_convert()
    from onnx2torch.node_converters.registry import get_converter

    if node.op_type in CONVERTERS and node.domain in ("", PRIVATE_DOMAIN):
        return
    try:
        get_converter(node.op_type, opset_of(core, node.domain) or 1, node.domain)
    except NotImplementedError:
        kind = "has no rewrite" if node.domain else "has no torch form"
        raise UnsupportedError(
            f"{node.op_type} '{node.name}' stands between the learned tensors and the output, "
            f"and {kind}. `onnxtune inspect` lists every such node."
        ) from None
