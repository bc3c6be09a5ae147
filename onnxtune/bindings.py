"""Tensors that stay where they are: torch's memory bound to onnxruntime's inputs and outputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxtune.columns import sizes_after_rows
from onnxtune.errors import DataError
from onnxtune.runtime import ValueType

if TYPE_CHECKING:
    from torch import Tensor

# Providers whose memory torch shares, and which are called like its device.
DEVICES = ("cpu", "cuda")


def is_tensor(value: Any) -> bool:
    """Whether this is a torch tensor; torch is not loaded to tell."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_array(value: Any, declared: ValueType) -> Any:
    """A torch tensor as an array on the CPU, of an input's dtype; anything else as it is."""
    return to_tensor(value, declared.dtype).cpu().numpy() if is_tensor(value) else value


def to_tensor(value: Any, dtype: np.dtype[Any]) -> Tensor:
    """A tensor of that dtype, contiguous, without its gradient; of an array one on the CPU."""
    import torch

    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    made = value.detach() if is_tensor(value) else torch.from_numpy(np.asarray(value))
    return made.to(kind).contiguous()


def run(
    session: Any,
    feed: Mapping[str, Any],
    outputs: Sequence[str],
    provider: str,
) -> list[Tensor]:
    """Run a session on tensors where they are, and leave its outputs on the provider's device.

    Args:
        session: an `onnxruntime.InferenceSession`, all of whose inputs and outputs are numbers.
        feed: input name -> torch tensor or array.
        outputs: names of outputs.
        provider: the session's.
    """
    binding = session.io_binding()
    device = device_of(provider)
    held = bind_inputs(session, binding, feed, device)
    for name in outputs:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    del held
    return [_tensor_of(value) for value in binding.get_outputs()]


def device_of(provider: str) -> str:
    """Where a provider's values are, for torch and onnxruntime alike."""
    return provider if provider in DEVICES else "cpu"


def bind_inputs(session: Any, binding: Any, feed: Mapping[str, Any], device: str) -> list[Tensor]:
    """Bind every input to the memory of its tensor; the caller holds these until it has run.

    Tensors that are neither on the session's device nor on the CPU are copied to the CPU.
    """
    import torch

    held = []
    on_device = False
    for value in session.get_inputs():
        dtype = ValueType(value.name, value.type).dtype
        tensor = to_tensor(feed[value.name], dtype)
        place = tensor.device
        if place.type not in (device, "cpu"):
            tensor, place = tensor.cpu(), torch.device("cpu")
        on_device |= place.type == "cuda"
        shape, number = list(tensor.shape), place.index or 0
        binding.bind_input(value.name, place.type, number, dtype.type, shape, tensor.data_ptr())
        held.append(tensor)
    if on_device:  # onnxruntime has a stream of its own, which does not wait for torch's
        torch.cuda.current_stream().synchronize()
    return held


def _tensor_of(value: Any) -> Tensor:
    """An onnxruntime value as a tensor on the same memory."""
    import torch

    if not hasattr(value, "__dlpack__"):  # an older onnxruntime
        made = torch.from_numpy(value.numpy())
        return made.cuda() if value.device_name() == "cuda" else made
    shared: Tensor = torch.utils.dlpack.from_dlpack(value)
    # DLPack had no type for booleans once, and onnxruntime gives them as bytes still.
    return shared.view(torch.bool) if value.data_type() == "tensor(bool)" else shared


def check_shape(value: Any, declared: ValueType) -> None:
    """Refuse a tensor or an array whose shape does not fit an input.

    Raises:
        DataError: with both shapes.
    """
    sizes = sizes_after_rows(declared)
    if sizes is None:
        return
    pairs = zip(sizes, value.shape[1:], strict=False)
    if value.ndim != len(sizes) + 1 or any(want not in (None, got) for want, got in pairs):
        wanted = ", ".join(["rows", *("any" if size is None else str(size) for size in sizes)])
        raise DataError(
            f"Input '{declared.name}' takes an array of shape [{wanted}], not {list(value.shape)}."
        )
