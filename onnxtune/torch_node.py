"""An ONNX node as a converter sees it, and the torch operation that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxtune.errors import UnsupportedError

Function = Callable[..., Tensor]


class Node:
    """An ONNX node as a converter sees it: attributes, and which inputs are constants."""

    def __init__(self, node: Any, graph: Any) -> None:
        """Wrap onnx2torch's node and graph."""
        self.inputs: tuple[str, ...] = node.input_values
        self.outputs: tuple[str, ...] = node.output_values
        self.name: str = node.proto.doc_string or node.name
        self.attributes = node.attributes
        self._graph = graph

    def has(self, place: int) -> bool:
        """Whether the input is there."""
        return place < len(self.inputs) and self.inputs[place] != ""

    def constant(self, place: int) -> np.ndarray[Any, Any] | None:
        """The value of an input that is an initializer, else None."""
        if not self.has(place):
            return None
        held = self._graph.initializers.get(self.inputs[place])
        return None if held is None else held.to_numpy()

    def integers(self, place: int, attribute: str | None = None) -> list[int] | None:
        """Integers that an input, or in older opsets an attribute, holds; None where absent.

        Raises:
            UnsupportedError: the input is computed, not a constant.
        """
        if attribute is not None and attribute in self.attributes:
            found = self.attributes[attribute]
            return [int(v) for v in found] if isinstance(found, list) else [int(found)]
        if not self.has(place):
            return None
        held = self.constant(place)
        if held is None:
            raise UnsupportedError(
                f"'{self.name}': its input '{self.inputs[place]}' is computed in the graph; "
                "torch needs it as a constant."
            )
        return [int(value) for value in np.ravel(held)]


class Operation(nn.Module):
    """A function of the inputs at `places`, with index arrays as buffers in front of them."""

    def __init__(self, function: Function, *indices: np.ndarray[Any, Any]) -> None:
        """Hold the function and its index arrays."""
        super().__init__()
        self.function = function
        self.index_count = len(indices)
        for number, index in enumerate(indices):
            tensor = torch.from_numpy(np.array(index))
            self.register_buffer(f"index_{number}", tensor, persistent=False)

    def forward(self, *values: Tensor) -> Tensor:
        """Apply the function."""
        indices = [getattr(self, f"index_{number}") for number in range(self.index_count)]
        return self.function(*indices, *values)
