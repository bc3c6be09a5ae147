"""Comparisons with learned thresholds: what stands between them and the first floats behind them.

Where it is compared, a threshold has no gradient. With a share of truth in the stead of true and
false it has: a sigmoid of the distance, which logic, new shapes and sums carry on to a float.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxtune.neighbours import FLOATS, carrying, find_neighbours, shared_paths
from rewrites.core.builder import PRIVATE_DOMAIN
from rewrites.core.graph_pass import STANDARD_DOMAINS
from rewrites.core.rewrite import Array

# Operator -> whether it is true above the threshold.
_ABOVE = {"Less": False, "LessOrEqual": False, "Greater": True, "GreaterOrEqual": True}
_LOGIC = frozenset(["And", "Not", "Or", "Xor"])
# Operators that put their first input in another order or shape.
_LAYOUT = frozenset(
    [
        *("ArrayFeatureExtractor", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
        *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
    ]
)
_LOOKUPS = frozenset(["ArrayFeatureExtractor", "Gather", "GatherElements", "GatherND"])
# Operators that mean the same of shares as of whole numbers.
_SUMS = frozenset(["Add", "Concat", "Mul", "Sub", "Sum"])

Paths = dict[str, set[tuple[int, int]]]


@dataclass(frozen=True)
class Truths:
    """What some comparisons decide.

    Attributes:
        thresholds: comparison, by the node's name -> the initializer that it compares with.
        carried: the truth values, and the whole numbers made of them.
        exits: the floats made of those.
        numbers: the exits, and what was put together of them, that are 0 or 1.
        paths: node name -> (input, output) places along which shares carry a gradient.
    """

    thresholds: dict[str, str] = field(default_factory=dict)
    carried: frozenset[str] = frozenset()
    exits: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    paths: Paths = field(default_factory=dict)


def compared(graph: onnx.GraphProto, tensors: Collection[str]) -> dict[str, str]:
    """The comparisons of a graph with one of these initializers: node name -> initializer."""
    found = {}
    for node in graph.node:
        if node.op_type in _ABOVE and node.domain in STANDARD_DOMAINS:
            held = [name for name in node.input if name in tensors]
            if len(held) == 1:
                found[node.name] = held[0]
    return found


def find_truths(graph: onnx.GraphProto, thresholds: Mapping[str, str]) -> Truths:
    """What becomes of these comparisons of a graph, its nodes in order."""
    if not thresholds:
        return Truths()
    typed = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        typed.setdefault(value.name, value.type.tensor_type.elem_type)
    carried: dict[str, frozenset[str]] = {}  # value -> the comparisons behind it
    exits: set[str] = set()
    places: set[str] = set()
    paths: Paths = {}
    for node in graph.node:
        if node.name in thresholds:
            paths[node.name] = {(0, 0), (1, 0)}
            carried[node.output[0]] = frozenset([node.name])
            continue
        at = [place for place, name in enumerate(node.input) if name in carried]
        behind = frozenset().union(*(carried[node.input[place]] for place in at))
        if at and _passes(node, at):
            paths[node.name] = {(place, 0) for place in at}
            if _kind(node, typed) in FLOATS:
                exits.add(node.output[0])
            else:
                carried[node.output[0]] = behind
        elif at and node.op_type in _LOOKUPS:
            places |= behind
    if places:
        # A share of a place is no place: these decide what is looked up.
        return find_truths(graph, {n: t for n, t in thresholds.items() if n not in places})
    numbers = frozenset(_numbers(graph, carried, exits))
    kept = {name: tensor for name, tensor in thresholds.items() if name in paths}
    return Truths(kept, frozenset(carried), frozenset(exits), numbers, paths)


def _passes(node: onnx.NodeProto, at: list[int]) -> bool:
    if node.domain not in (*STANDARD_DOMAINS, "ai.onnx.ml"):
        return False
    if node.op_type in _LAYOUT or node.op_type in ("Cast", "ReduceSum"):
        return at == [0] and not (node.op_type == "Cast" and _target(node) == TensorProto.BOOL)
    return node.op_type in _LOGIC | _SUMS | {"Where"}


def _kind(node: onnx.NodeProto, typed: Mapping[str, int]) -> int:
    """The type of what a node makes, as far as it may be a float."""
    if node.op_type == "Cast":
        return _target(node)
    known = [typed.get(name, 0) for name in (*node.input[1:], node.output[0])]
    floats = [kind for kind in known if kind in FLOATS]
    return floats[0] if node.op_type == "Where" and floats else 0


def _target(node: onnx.NodeProto) -> int:
    return next(int(a.i) for a in node.attribute if a.name == "to")


def _numbers(graph: onnx.GraphProto, carried: Collection[str], exits: set[str]) -> Iterator[str]:
    """Exits of truth values, and what is put together of them and of zeros and ones."""
    held = {t.name: t for t in graph.initializer if t.data_type in FLOATS}
    whole = {name for name, tensor in held.items() if _is_whole(tensor)}
    truths: set[str] = set()
    zeros: set[str] = set()
    logical = {
        node.output[0] for node in graph.node if node.op_type in _ABOVE or node.op_type in _LOGIC
    }.intersection(carried)
    for node in graph.node:
        out = node.output[0] if node.output else ""
        read = list(node.input)
        if node.op_type in _LAYOUT and read[0] in logical:
            logical.add(out)
        elif node.op_type == "Cast" and out in exits and read[0] in logical:
            truths.add(out)
        elif node.op_type in ("Concat", *_LAYOUT) and truths & set(read[:1] or read):
            if node.op_type in _LAYOUT or truths.union(whole).issuperset(read):
                truths.add(out)
        elif node.op_type == "Mul" and any(_is_zero(held.get(name)) for name in read):
            zeros.add(out)
        elif node.op_type == "Add" and zeros & set(read) and whole & set(read):
            whole.add(out)  # how skl2onnx makes as many ones as there are rows
    yield from truths


def _is_whole(tensor: onnx.TensorProto) -> bool:
    return bool(np.isin(numpy_helper.to_array(tensor), (0, 1)).all())


def _is_zero(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and not numpy_helper.to_array(tensor).any()


def step_unit(thresholds: Array, spread: Array | None) -> Array | float:
    """One standardised step of learned thresholds, broadcastable to them.

    Args:
        thresholds: [..., F], or [...] of one feature.
        spread: standard deviation of each feature that is compared, [F] or [1]; without, the spread
            of the thresholds stands for it.
    """
    if spread is not None and len(spread) in (1, thresholds.shape[-1] if thresholds.ndim else 1):
        usable = np.isfinite(spread) & (spread > 0)
        if usable.any():
            return np.where(usable, spread, spread[usable].mean())
    finite = thresholds[np.isfinite(thresholds)].astype(np.float64)
    sizes = [finite.std(), np.abs(finite).mean()] if finite.size else []
    return float(next((size for size in sizes if size > 0), 1.0))


def soften_comparisons(
    proto: onnx.ModelProto,
    thresholds: Mapping[str, str],
    units: Mapping[str, Array | float],
    truths: Collection[str],
    straight: bool,
) -> None:
    """Put shares of truth in the place of true and false, in a core for torch.

    Args:
        proto: a core in standard operators, its nodes named; it is written to.
        thresholds: comparison, by the node's name -> the initializer that it compares with.
        units: node name -> `step_unit` of its threshold.
        truths: `Truths.numbers` of the whole graph.
        straight: whether values stay what they are, and only gradients are of shares.
    """
    graph = proto.graph
    found = find_truths(graph, thresholds)
    shares = shared_paths(find_neighbours(graph, truths))
    for name, places in found.paths.items():
        shares.setdefault(name, set()).update(places)
    wanted = found.exits & carrying(graph, shares)
    if not wanted:
        return
    made: list[onnx.NodeProto] = []
    for node in graph.node:
        out = node.output[0] if node.output else ""
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.name in found.thresholds:
            slope = f"{node.name}/inverse_temperature"
            widths = 1.0 / np.asarray(units[node.name], np.float64)
            held = numpy_helper.from_array(np.asarray(widths, np.float32), slope)
            graph.initializer.append(held)
            made += [copy, _own("ShareOfTruth", [*node.input, slope], _share(out), node)]
            made[-1].attribute.append(helper.make_attribute("above", int(_ABOVE[node.op_type])))
        elif out in wanted:
            made += _exit(copy, found.carried, straight)
        elif out in found.carried and node.name in found.paths:
            made += [copy, *_shared(copy, found.carried)]
        else:
            made.append(copy)
    del graph.node[:]
    graph.node.extend(made)


def _share(value: str) -> str:
    return f"{value}/share"


def _own(operator: str, inputs: list[str], output: str, node: onnx.NodeProto) -> onnx.NodeProto:
    name = f"{node.name}/{operator}"
    return helper.make_node(operator, inputs, [output], name, domain=PRIVATE_DOMAIN)


def _shared(node: onnx.NodeProto, carried: frozenset[str]) -> Iterator[onnx.NodeProto]:
    """The nodes that do with shares what a node does with truth values or whole numbers."""
    names = [_share(name) if name in carried else name for name in node.input]
    out = _share(node.output[0])
    if node.op_type in _LOGIC:
        made = _own("SharesOfLogic", names, out, node)
        made.attribute.append(helper.make_attribute("logic", node.op_type))
        yield made
    elif node.op_type == "Where":
        yield _own("ShareWhere", [node.input[0], *names], out, node)
    elif node.op_type == "Cast":
        yield helper.make_node("Identity", names, [out], f"{node.name}/share")
    else:
        made = onnx.NodeProto.FromString(node.SerializeToString())
        made.name, made.output[0] = f"{node.name}/share", out
        for place, name in enumerate(node.input):
            if name in carried:
                made.input[place] = names[place]
            elif node.op_type in _SUMS:
                made.input[place] = f"{node.name}/float_{place}"
                yield helper.make_node(
                    "Cast", [name], [made.input[place]], made.input[place], to=TensorProto.FLOAT
                )
        yield made


def _exit(
    node: onnx.NodeProto, carried: frozenset[str], straight: bool
) -> Iterator[onnx.NodeProto]:
    """What makes the float in the place of a node that casts or chooses."""
    out = node.output[0]
    exact = f"{out}/exact"
    if node.op_type == "Where":
        share = _share(node.input[0])
        made = _own("ShareWhere", [node.input[0], share, *node.input[1:]], out, node)
        made.attribute.append(helper.make_attribute("straight", int(straight)))
        yield made
        return
    if not straight:
        node.input[0] = _share(node.input[0])
        yield node
        return
    node.output[0] = exact
    yield node
    soft = onnx.NodeProto.FromString(node.SerializeToString())
    soft.name = soft.output[0] = f"{out}/soft"
    soft.input[0] = _share(node.input[0])
    yield soft
    held = _own("Held", [soft.output[0]], f"{out}/held", node)
    yield held
    nothing = helper.make_node("Sub", [soft.output[0], held.output[0]], [f"{out}/nothing"])
    nothing.name = nothing.output[0]
    yield nothing
    yield helper.make_node("Add", [exact, nothing.output[0]], [out], f"{node.name}/straight")
