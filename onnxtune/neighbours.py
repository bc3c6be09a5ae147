"""Nearest neighbours and votes: what stands between the places that TopK, ArgMax or ArgMin finds
and the first floats behind them.

Looking something up by place, and comparing what was found, has no gradient. With shares of all
candidates in the stead of one place it has: such a float becomes the mean, by shares, of what it
would be with each candidate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxtune.differentiability import gradient_paths
from onnxtune.subgraphs import places, subgraphs
from rewrites.core.builder import PRIVATE_DOMAIN
from rewrites.core.graph_pass import STANDARD_DOMAINS

# Operators that put their first input in another order or shape.
_LAYOUT = frozenset(
    ["Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"]
)
_COMPARISONS = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
_ENCODERS = frozenset(["OneHotEncoder"])  # comparisons, and floats right away
# Operators that treat every number by itself.
_ARITHMETIC = frozenset(["Abs", "Add", "Div", "Max", "Min", "Mod", "Mul", "Neg", "Sign", "Sub"])
_POINTWISE = _COMPARISONS | _ARITHMETIC | {"And", "Cast", "Expand", "Not", "Or", "Where", "Xor"}
_LOOKUPS = frozenset(["ArrayFeatureExtractor", "Gather"])
# Which output has the places. The label of a tree may be its leaf, which is looked up; what becomes
# of the operator in standard ones has an ArgMax.
_PLACES: dict[str, int] = {"TopK": 1, "ArgMax": 0, "ArgMin": 0, "TreeEnsembleClassifier": 0}
# A score below it stands for "no vote".
_NO_SCORE = -1e38
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Neighbours:
    """One node whose places decide about floats.

    Attributes:
        top: the TopK, ArgMax, ArgMin, or classifier whose label is a place.
        exits: the float values -> the nodes from the places to each, in order.
        tagged: the values that hold places, or what was made of them.
    """

    top: onnx.NodeProto
    exits: dict[str, list[onnx.NodeProto]]
    tagged: frozenset[str]

    @property
    def place(self) -> int:
        """Which output of the node has the places."""
        return _PLACES[str(self.top.op_type)]

    def paths(self) -> dict[str, set[tuple[int, int]]]:
        """Node name -> (input, output) places along which shares carry a gradient."""
        found = {self.top.name: {(0, self.place)}}
        for nodes in self.exits.values():
            for node in nodes:
                places = {n for n, name in enumerate(node.input) if name in self.tagged}
                found[node.name] = {(place, 0) for place in places}
        return found


def find_neighbours(
    graph: onnx.GraphProto, truths: Collection[str] = frozenset()
) -> list[Neighbours]:
    """Every node of a graph that finds places and has floats behind them.

    What ArgMax or ArgMin finds is a label as a rule, and stays one as a float; it decides about
    floats where it is compared with a class, as votes are, where ArgMin looks up the float of the
    nearest, as in an isotonic calibrator, and where it looks up several floats at once, as the
    classes' shares in the leaf of a tree. Of `truths`, zeros and ones, ArgMax finds the first that
    is true: the number of a bin, as a float too.
    """
    typed = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        typed.setdefault(value.name, value.type.tensor_type.elem_type)
    floats = {name for name, kind in typed.items() if kind in FLOATS}
    grids = {
        t.name
        for t in graph.initializer
        if t.name in floats and sum(size > 1 for size in t.dims) > 1
    }
    found = []
    for node in graph.node:
        if _finds_places(node):
            if typed.get(node.input[0], 0) not in (0, *FLOATS) and node.domain in STANDARD_DOMAINS:
                continue  # whole numbers have no gradient
            region = _behind(node, graph.node, floats, grids, node.input[0] in truths)
            if region.exits:
                found.append(region)
    return found


def shared_paths(regions: Iterable[Neighbours]) -> dict[str, set[tuple[int, int]]]:
    """`paths` of all of them: a node may stand behind the places of several."""
    shares: dict[str, set[tuple[int, int]]] = {}
    for found in regions:
        for name, held in found.paths().items():
            shares.setdefault(name, set()).update(held)
    return shares


def _finds_places(node: onnx.NodeProto) -> bool:
    if node.domain == "ai.onnx.ml" and node.op_type in _PLACES:
        # Between two classes there is a limit in the stead of an ArgMax.
        return any(a.name == "classlabels_int64s" and len(a.ints) > 2 for a in node.attribute)
    return node.op_type in _PLACES and node.domain in STANDARD_DOMAINS


def _behind(
    top: onnx.NodeProto,
    nodes: Iterable[onnx.NodeProto],
    floats: set[str],
    grids: set[str],
    all_count: bool,
) -> Neighbours:
    makers: dict[str, onnx.NodeProto] = {}
    found = top.output[_PLACES[top.op_type] :][:1]
    tagged = {name for name in found if name}
    exits = {}
    for node in nodes:
        if not tagged & set(node.input) or not _passes(node, tagged):
            continue
        out = node.output[0]
        makers[out] = node
        if _is_float(node, tagged, floats):
            between = _upstream(out, makers)
            decide = (_decides(top, held, floats, grids) for held in between)
            if top.op_type == "TopK" or all_count or any(decide):
                exits[out] = between
        else:
            tagged.add(out)
    used = {out for held in exits.values() for node in held for out in node.output}
    return Neighbours(top, exits, frozenset(tagged & {*used, *found}))


def _decides(top: onnx.NodeProto, node: onnx.NodeProto, floats: set[str], grids: set[str]) -> bool:
    """Whether a node behind ArgMax or ArgMin makes more of the place than a label."""
    if node.op_type in _LOOKUPS:
        return node.input[0] in (floats if top.op_type == "ArgMin" else grids)
    return node.op_type in _COMPARISONS | _ENCODERS


def _passes(node: onnx.NodeProto, tagged: set[str]) -> bool:
    if node.domain not in (*STANDARD_DOMAINS, "ai.onnx.ml") or any(subgraphs(node)):
        return False
    at = [place for place, name in enumerate(node.input) if name in tagged]
    if node.op_type in _POINTWISE:
        return node.op_type != "Expand" or at == [0]
    if node.op_type in _LAYOUT or at == [0]:
        return at == [0] and node.op_type in (_LAYOUT | _LOOKUPS | _ENCODERS)
    return node.op_type in _LOOKUPS and at == [1]


def _is_float(node: onnx.NodeProto, tagged: set[str], floats: set[str]) -> bool:
    if node.op_type == "Cast":
        return next(a.i for a in node.attribute if a.name == "to") in FLOATS
    if node.op_type in _LOOKUPS:
        return node.input[0] in floats
    if node.op_type in _ENCODERS:
        return True
    if node.op_type in _COMPARISONS:
        return False
    return any(name in floats for name in node.input if name not in tagged)


def _upstream(value: str, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    wanted, queue = {value}, [value]
    while queue:
        for name in makers[queue.pop()].input:
            if name in makers and name not in wanted:
                wanted.add(name)
                queue.append(name)
    return [node for name, node in makers.items() if name in wanted]


def soften_neighbours(
    proto: onnx.ModelProto, straight: bool, truths: Collection[str] = frozenset()
) -> None:
    """Put shares of all candidates in the place of the nearest ones, in a core for torch.

    Args:
        proto: a core in standard operators, its nodes named; it is written to.
        straight: whether values stay those of the nearest, and only gradients are of shares.
        truths: values that are zeros and ones, as `find_neighbours` takes them.
    """
    graph = proto.graph
    reached = carrying(graph, shared_paths(find_neighbours(graph, truths)))
    for found in find_neighbours(graph, truths):
        exits = {out: nodes for out, nodes in found.exits.items() if out in reached}
        if not exits:
            continue  # comparisons follow: no gradient would come of it, but other values
        found = replace(found, exits=exits)
        slope, shares = (f"{found.top.name}/{word}" for word in ("inverse_temperature", "shares"))
        graph.initializer.append(helper.make_tensor(slope, TensorProto.FLOAT, [], [1.0]))
        made: list[onnx.NodeProto] = []
        for node in graph.node:
            out = node.output[0] if node.output else ""
            if out in found.exits:
                made.append(_soft_exit(graph, found, node, shares, straight))
            else:
                made.append(onnx.NodeProto.FromString(node.SerializeToString()))
            if node.name == found.top.name:
                made.append(_shares(node, _scores(graph, node), slope, shares, truths))
        del graph.node[:]
        graph.node.extend(made)


def carrying(graph: onnx.GraphProto, shares: Mapping[str, set[tuple[int, int]]]) -> set[str]:
    """The values of a core from which a gradient flows to one of its outputs, by the operators'
    own paths or by these, node name -> (input, output) places."""
    reached = {value.name for value in graph.output}
    for node in reversed(graph.node):
        names = places(node)
        if node.domain == PRIVATE_DOMAIN:
            paths = {(i, o) for i in range(len(names)) for o in range(len(node.output))}
        else:
            paths = {
                *((i, o) for i, o in gradient_paths(node) if i is not None),
                *shares.get(node.name, ()),
            }
        reached |= {
            names[i] for i, o in paths if i in range(len(names)) and node.output[o] in reached
        }
    return reached


def _scores(graph: onnx.GraphProto, top: onnx.NodeProto) -> str:
    """What the candidates of a node have shares by: the label of a tree goes by the leaf of a row,
    and leaves the classes out that have no vote there, which soft leaves have everywhere."""
    read: str = top.input[0]
    made = next((n for n in graph.node if read in n.output), None)
    if made is None or made.op_type != "Where" or top.op_type != "ArgMax":
        return read
    held = {tensor.name: tensor for tensor in graph.initializer}
    other = held.get(made.input[2])
    lowest = other is not None and (numpy_helper.to_array(other) < _NO_SCORE).all()
    return made.input[1] if lowest else read


def _shares(
    top: onnx.NodeProto, scores: str, slope: str, name: str, truths: Collection[str]
) -> onnx.NodeProto:
    held = {attribute.name: attribute.i for attribute in top.attribute}
    near = [top.output[0]] if top.op_type == "TopK" else []
    return helper.make_node(
        "NeighbourShares",
        [scores, slope, *near],
        [name],
        name=name,
        domain=PRIVATE_DOMAIN,
        axis=held.get("axis", -1 if near else 0),
        keepdims=held.get("keepdims", 1),
        largest=held.get("largest", int(top.op_type != "ArgMin")),
        first=int(scores in truths),
    )


def _soft_exit(
    graph: onnx.GraphProto, found: Neighbours, last: onnx.NodeProto, shares: str, straight: bool
) -> onnx.NodeProto:
    out = last.output[0]
    nodes = within = found.exits[out]
    if last.op_type == "SoftNeighbours":  # of other places too: a mean of its means
        inside = _made_inside(last)
        within = [*(node for node in nodes if node.output[0] not in inside), last]
    where_from = found.top.output[found.place]
    read = {name for node in nodes for name in node.input}
    # Integers are constants of the graphs, floats may be tuned: those are captured.
    held = [t for t in graph.initializer if t.name in read and t.data_type not in FLOATS]
    given = [helper.make_tensor_value_info(where_from, TensorProto.INT64, None)]
    outputs = [helper.make_empty_tensor_value_info(out)]
    body = helper.make_graph(within, "found", given, outputs, held)
    tags = [_tag(node, found.tagged) for node in nodes]
    where = helper.make_graph(tags, "where", given, outputs, held)
    return helper.make_node(
        "SoftNeighbours",
        [where_from, shares],
        [out],
        name=nodes[-1].name,
        domain=PRIVATE_DOMAIN,
        found=body,
        where=where,
        straight=int(straight),
    )


def _made_inside(node: onnx.NodeProto) -> set[str]:
    inner = [held for graph in subgraphs(node) for held in graph.node]
    return {out for held in inner for out in (*held.output, *_made_inside(held))}


def _tag(node: onnx.NodeProto, tagged: frozenset[str]) -> onnx.NodeProto:
    """A node that tells, for each number of its output, from which of TopK's places it comes."""
    own = [name for name in node.input if name in tagged]
    others = [name for name in node.input if name and name not in tagged]
    if node.op_type in _LAYOUT or node.op_type == "Expand":
        return node
    if node.op_type in _LOOKUPS and node.input[0] in tagged:
        return node
    if node.op_type in _LOOKUPS:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        return helper.make_node(
            "PlacesOfLookup", [own[0], others[0]], list(node.output), node.name,
            domain=PRIVATE_DOMAIN, axis=axis,
        )  # fmt: skip
    return helper.make_node(
        "PlacesOfEach", [own[0], *others], list(node.output), node.name, domain=PRIVATE_DOMAIN
    )
