"""Gradients of a torch module against finite differences in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from onnxtune.torch_module import OnnxModule

TOLERANCE = 1e-3
# Every entry takes a few runs of the model: a quarter of an hour for hundreds of tensors in a chain
# of thousands of operations. There only so many entries are looked at, of tensors chosen at random,
# that one run for each is this many operations.
_MOST_OPERATIONS = 120_000
# Relative step sizes; one has to fit, as a wide one may cross a kink and a narrow one be noise.
_STEPS = (1e-6, 1e-5, 1e-4, 1e-7, 1e-3, 1e-9)

Array = np.ndarray


class _InDouble(TorchFunctionMode):
    """Casts to float32 in the graph stay double: differences would drown in its rounding."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        def wide(value: object) -> object:
            return torch.float64 if value is torch.float32 else value

        named = {name: wide(value) for name, value in (kwargs or {}).items()}
        return func(*map(wide, args), **named)


def wrong_gradients(
    module: OnnxModule, feed: Mapping[str, Array], entries: int = 3
) -> dict[str, str]:
    """Tensors whose gradient differs from finite differences at one of a few random entries.

    Args:
        module: it is turned to double precision.
        feed: rows of the model's inputs.
        entries: how many of each tensor; of a large model fewer, and of some tensors none.

    Returns:
        Tensor name -> what differs.
    """
    with _InDouble():
        return _wrong_in_double(module.double(), feed, entries)


def in_double(module: OnnxModule, inputs: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A module's outputs in double precision, to which it is turned."""
    with _InDouble():
        return dict(module.double()(*_doubled(inputs)))


def _doubled(inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [value.double() if value.is_floating_point() else value for value in inputs]


def _wrong_in_double(module: OnnxModule, feed: Mapping[str, Array], entries: int) -> dict[str, str]:
    inputs = _doubled(module.to_tensors(module.core_inputs(feed)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        directions = {
            name: torch.randn(value.shape, dtype=torch.float64, generator=generator)
            * value.isfinite()
            for name, value in module(*inputs).items()
        }

    def loss() -> torch.Tensor:
        found = module(*inputs)
        parts = [
            (torch.where(directions[name] != 0, value, 0) * directions[name]).sum()
            for name, value in found.items()
        ]
        return torch.stack(parts).sum()

    loss().backward()
    random = np.random.default_rng(0)
    wrong = {}
    tensors = module.tensors()
    most = max(1, _MOST_OPERATIONS // len(list(module.modules())))
    if len(tensors) > most:
        chosen = sorted(random.choice(len(tensors), most, replace=False))
        tensors = {name: tensors[name] for name in np.array(list(tensors))[chosen]}
    entries = min(entries, max(1, most // len(tensors)))
    for name, tensor in tensors.items():
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        size = float(gradient.abs().max())
        for entry in random.choice(tensor.numel(), min(entries, tensor.numel()), replace=False):
            place = tuple(np.unravel_index(entry, tensor.shape))
            differs = _differs(tensor.data, place, float(gradient[place]), size, loss)
            if differs:
                wrong[name] = differs
                break
    return wrong


def _differs(
    tensor: torch.Tensor,
    place: tuple[int, ...],
    gradient: float,
    size: float,
    loss: Callable[[], torch.Tensor],
) -> str:
    """What is wrong at an entry; nothing where a step size confirms the gradient."""
    before = tensor[place].item()
    if not np.isfinite(before):
        return ""  # a threshold that no row crosses is no number to move
    middle = loss().item()
    nearest = np.nan
    for relative in _STEPS:
        step = relative * max(1.0, abs(before))
        slopes = []
        for sign in (1, -1):
            tensor[place] = before + sign * step
            with torch.no_grad():
                slopes.append((loss().item() - middle) / (sign * step))
        tensor[place] = before
        if not np.isfinite(slopes).all():
            continue  # the edge of where the model is a number at all
        measured = sum(slopes) / 2
        noise = 8 * np.finfo(np.float64).eps * abs(middle) / step
        margin = TOLERANCE * max(abs(measured), abs(gradient), 1e-3 * size) + noise
        # On a kink, such as a clipped 0, any slope between those of the two sides is right.
        if min(slopes) - margin <= gradient <= max(slopes) + margin:
            return ""
        if not abs(nearest - gradient) < abs(measured - gradient):
            nearest = measured
    if np.isnan(nearest) and np.isfinite(gradient):
        return ""
    return f"at {list(map(int, place))} {gradient:.6g}, finite differences say {nearest:.6g}"
