"""Arithmetic, comparisons, logic and reductions."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce as fold
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxtune.clipping import within
from onnxtune.torch_node import (
    Converted,
    Converter,
    Function,
    Integers,
    Node,
    Operation,
    elementwise,
    of_all,
    with_integers,
)


class _FiniteGradient(torch.autograd.Function):
    """The same number; a gradient that is not finite becomes 0.

    A branch that Where does not take has the gradient 0, which a root or a quotient at the edge of
    its domain, or an exponential that overflows, multiplies by infinity.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(data: Tensor) -> Tensor:
        return data.view_as(data)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.where(gradients[0].isfinite(), gradients[0], 0)


def _finite(data: Tensor) -> Tensor:
    if not data.is_floating_point():
        return data
    found: Tensor = _FiniteGradient.apply(data)
    return found


def _at_edges(function: Function) -> Function:
    """The function with gradients of 0 where it has none that is finite."""
    return lambda *values: function(*map(_finite, values))


def _finite_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two inputs of one shape: a row that is not finite must not take the others with it, as it
    would once their gradients are added up."""
    together = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    return _finite(a.expand(together)), _finite(b.expand(together))


def _attribute(node: Node, name: str, usual: float) -> float:
    return float(node.attributes.get(name, usual))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return torch.div(*_finite_pair(a, b))
    return torch.div(a, b, rounding_mode="trunc")


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(*_finite_pair(base, exponent)).to(base.dtype)


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    return torch.mul(*_finite_pair(a, b)) if a.is_floating_point() else torch.mul(a, b)


def _modulo(node: Node) -> Converted:
    return Operation(torch.fmod if node.attributes.get("fmod", 0) else torch.remainder), [0, 1]


def _shift(node: Node) -> Converted:
    left = node.attributes["direction"] == "LEFT"
    return Operation(torch.bitwise_left_shift if left else torch.bitwise_right_shift), [0, 1]


def _clip(node: Node) -> Converted:
    low, high = node.constant(1), node.constant(2)
    if (node.has(1) and low is None) or (node.has(2) and high is None):
        places = [place for place in range(3) if node.has(place)]
        first = node.has(1)

        def clamp(data: Tensor, *bounds: Tensor) -> Tensor:
            if len(bounds) == 2:
                # As onnxruntime does where the bounds are the wrong way round.
                return torch.minimum(torch.maximum(data, bounds[0]), bounds[1])
            return torch.maximum(data, bounds[0]) if first else torch.minimum(data, bounds[0])

        return Operation(clamp), places
    bounds = [
        node.attributes.get(word) if held is None else held.item()
        for word, held in (("min", low), ("max", high))
    ]
    if bounds == [None, None]:
        return Operation(lambda data: data), [0]
    return Operation(lambda data: within(data, bounds[0], bounds[1])), [0]


def _is_inf(node: Node) -> Converted:
    low, high = (bool(node.attributes.get(f"detect_{end}", 1)) for end in ("negative", "positive"))
    return Operation(lambda data: torch.isinf(data) & (((data < 0) & low) | ((data > 0) & high))), [
        0
    ]


def _gelu(node: Node) -> Converted:
    how = str(node.attributes.get("approximate", "none"))
    return Operation(lambda data: functional.gelu(data, approximate=how)), [0]


def _leaky_relu(node: Node) -> Converted:
    slope = _attribute(node, "alpha", 0.01)
    return Operation(lambda data: functional.leaky_relu(data, slope)), [0]


def _elu(node: Node) -> Converted:
    alpha = _attribute(node, "alpha", 1.0)
    return Operation(lambda data: functional.elu(data, alpha)), [0]


def _celu(node: Node) -> Converted:
    alpha = _attribute(node, "alpha", 1.0)
    return Operation(lambda data: functional.celu(data, alpha)), [0]


def _selu(node: Node) -> Converted:
    alpha = _attribute(node, "alpha", 1.67326319217681884765625)
    gamma = _attribute(node, "gamma", 1.05070102214813232421875)
    return Operation(lambda data: gamma * functional.elu(data, alpha)), [0]


def _hard_sigmoid(node: Node) -> Converted:
    alpha, beta = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
    return Operation(lambda data: within(alpha * data + beta, 0, 1)), [0]


def _thresholded_relu(node: Node) -> Converted:
    alpha = _attribute(node, "alpha", 1.0)
    return Operation(lambda data: torch.where(data > alpha, data, 0)), [0]


def _shrink(node: Node) -> Converted:
    bias, limit = _attribute(node, "bias", 0.0), _attribute(node, "lambd", 0.5)

    def shrink(data: Tensor) -> Tensor:
        return torch.where(
            data < -limit, data + bias, torch.where(data > limit, data - bias, 0)
        ).to(data.dtype)

    return Operation(shrink), [0]


def _swish(node: Node) -> Converted:
    alpha = _attribute(node, "alpha", 1.0)
    return Operation(lambda data: data * torch.sigmoid(alpha * data)), [0]


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Converter:
    def convert(node: Node) -> Converted:
        axis = int(node.attributes.get("axis", -1))
        return Operation(lambda data: function(data, axis)), [0]

    return convert


def _hardmax(data: Tensor, axis: int) -> Tensor:
    top = data.argmax(axis, keepdim=True)
    return torch.zeros_like(data).scatter(axis, top, 1)


def _together(function: Function) -> Converter:
    """Any number of inputs, two at a time."""
    return of_all(lambda *values: fold(function, values))


def _mean(*values: Tensor) -> Tensor:
    return fold(torch.add, values) / len(values)


Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(function: Reduction, alone: Function) -> Converter:
    """`alone` is what onnxruntime does with each number where there are no axes to reduce."""

    def convert(node: Node) -> Converted:
        keep = bool(node.attributes.get("keepdims", 1))
        as_it_is = bool(node.attributes.get("noop_with_empty_axes", 0))

        def build(axes: Integers) -> Function:
            if not axes and as_it_is:
                return alone
            return lambda data: function(data, axes or list(range(data.dim())), keep)

        return with_integers(node, [1], build, "axes")

    return convert


def _product(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % data.dim() for axis in axes), reverse=True):
        data = data.prod(axis, keep, dtype=data.dtype)
    return data


def _in_floats(function: Reduction) -> Reduction:
    """Whole numbers as doubles, and the result rounded towards 0, as onnxruntime has it."""

    def reduced(data: Tensor, axes: list[int], keep: bool) -> Tensor:
        if data.is_floating_point():
            return function(data, axes, keep)
        return function(data.double(), axes, keep).trunc().to(data.dtype)

    return reduced


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": lambda data, axes, keep: data.sum(axes, keep, dtype=data.dtype),
    "ReduceMean": _in_floats(lambda data, axes, keep: data.mean(axes, keep)),
    "ReduceMax": lambda data, axes, keep: data.amax(axes, keep),
    "ReduceMin": lambda data, axes, keep: data.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceL1": lambda data, axes, keep: data.abs().sum(axes, keep, dtype=data.dtype),
    # Unlike a root of squares, it has a finite gradient at 0.
    "ReduceL2": _in_floats(lambda data, axes, keep: torch.linalg.vector_norm(data, 2, axes, keep)),
    "ReduceSumSquare": lambda data, axes, keep: data.square().sum(axes, keep, dtype=data.dtype),
    "ReduceLogSum": _in_floats(lambda data, axes, keep: _finite(data.sum(axes, keep)).log()),
    "ReduceLogSumExp": _in_floats(lambda data, axes, keep: data.logsumexp(axes, keep)),
}
_ALONE: dict[str, Function] = {
    "ReduceL1": torch.abs,
    "ReduceL2": torch.abs,
    "ReduceLogSum": _at_edges(torch.log),
    "ReduceSumSquare": torch.square,
}

_OF_ONE: dict[str, Function] = {
    "Abs": torch.abs,
    "Acos": _at_edges(torch.acos),
    "Acosh": _at_edges(torch.acosh),
    "Asin": _at_edges(torch.asin),
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": _at_edges(torch.atanh),
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": _at_edges(torch.cosh),
    "Erf": torch.erf,
    "Exp": _at_edges(torch.exp),
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Held": torch.detach,  # private: no gradient passes
    "IsNaN": torch.isnan,
    "Log": _at_edges(torch.log),
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": _at_edges(torch.reciprocal),
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": lambda data: torch.where(data.isnan(), data, data.sign()),
    "Sin": torch.sin,
    "Sinh": _at_edges(torch.sinh),
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": _at_edges(torch.sqrt),
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

_OF_SEVERAL: dict[str, Function] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mean": _mean,
    "Mul": _multiply,
    "Or": torch.logical_or,
    "PRelu": lambda data, slope: torch.where(data < 0, data * slope, data),
    "Pow": _power,
    "Sub": torch.sub,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}


def _einsum(node: Node) -> Converted:
    equation = str(node.attributes["equation"])
    return Operation(lambda *values: torch.einsum(equation, *values)), [*range(len(node.inputs))]


def _sum_along(node: Node) -> Converted:
    exclusive, backward = (bool(node.attributes.get(n, 0)) for n in ("exclusive", "reverse"))

    def build(axes: Integers) -> Function:
        axis = (axes or [0])[0]

        def add_up(data: Tensor) -> Tensor:
            data = data.flip(axis) if backward else data
            total = data.cumsum(axis, dtype=data.dtype)
            if exclusive:
                # Not the difference from the data: that rounds, and infinity less itself is NaN.
                start = torch.zeros_like(data.narrow(axis, 0, min(1, data.shape[axis])))
                total = torch.cat([start, total], axis).narrow(axis, 0, data.shape[axis])
            return total.flip(axis) if backward else total

        return add_up

    return with_integers(node, [1], build)


CONVERTERS: dict[str, Converter] = {
    **{name: elementwise(function) for name, function in _OF_ONE.items()},
    **{name: of_all(function) for name, function in _OF_SEVERAL.items()},
    **{
        name: _reduce(function, _ALONE.get(name, lambda data: data))
        for name, function in _REDUCTIONS.items()
    },
    "BitShift": _shift,
    "Celu": _celu,
    "Clip": _clip,
    "CumSum": _sum_along,
    "Einsum": _einsum,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Hardmax": _softmax(_hardmax),
    "IsInf": _is_inf,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _together(torch.maximum),
    "Min": _together(torch.minimum),
    "Mod": _modulo,
    "Selu": _selu,
    "Shrink": _shrink,
    "Softmax": _softmax(torch.softmax),
    "Sum": _together(torch.add),
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
}
