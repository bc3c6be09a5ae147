"""Losses per row, in torch: by name, by what the graph ends with, or a callable."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from onnxtune import class_losses, number_losses
from onnxtune.class_losses import ClassLoss
from onnxtune.errors import ArgumentError
from onnxtune.links import Source

LossName = Literal[
    "log",
    "focal",
    "hinge",
    "squared",
    "absolute",
    "huber",
    "pinball",
    "poisson",
    "gamma",
    "tweedie",
]
LOSSES: tuple[LossName, ...] = (
    *("log", "focal", "hinge"),
    *("squared", "absolute", "huber", "pinball"),
    *("poisson", "gamma", "tweedie"),
)

RowLoss = Callable[[Tensor, Tensor], Tensor]


# What the target of a loss holds: numbers [N, K], class indices [N], or 0 and 1 [N, 1] for the two
# classes of a single score.
Target = Literal["numbers", "classes", "binary"]


@dataclass(frozen=True)
class _Parameter:
    """What may stand in parentheses behind a name.

    `allowed` says which numbers may, `domain` the same in words.
    """

    default: float
    allowed: Callable[[float], bool]
    domain: str


_PARAMETERS: dict[LossName, _Parameter] = {
    "focal": _Parameter(2.0, lambda g: g >= 0, "a number from 0 on"),
    "huber": _Parameter(1.35, lambda d: d > 0, "a number above 0"),
    "pinball": _Parameter(0.5, lambda q: 0 < q < 1, "a quantile between 0 and 1"),
    "tweedie": _Parameter(1.5, lambda p: p >= 1, "a power from 1 on"),
}

# Of the deviances without a parameter.
_POWERS: dict[LossName, float] = {"poisson": 1.0, "gamma": 2.0}

_WRITTEN = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*")


@dataclass(frozen=True)
class Loss:
    """A loss of one output.

    Attributes:
        name: as reports call it, its parameter in parentheses.
        rows: (value [N, K], target) -> [N].
        of_source: whether `rows` takes the value in front of the link (logits, a log rate) or the
            output itself.
        target: what the target holds.
        kind: the name without its parameter; None for a callable.
        power: of the variance, for the deviance of a rate; None for others.
    """

    name: str
    rows: RowLoss
    of_source: bool
    target: Target
    kind: LossName | None = None
    power: float | None = None

    @property
    def likelihood(self) -> bool:
        """Whether it is of probabilities, and means the same of logits in front of a new link."""
        return self.kind in ("log", "focal")

    @property
    def of_classes(self) -> bool:
        """Whether it is of the right one of several answers."""
        return self.kind in ("log", "focal", "hinge")

    @property
    def plain(self) -> bool:
        """Whether it is of numbers of any sign and size."""
        return self.target == "numbers" and not self.of_classes and self.power is None


@dataclass(frozen=True)
class Output:
    """What a loss needs to know of an output.

    Attributes:
        source: its link, and whether it is of two mirrored scores.
        columns: their number.
        labels: the number of classes that it scores; 0 for no classifier.
        distribution: whether its rows are probabilities that sum to 1.
        share: whether every value lies between 0 and 1.
        mirrored: whether it holds two numbers of opposite sign itself.
        size: how large its values are in the mean.
    """

    source: Source
    columns: int
    labels: int = 0
    distribution: bool = False
    share: bool = False
    mirrored: bool = False
    size: float = 1.0


def choose_loss(loss: str | RowLoss | Loss, output: Output) -> Loss:
    """The loss that was asked for, or the one that fits the graph.

    Args:
        loss: a name of `LOSSES`, with or without a parameter ("huber(1.35)"); "auto"; or a
            callable (output [N, K], target) -> [N].
        output: what it is a loss of.

    Raises:
        ArgumentError: no such loss or parameter, or one that does not fit the output.
    """
    if isinstance(loss, Loss):
        return loss
    link = output.source.link
    scored: Target = (
        "classes"
        if output.labels == output.columns > 1
        else "binary"
        if output.labels == 2 and output.columns == 1
        else "numbers"
    )
    if callable(loss):
        return Loss(getattr(loss, "__name__", "custom"), loss, False, scored)
    if loss == "auto":
        logarithmic = scored != "numbers" or link == "sigmoid"
        loss = "log" if logarithmic else "poisson" if link == "exp" else "squared"
    kind, given = _read(loss)
    name = kind if given is None else f"{kind}({given:.10g})"
    parameter = given or 0.0
    match kind:
        case "log":
            return _of_classes(name, kind, class_losses.LOG, output, scored)
        case "focal":
            return _of_classes(name, kind, class_losses.focal(parameter), output, scored)
        case "hinge":
            return _of_classes(name, kind, class_losses.HINGE, output, scored)
        case "squared":
            return Loss(name, number_losses.squared, False, "numbers", kind)
        case "absolute":
            return Loss(name, number_losses.absolute, False, "numbers", kind)
        case "huber":
            return Loss(name, number_losses.huber(parameter), False, "numbers", kind)
        case "pinball":
            return Loss(name, number_losses.pinball(parameter), False, "numbers", kind)
        case "poisson" | "gamma" | "tweedie":
            power = _POWERS.get(kind, parameter)
            if link == "exp":
                rows = number_losses.deviance_of_log(power)
            else:
                rows = number_losses.deviance(power, output.size)
            return Loss(name, rows, link == "exp", "numbers", kind, power)


def _read(text: str) -> tuple[LossName, float | None]:
    """Name and parameter of a loss as it is written.

    Raises:
        ArgumentError: no such loss, or no such parameter.
    """
    found = _WRITTEN.fullmatch(str(text))
    kind = next((name for name in LOSSES if found is not None and found[1] == name), None)
    if found is None or kind is None:
        raise ArgumentError(f"Loss '{text}' is none of {', '.join(LOSSES)}, 'auto' or a callable.")
    given, taken = found[2], _PARAMETERS.get(kind)
    if taken is None:
        if given is not None:
            raise ArgumentError(f"Loss '{text}': {kind} takes no parameter; write '{kind}'.")
        return kind, None
    if given is None:
        return kind, taken.default
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and taken.allowed(value)):
        raise ArgumentError(
            f"Loss '{text}': {kind} takes {taken.domain} in parentheses, such as "
            f"'{kind}({taken.default:g})'."
        )
    return kind, value


def _of_classes(
    name: str, kind: LossName, forms: ClassLoss, output: Output, scored: Target
) -> Loss:
    """The form of a loss of classes that fits the output.

    Raises:
        ArgumentError: the output is no classifier's.
    """
    source = output.source
    if scored == "classes":
        if source.link == "softmax":
            return Loss(name, forms.logits, True, scored, kind)
        if source.link == "sigmoid":
            rows = forms.mirrored if source.mirrored else forms.columns
            return Loss(name, rows, True, scored, kind)
        if output.distribution:
            return Loss(name, forms.probabilities, False, scored, kind)
        # Scores that are no probabilities (a hinge, a ridge) are taken for logits.
        margins = kind == "hinge" and output.mirrored
        return Loss(name, forms.mirrored if margins else forms.logits, False, scored, kind)
    if source.link == "sigmoid":
        return Loss(name, forms.binary, True, scored, kind)
    if scored == "binary":
        rows = forms.binary_share if output.share else forms.binary
        return Loss(name, rows, False, scored, kind)
    raise ArgumentError(
        f"The {name} loss needs class probabilities{' or scores' * (kind == 'hinge')}; this output "
        f"has {output.columns} column{'s' * (output.columns != 1)} and no class labels."
    )
