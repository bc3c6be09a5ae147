"""Row losses of numbers: how far an output [N, K] is from a target [N, K], averaged over columns.

Each takes floating tensors of one shape and returns [N] of their dtype, with gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

RowLoss = Callable[[Tensor, Tensor], Tensor]

# Below this share of the mean size of the output a rate's deviance goes on as a straight line, so
# that a row with a rate of 0, or below, has a finite loss and a gradient that leads away from it.
SMALLEST_RATE = 1e-3


def squared(output: Tensor, target: Tensor) -> Tensor:
    """(f - y)^2."""
    return (output - target).square().mean(1)


def absolute(output: Tensor, target: Tensor) -> Tensor:
    """|f - y|."""
    return (output - target).abs().mean(1)


def huber(threshold: float) -> RowLoss:
    """(f - y)^2 / 2 where |f - y| <= d, else d (|f - y| - d / 2).

    Huber (1964), "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics
    35(1), section 1; `torch.nn.functional.huber_loss`.

    Args:
        threshold: d above 0, in units of the target.
    """

    def rows(output: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(output, target, reduction="none", delta=threshold).mean(1)

    return rows


def pinball(quantile: float) -> RowLoss:
    """max(q (y - f), (q - 1) (y - f)): its expectation is least at the quantile q.

    Koenker and Bassett (1978), "Regression Quantiles", Econometrica 46(1), section 3;
    `sklearn.metrics.mean_pinball_loss`.

    Args:
        quantile: q between 0 and 1.
    """

    def rows(output: Tensor, target: Tensor) -> Tensor:
        distance = target - output
        return torch.maximum(quantile * distance, (quantile - 1) * distance).mean(1)

    return rows


def deviance(power: float, size: float) -> RowLoss:
    """Half the unit deviance d(f) of a Tweedie distribution whose variance is its mean^p.

    y^(2-p) / ((1-p)(2-p)) - y f^(1-p) / (1-p) + f^(2-p) / (2-p); in the limits f - y - y log(f/y)
    for p = 1 (Poisson), and log(f/y) + y/f - 1 for p = 2 (gamma). Jorgensen (1987), "Exponential
    Dispersion Models", J. R. Stat. Soc. B 49(2), section 4; `sklearn.metrics.mean_tweedie_deviance`
    is twice that. Below e = `SMALLEST_RATE` times `size` it is d(e) + (f - e) d'(e).

    Args:
        power: p from 1 on.
        size: how large the output is in the mean.
    """
    floor = SMALLEST_RATE * size

    def rows(output: Tensor, target: Tensor) -> Tensor:
        rate = output.clamp(min=floor)
        logarithm = rate.log()
        slope = (rate - target) * (-power * logarithm).exp()
        found = _deviance(power, rate, logarithm, target) + (output - rate) * slope
        return found.mean(1)

    return rows


def deviance_of_log(power: float) -> RowLoss:
    """`deviance` of the rate f = exp(z), from z: f^(1-p) is exp((1-p) z).

    Args:
        power: p from 1 on.
    """

    def rows(logarithm: Tensor, target: Tensor) -> Tensor:
        return _deviance(power, logarithm.exp(), logarithm, target).mean(1)

    return rows


def _deviance(power: float, rate: Tensor, logarithm: Tensor, target: Tensor) -> Tensor:
    """[N, K]; `logarithm` is that of the rate."""
    if power == 1:
        return rate - target - target * logarithm + torch.xlogy(target, target)
    # y f^(1-p), where y = 0 times an infinite power would be no number.
    product = (target.log() + (1 - power) * logarithm).exp()
    if power == 2:
        return logarithm - target.log() + product - 1
    of_target = target.pow(2 - power) / ((1 - power) * (2 - power))
    return of_target - product / (1 - power) + ((2 - power) * logarithm).exp() / (2 - power)
