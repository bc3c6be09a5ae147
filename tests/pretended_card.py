"""A GPU that is not there: tensors that say they are on one, and refuse what a GPU refuses.

Each holds its numbers in a tensor on the CPU, where every operation is computed. What a GPU would
refuse is an error here, too: a tensor of the CPU among its own, numpy's look at its memory. So
`device="cuda"` can be tried without a card, to the same bits as the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

# torch keeps one name for a device that others bring; a build without CUDA computes no gradients
# of tensors on "cuda".
if torch._C._get_privateuse1_backend_name() == "privateuseone":
    _setup_privateuseone_for_python_backend("card")
    # What torch asks of every device that there is; nothing random is drawn on this one.
    module = torch.get_device_module("card")
    module.get_rng_state = lambda device=None: torch.empty(0, dtype=torch.uint8)
    module.set_rng_state = lambda state, device=None: None
DEVICE = torch.device("card", 0)

# Operations that take tensors of both devices; the first argument decides for an index.
_TRANSFERS = {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
_INDEX = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index"}
# Numbers that stand alone may come from the CPU only where they are broadcast.
_NO_SCALARS = {"aten::index_select", "aten::gather", "aten::scatter_add_", "aten::cat",
               "aten::stack", "aten::mm", "aten::addmm", "aten::bmm", "aten::index_add_",
               "aten::scatter_add", "aten::index_add", "aten::embedding"}  # fmt: skip


class Pretended(Tensor):
    """A tensor on the card."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        """Everything is done in `__new__`."""

    def __repr__(self) -> str:
        return f"Pretended({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Also catches what makes a tensor from none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    own_operation = OPDEFS.get(name)
    if own_operation is not None:
        # What an operation of ours is made of runs on the card, too.
        with _Factories():
            return own_operation._init_fn(*args, **kwargs)
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    own = [each for each in tensors if isinstance(each, Pretended)]
    _check(name, tensors, own)
    asked = kwargs.get("device")
    on_card = bool(own) if asked is None else torch.device(asked).type == DEVICE.type
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    first = func._schema.arguments[0] if func._schema.arguments else None
    if first is not None and first.alias_info is not None and first.alias_info.is_write:
        return args[0] if func._schema.returns else None  # changed in place
    if not on_card:
        return found
    return tree_map(lambda each: Pretended(each) if isinstance(each, Tensor) else each, found)


def _check(name: str, tensors: list[Tensor], own: list[Pretended]) -> None:
    if not own or len(own) == len(tensors) or name in _TRANSFERS:
        return
    if name in _INDEX and isinstance(tensors[0], Pretended):
        return
    others = [each for each in tensors if not isinstance(each, Pretended)]
    if name in _NO_SCALARS or any(each.ndim for each in others):
        shapes = [tuple(each.shape) for each in others]
        raise RuntimeError(f"{name}: tensors on the card and on the cpu, those of {shapes}")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


@contextmanager
def pretended_card() -> Iterator[str]:
    """The name of a device that works meanwhile, on tensors that pretend to be there."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Factories():
            yield str(DEVICE)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
