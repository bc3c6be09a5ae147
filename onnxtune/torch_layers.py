"""Products, layers and norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxtune.errors import UnsupportedError
from onnxtune.torch_node import Converted, Converter, Node, Operation, of_all


def _present(node: Node, count: int) -> list[int]:
    return [place for place in range(count) if node.has(place)]


def _gemm(node: Node) -> Converted:
    alpha, beta = (float(node.attributes.get(word, 1.0)) for word in ("alpha", "beta"))
    flip_a, flip_b = (bool(node.attributes.get(word, 0)) for word in ("transA", "transB"))

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if flip_a else a, b.T if flip_b else b
        product = a @ b
        if alpha != 1:
            product = alpha * product
        if c is None:
            return product
        return product + (c if beta == 1 else beta * c)

    return Operation(gemm), _present(node, 3)


def _batch_normalization(node: Node) -> Converted:
    """In inference mode; onnxruntime keeps the running figures as they are."""
    if node.attributes.get("training_mode", 0):
        raise UnsupportedError(
            f"BatchNormalization '{node.name}' is in training mode; export the model for inference."
        )
    epsilon = float(node.attributes.get("epsilon", 1e-5))

    def normalise(data: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        along = [1, -1] + [1] * (data.dim() - 2)
        slope = (scale / (var + epsilon).sqrt()).reshape(along)
        return (data - mean.reshape(along)) * slope + bias.reshape(along)

    return Operation(normalise), [0, 1, 2, 3, 4]


def _lp_normalization(node: Node) -> Converted:
    """Rows over their norm; a norm of 0 leaves them."""
    axis, power = (
        int(node.attributes.get(word, usual)) for word, usual in (("axis", -1), ("p", 2))
    )

    def normalise(data: Tensor) -> Tensor:
        size = data.abs().sum(axis, True) if power == 1 else data.square().sum(axis, True)
        size = torch.where(size == 0, torch.ones_like(size), size)
        return data / (size if power == 1 else size.sqrt())

    return Operation(normalise), [0]


def _axis_and_epsilon(node: Node) -> tuple[int, float]:
    return int(node.attributes.get("axis", -1)), float(node.attributes.get("epsilon", 1e-5))


def _layer_normalization(node: Node) -> Converted:
    """Also the mean and the inverse of the deviation, where they are asked for."""
    axis, epsilon = _axis_and_epsilon(node)
    count = len(node.outputs)

    def normalise(
        data: Tensor, scale: Tensor, bias: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        axes = list(range(axis % data.dim(), data.dim()))
        mean = data.mean(axes, True)
        inverse = (data - mean).square().mean(axes, True).add(epsilon).rsqrt()
        normal = (data - mean) * inverse * scale
        found = normal if bias is None else normal + bias
        return found if count == 1 else (found, mean, inverse)[:count]

    return Operation(normalise), _present(node, 3)


def _rms_normalization(node: Node) -> Converted:
    axis, epsilon = _axis_and_epsilon(node)

    def normalise(data: Tensor, scale: Tensor) -> Tensor:
        axes = list(range(axis % data.dim(), data.dim()))
        return data / (data.square().mean(axes, True) + epsilon).sqrt() * scale

    return Operation(normalise), [0, 1]


def _instance_normalization(node: Node) -> Converted:
    """By hand: torch's own refuses single numbers and no rows."""
    epsilon = float(node.attributes.get("epsilon", 1e-5))

    def normalise(data: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        axes, along = list(range(2, data.dim())), [-1] + [1] * (data.dim() - 2)
        centred = data - data.mean(axes, True)
        slope = (centred.square().mean(axes, True) + epsilon).rsqrt() * scale.reshape(along)
        return centred * slope + bias.reshape(along)

    return Operation(normalise), [0, 1, 2]


def _mean_variance_normalization(node: Node) -> Converted:
    axes = [int(axis) for axis in node.attributes.get("axes", [0, 2, 3])]

    def normalise(data: Tensor) -> Tensor:
        centred = data - data.mean(axes, True)
        count = math.prod([data.shape[axis] for axis in axes])
        # Unlike a root of squares, a norm has a finite gradient at 0.
        deviation = torch.linalg.vector_norm(centred, 2, axes, True) / math.sqrt(count or 1)
        normal: Tensor = centred / (deviation + 1e-9)
        return normal

    return Operation(normalise), [0]


_Window = tuple[list[int], list[int], list[int]]


def _window(node: Node, sizes: Sequence[int]) -> _Window:
    """Strides, dilations and pads (all before, then all after).

    Raises:
        UnsupportedError: pads that depend on the size of the input.
    """
    rank = len(sizes)
    kind = node.attributes.get("auto_pad", "NOTSET")
    if kind not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"'{node.name}': auto_pad {kind} has no torch form; export pads.")
    if node.attributes.get("ceil_mode", 0):
        raise UnsupportedError(f"'{node.name}': ceil_mode has no torch form.")
    pads = [0] * (2 * rank) if kind == "VALID" else node.attributes.get("pads", [0] * (2 * rank))
    strides = node.attributes.get("strides", [1] * rank)
    return strides, node.attributes.get("dilations", [1] * rank), list(pads)


