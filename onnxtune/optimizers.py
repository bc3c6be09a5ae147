"""Adam, and Adam with one second moment a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from onnxtune.parameters import Parameter

# Entries of the optimizers' state that are one number for a tensor, on the CPU.
OF_TENSORS = ("step", "square")


class TensorAdam(torch.optim.Optimizer):
    """Adam whose steps are divided by the root mean square gradient of the whole tensor.

    Adam itself takes a step of full size in a weight that one row in a thousand speaks of, which
    fits that row by heart; here its step is as small as its gradient. One second moment a layer is
    that of Ginsburg et al. (2019), "Stochastic Gradient Methods with Layer-wise Adaptive Moments",
    section 3; moments and their correction are those of Kingma and Ba (2015), "Adam", algorithm 1.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2) -> None:
        """Take parameters, or groups of them each with its `lr`."""
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-12})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float64)
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros((), dtype=torch.float64)
                state["step"] += 1
                state["mean"].lerp_(gradient, 1 - first)
                square = gradient.square().mean().double().cpu()
                state["square"].lerp_(square, 1 - second)
                steps = float(state["step"])
                size = math.sqrt(float(state["square"]) / (1 - second**steps))
                rate = group["lr"] / (1 - first**steps)
                parameter.add_(state["mean"], alpha=-rate / (size + group["eps"]))


def adam(parameters: Mapping[str, Parameter], rates: Mapping[str, float]) -> torch.optim.Optimizer:
    """Adam with a learning rate for every parameter, in one kernel a group."""
    return torch.optim.Adam(_groups(parameters, rates), fused=True)


def tensor_adam(
    parameters: Mapping[str, Parameter], rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """`TensorAdam` with a learning rate for every parameter."""
    return TensorAdam(_groups(parameters, rates))


def _groups(
    parameters: Mapping[str, Parameter], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The parameters by their learning rate, which each group keeps as "rate"."""
    found: dict[float, list[Tensor]] = {}
    for name, parameter in parameters.items():
        found.setdefault(rates[name], []).append(parameter.delta)
    return [{"params": held, "lr": rate, "rate": rate} for rate, held in found.items()]
