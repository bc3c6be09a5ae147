"""What `tune` was asked for, checked before anything is read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch

from onnxtune.argument_checks import check_positive
from onnxtune.errors import ArgumentError
from onnxtune.settings import LEARNING_RATES
from onnxtune.torch_module import matching
from rewrites.core.rewrite import Tensor as Learned

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}

LearningRate = float | Mapping[str, float]

_log = logging.getLogger(__name__)


def check_choice(what: str, given: Any, allowed: Iterable[str]) -> None:
    """One of some names.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(given, str) or given not in allowed:
        raise ArgumentError(f"{what} '{given}' is none of {', '.join(allowed)}.")


def check_callable(**functions: Any) -> None:
    """Callables, or None.

    Raises:
        ArgumentError: one is not.
    """
    for name, value in functions.items():
        if value is not None and not callable(value):
            raise ArgumentError(f"{name} must be a callable, not {value!r}.")


def check_seed(seed: Any) -> None:
    """A seed that torch takes.

    Raises:
        ArgumentError: it is none.
    """
    if not (isinstance(seed, Integral) and 0 <= int(seed) < 2**63):
        raise ArgumentError(f"seed must be a whole number from 0, not {seed!r}.")


def check_only_numbers(only: bool, max_size: float, companion: bool) -> None:
    """Refuse what changes more than numbers where nothing else may change.

    Raises:
        ArgumentError: a number of trees, or a network, that would.
    """
    if only and (max_size != 1 or companion):
        raise ArgumentError(
            "only_numbers keeps the graph as it is; leave max_size at 1, and companion out."
        )


def check_noise(noise: Any) -> None:
    """A number from 0.

    Raises:
        ArgumentError: it is not.
    """
    if not (isinstance(noise, Real) and 0 <= float(noise) < float("inf")):
        raise ArgumentError(f"noise must be a number from 0, not {noise!r}.")


def check_rate(lr: Any) -> None:
    """A learning rate, or several by glob.

    Raises:
        ArgumentError: one is no positive number.
    """
    for name, value in lr.items() if isinstance(lr, Mapping) else [("", lr)]:
        check_positive(**{f"lr of '{name}'" if name else "lr": value})


def rates(
    lr: LearningRate | None, trained: Iterable[str], learned: Mapping[str, Learned]
) -> dict[str, float]:
    """The learning rate of every trained tensor, in standardised units.

    Of several globs that match a tensor the last one counts; where none does, the default. A glob
    that matches none of the trained ones is warned of.

    Raises:
        ArgumentError: a glob matches no learned tensor.
    """
    found = {name: LEARNING_RATES[learned[name].group] for name in trained}
    for pattern, rate in _by_glob(lr).items():
        matched = [name for name in matching(pattern, learned) if name in found]
        if not matched:
            _log.warning(
                "lr: '%s' matches no tensor that is trained, and changes nothing; look at freeze "
                "and routing.",
                pattern,
            )
        found |= dict.fromkeys(matched, float(rate))
    return found


def with_own_rates(
    lr: LearningRate | None, trained: Iterable[str], learned: Mapping[str, Learned]
) -> frozenset[str]:
    """The trained tensors whose learning rates were given.

    Raises:
        ArgumentError: a glob matches no learned tensor.
    """
    named = {name for pattern in _by_glob(lr) for name in matching(pattern, learned)}
    return frozenset(named.intersection(trained))


def _by_glob(lr: LearningRate | None) -> Mapping[str, float]:
    return lr if isinstance(lr, Mapping) else {} if lr is None else {"*": lr}


def device_of(device: str) -> torch.device:
    """A device that works.

    Raises:
        ArgumentError: it does not.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"device '{device}' cannot be used: {reason}") from None
    return found
