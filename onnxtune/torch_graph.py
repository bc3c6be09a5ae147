"""A rewritten core as a torch graph whose learned tensors are inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxtune.onnx2torch_bridge import to_module


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
    graph = core.graph
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
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in values)
    whole = CoreGraph(to_module(core), slopes, values)
    whole._non_persistent_buffers_set.update(whole._buffers)
    return whole