def _widths(pads: Sequence[int]) -> list[int]:
    """As torch wants them: from the last axis on, before and after each."""
    half = len(pads) // 2
    return [pads[axis + side] for axis in reversed(range(half)) for side in (0, half)]


_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _conv(node: Node) -> Converted:
    groups = int(node.attributes.get("group", 1))

    def convolve(data: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        strides, dilations, pads = _window(node, weights.shape[2:])
        padded = functional.pad(data, _widths(pads)) if any(pads) else data
        function = _CONVOLUTIONS[weights.dim() - 2]
        return function(padded, weights, bias, stride=strides, dilation=dilations, groups=groups)

    if "kernel_shape" in node.attributes:
        _window(node, node.attributes["kernel_shape"])  # refused now, not as it runs
    return Operation(convolve), _present(node, 3)


_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def _max_pool(node: Node) -> Converted:
    sizes = node.attributes["kernel_shape"]
    strides, dilations, pads = _window(node, sizes)
    if len([name for name in node.outputs if name]) > 1:
        raise UnsupportedError(f"MaxPool '{node.name}' hands on places; torch counts them apart.")

    def pool(data: Tensor) -> Tensor:
        padded = functional.pad(data, _widths(pads), value=-torch.inf) if any(pads) else data
        return _MAXIMA[len(sizes)](padded, sizes, strides, dilation=dilations)

    return Operation(pool), [0]


def _average_pool(node: Node) -> Converted:
    sizes = node.attributes["kernel_shape"]
    strides, dilations, pads = _window(node, sizes)
    whole = bool(node.attributes.get("count_include_pad", 0))
    if any(dilation != 1 for dilation in dilations):
        raise UnsupportedError(f"AveragePool '{node.name}': dilations have no torch form.")
    averages = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
    average = averages[len(sizes)]

    def pool(data: Tensor) -> Tensor:
        if not any(pads):
            return average(data, sizes, strides)
        found = average(functional.pad(data, _widths(pads)), sizes, strides)
        if whole:
            return found
        inside = functional.pad(torch.ones_like(data), _widths(pads))
        return found / average(inside, sizes, strides)

    return Operation(pool), [0]


def _global_average(data: Tensor) -> Tensor:
    return data.mean(list(range(2, data.dim())), True)


def _global_maximum(data: Tensor) -> Tensor:
    return data.amax(list(range(2, data.dim())), True)


def _distances(node: Node) -> Converted:
    """CDist of com.microsoft: rows of one matrix from those of another."""
    metric = str(node.attributes.get("metric", "sqeuclidean"))
    if metric not in ("euclidean", "sqeuclidean"):
        raise UnsupportedError(f"CDist '{node.name}': metric '{metric}' has no torch form.")

    def distances(a: Tensor, b: Tensor) -> Tensor:
        # By differences, which take no memory; by products digits are lost far from the origin.
        far = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return far if metric == "euclidean" else far.square()

    return Operation(distances), [0, 1]


def _rnn(node: Node) -> Converted:
    """One direction, forwards; older exports add numbers up with it."""
    named = node.attributes.get("activations", ["Tanh"])[0]
    alpha, beta = (
        float(node.attributes.get(f"activation_{word}", [usual])[0])
        for word, usual in (("alpha", 1.0), ("beta", 0.0))
    )
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "Affine": lambda data: alpha * data + beta,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
    }
    plain = node.attributes.get("direction", "forward") == "forward"
    odd = node.has(4) or "clip" in node.attributes or node.attributes.get("layout", 0)
    if named not in activations or not plain or odd:
        raise UnsupportedError(
            f"RNN '{node.name}': only forwards, over whole sequences, with Affine, Relu, Sigmoid "
            "or Tanh, has it a torch form."
        )
    places = _present(node, 6)
    count = len(node.outputs)

    def over_time(*values: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = dict(zip(places, values, strict=True))
        data, weights, back = given[0], given[1][0], given[2][0]
        entering = data @ weights.T
        if 3 in given:
            entering = entering + sum(given[3][0].chunk(2))
        start = data.new_zeros(data.shape[1], len(back))
        state, made = given[5][0] if 5 in given else start, []
        for step in entering:  # along the sequence, not the rows
            state = activations[named](step + state @ back.T)
            made.append(state)
        every = torch.stack(made).unsqueeze(1)
        return every if count == 1 else (every, state.unsqueeze(0))

    return Operation(over_time), places


CONVERTERS: dict[str, Converter] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "CDist": _distances,
    "Conv": _conv,
    "Det": of_all(torch.det),
    "Gemm": _gemm,
    "GlobalAveragePool": of_all(_global_average),
    "GlobalMaxPool": of_all(_global_maximum),
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "LpNormalization": _lp_normalization,
    "MatMul": of_all(torch.matmul),
    "MaxPool": _max_pool,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "RMSNormalization": _rms_normalization,
    "RNN": _rnn,
}
