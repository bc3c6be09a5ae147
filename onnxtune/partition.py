"""Cuts a graph into prefix, core and tail.

The core is every node between a learned tensor and a chosen float output. What feeds it is the
prefix, which onnxruntime runs once; what is left (labels, ZipMap) is the tail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx

from onnxtune.comparisons import Truths, compared, find_truths
from onnxtune.copying import without_long_lists
from onnxtune.differentiability import gradient_paths
from onnxtune.errors import ArgumentError, OnnxTuneError, UnsupportedError
from onnxtune.graph_parts import part
from onnxtune.learned import is_learned, node_tensors, rewrite_of
from onnxtune.neighbours import FLOATS, find_neighbours, shared_paths
from onnxtune.preparation import Prepared
from onnxtune.runtime import ValueType
from onnxtune.subgraphs import places, reads
from rewrites.core.registry import find

Role = Literal["prefix", "core", "tail", "cut"]


@dataclass(frozen=True)
class Partition:
    """A graph cut in three.

    Attributes:
        roles: node name -> its role; a node that stops a gradient is a "cut".
        learned: every learned tensor that reaches a float output of the graph, by name.
        tensors: those that reach the chosen outputs: what can be tuned.
        outputs: chosen output name -> the float value behind it.
        refused: node name -> why its rewrite cannot handle it.
        thresholds: the comparisons that are soft, node name -> the initializer compared with.
        truths: the float values that are zeros and ones because of them.
        inputs: the values that enter the core.
        core: the core as a model of its own, its nodes as they were but for the long lists of
            operators of ai.onnx.ml, which `learned.ir_node` has.
        prefix: the model that computes `inputs`; None where they are inputs of the graph.
    """

    roles: dict[str, Role]
    learned: tuple[str, ...]
    tensors: tuple[str, ...]
    outputs: dict[str, str]
    refused: dict[str, str]
    thresholds: dict[str, str]
    truths: frozenset[str]
    inputs: tuple[ValueType, ...]
    core: onnx.ModelProto
    prefix: onnx.ModelProto | None


def partition(prepared: Prepared, outputs: Sequence[str] | None = None) -> Partition:
    """Cut a prepared model.

    Args:
        prepared: the model.
        outputs: names of float outputs of the graph (or of the values behind them); None takes
            every one that a learned tensor reaches.

    Raises:
        ArgumentError: no such float output; the message lists those there are.
        UnsupportedError: nothing can be tuned; the message says why, and names the node in the
            way where there is one.
    """
    if prepared.obstacle is not None:
        raise UnsupportedError(prepared.obstacle)
    graph = _Graph(prepared)
    floats = float_outputs(prepared)
    if not floats:
        kinds = [prepared.type_of(output.name) for output in prepared.proto.graph.output]
        names = ", ".join(f"'{kind.name}'" for kind in kinds)
        labels = all(kind.kind.startswith("tensor(") for kind in kinds)
        what = "are labels only, and a label has" if labels else "hold no float tensor, and so have"
        raise UnsupportedError(
            f"{prepared.source.origin}: its outputs ({names}) {what} no gradient; export it again "
            "with its scores or probabilities as a tensor."
        )
    learned = graph.learned(floats.values())
    chosen = _choose(prepared, graph, floats, outputs)
    active, core = graph.tuned(chosen.values())
    if not active:
        raise UnsupportedError(f"{prepared.source.origin}: nothing to tune: {graph.obstacle()}")
    entering = graph.entering(core)
    roles = graph.roles(core, entering)
    return Partition(
        roles=roles,
        learned=tuple(learned),
        tensors=tuple(active),
        outputs=chosen,
        refused=graph.refused,
        thresholds={n: t for n, t in graph.truths.thresholds.items() if n in core},
        truths=graph.truths.numbers,
        inputs=tuple(prepared.type_of(name) for name in entering),
        core=graph.extract(core, entering, chosen.values()),
        prefix=graph.prefix(entering),
    )


def float_outputs(prepared: Prepared) -> dict[str, str]:
    """Graph output -> the float value that stands behind it, for every output that has one."""
    makers = {name: node for node in prepared.proto.graph.node for name in node.output}
    found = {}
    for output in prepared.proto.graph.output:
        value = output.name
        node = makers.get(value)
        rewrite = None if node is None else find(node.domain, node.op_type)
        if node is not None and rewrite is not None and rewrite.carrier is not None:
            value = node.input[rewrite.carrier]
        if prepared.type_of(value).is_float:
            found[output.name] = value
    return found


def nodes_before_floats(prepared: Prepared) -> set[str]:
    """Names of the nodes on a path to a float output, with a gradient or without.

    Of a model without float outputs, those on a path to any output.
    """
    graph = _Graph(prepared)
    values = float_outputs(prepared).values() or [v.name for v in prepared.proto.graph.output]
    return graph._before(values)


def _choose(
    prepared: Prepared,
    graph: _Graph,
    floats: dict[str, str],
    outputs: Sequence[str] | None,
) -> dict[str, str]:
    """The float outputs to work on, each reached by a learned tensor."""
    if outputs is None:
        chosen = {name: value for name, value in floats.items() if graph.learned([value])}
    else:
        by_value = {value: name for name, value in reversed(floats.items())}
        names = [by_value.get(name, name) for name in outputs]
        unknown = [name for name in names if name not in floats]
        if unknown:
            raise ArgumentError(
                f"'{unknown[0]}' is no float output of the model; it has "
                f"{', '.join(repr(name) for name in floats)}."
            )
        chosen = {name: floats[name] for name in names}
    if chosen and graph.learned(chosen.values()):
        return chosen
    raise UnsupportedError(f"{prepared.source.origin}: nothing to tune: {graph.obstacle()}")


class _Graph:
    """The graph's edges, read once: linear in nodes."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.nodes = {node.name: node for node in prepared.proto.graph.node}
        self.inputs = {name: reads(node) for name, node in self.nodes.items()}
        self.maker = {out: n for n, node in self.nodes.items() for out in node.output if out}
        self.initializers = {t.name: t for t in prepared.proto.graph.initializer}
        self.refused: dict[str, str] = {}
        self.holders: dict[str, list[str]] = {}
        self.values_of: dict[str, list[str]] = {}
        self._paths: dict[str, list[tuple[int | None, int]]] = {}
        self._find_tensors(Truths())
        self._soften_comparisons(float_outputs(prepared).values())

    def _soften_comparisons(self, values: Collection[str]) -> None:
        """Only those that free a tensor that nothing else moves: a threshold, or one before it."""
        graph = self.prepared.proto.graph
        floats = {t for t, held in self.initializers.items() if held.data_type in FLOATS}
        if not compared(graph, floats):
            return
        moved = self.tuned(values)[0].keys()
        every = compared(graph, floats - moved)
        self._find_tensors(find_truths(graph, every))
        freed = [held for t, held in self.learned(values).items() if t not in moved]
        after = self._after({node for held in freed for node in held})
        self._find_tensors(find_truths(graph, {n: t for n, t in every.items() if n in after}))

    def _find_tensors(self, truths: Truths) -> None:
        """Fill `holders` (tensor -> nodes that read it) and the gradient paths of each node."""
        self.truths, self.holders, self.values_of = truths, {}, {}
        neighbours = find_neighbours(self.prepared.proto.graph, truths.numbers)
        self._shared = {value for found in neighbours for value in found.tagged}
        self._shared |= truths.carried
        shares = shared_paths(neighbours)
        for name, carried in truths.paths.items():
            shares.setdefault(name, set()).update(carried)
        for name, node in self.nodes.items():
            paths = list(dict.fromkeys([*gradient_paths(node), *sorted(shares.get(name, ()))]))
            roles: Iterable[str] = ()
            if find(node.domain, node.op_type) is not None:
                try:
                    if rewrite_of(self.prepared, node) is None:
                        paths = []
                    roles = node_tensors(self.prepared, node)
                except OnnxTuneError as error:
                    self.refused[name] = str(error)
                    paths = []
            self._paths[name] = paths
            makes = [node.output[o] for o in dict.fromkeys(o for _, o in paths)]
            for role in roles:
                self._hold(role, name, makes)
            taken = places(node)
            for place, _ in paths:
                read = "" if place is None or place >= len(taken) else taken[place]
                if read in self.initializers and is_learned(self.initializers[read]):
                    self._hold(read, name, makes)

    def _hold(self, tensor: str, node: str, makes: list[str]) -> None:
        self.holders.setdefault(tensor, []).append(node)
        self.values_of.setdefault(tensor, []).extend(makes)

    def learned(self, values: Iterable[str]) -> dict[str, list[str]]:
        """Learned tensors with a gradient path to one of the values -> the nodes that read them."""
        carrying = self._backward(values)
        return {
            tensor: self.holders[tensor]
            for tensor, makes in self.values_of.items()
            if any(value in carrying for value in makes)
        }

    def tuned(self, values: Collection[str]) -> tuple[dict[str, list[str]], set[str]]:
        """What `learned` gives, but for what must stay, and the nodes from there to the values."""
        while True:
            active = self.learned(values)
            core = self.between({name for held in active.values() for name in held}, values)
            shared = self.read_before(active, core)
            if not shared:
                return active, core
            # The prefix runs once: a number that it reads as well must stay what it was.
            self.forget(shared)

    def read_before(self, tensors: Iterable[str], core: set[str]) -> set[str]:
        """The tensors whose numbers nodes before the core read too; shapes stay what they are."""
        before = self._before(self.entering(core))
        numbers = [n for n in before if self.nodes[n].op_type not in ("Shape", "Size")]
        read = {value for name in numbers for value in self.inputs[name]}
        return {tensor for tensor in tensors if tensor in read}

    def forget(self, tensors: set[str]) -> None:
        """Take tensors for constants."""
        for tensor in tensors:
            del self.values_of[tensor], self.holders[tensor]

    def _backward(self, values: Iterable[str]) -> set[str]:
        """Values from which a gradient path leads to one of these."""
        reached = set(values)
        queue = deque(reached)
        while queue:
            value = queue.popleft()
            name = self.maker.get(value)
            if name is None:
                continue
            node = self.nodes[name]
            taken = places(node)
            for source, target in self._paths[name]:
                if source is None or source >= len(taken) or node.output[target] != value:
                    continue
                read = taken[source]
                if read and read not in reached and self._is_float(read):
                    reached.add(read)
                    queue.append(read)
        return reached

    def _is_float(self, value: str) -> bool:
        # Places of neighbours carry shares, and so do truth values.
        if value in self._shared:
            return True
        # A value of unknown type (inside a model that could not be inferred) is given the benefit.
        kind = self.prepared.type_of(value).kind
        return not kind or self.prepared.type_of(value).is_float or not kind.startswith("tensor")

    def between(self, starts: set[str], values: Iterable[str]) -> set[str]:
        """Nodes that a start reaches and that the values depend on."""
        return self._after(starts) & self._before(values)

    def _after(self, starts: set[str]) -> set[str]:
        readers: dict[str, list[str]] = {}
        for name, taken in self.inputs.items():
            for value in taken:
                readers.setdefault(value, []).append(name)
        reached, queue = set(starts), deque(starts)
        while queue:
            for value in self.nodes[queue.popleft()].output:
                for name in readers.get(value, ()):
                    if name not in reached:
                        reached.add(name)
                        queue.append(name)
        return reached

    def _before(self, values: Iterable[str]) -> set[str]:
        reached: set[str] = set()
        queue = deque(values)
        while queue:
            name = self.maker.get(queue.popleft())
            if name is not None and name not in reached:
                reached.add(name)
                queue.extend(self.inputs[name])
        return reached

    def entering(self, core: set[str]) -> list[str]:
        """Values that core nodes read and neither make nor hold, in order of first use."""
        made = {out for name in core for out in self.nodes[name].output}
        taken = (value for name in self.nodes if name in core for value in self.inputs[name])
        return [v for v in dict.fromkeys(taken) if v not in made and v not in self.initializers]

    def roles(self, core: set[str], entering: list[str]) -> dict[str, Role]:
        before = self._before(entering)
        roles: dict[str, Role] = {}
        for name in self.nodes:
            if name in core:
                roles[name] = "core"
            elif name in before:
                stops = name in self.refused or (
                    not self._passes(name) and self._carries_learned(name)
                )
                roles[name] = "cut" if stops else "prefix"
            else:
                roles[name] = "tail"
        return roles

    def _passes(self, name: str) -> bool:
        """Whether a gradient flows from an output of a node to an input."""
        return any(source is not None for source, _ in self._paths[name])

    def _carries_learned(self, name: str) -> bool:
        upstream = self._before(self.inputs[name])
        return any(name in upstream for held in self.holders.values() for name in held)

    def obstacle(self) -> str:
        """Why nothing can be tuned, naming the node in the way."""
        if self.refused:
            return next(iter(self.refused.values()))
        stops = [node for name, node in self.nodes.items() if not self._passes(name)]
        opaque = [node for node in stops if node.domain not in ("", "ai.onnx")]
        blocking = next((node for node in opaque if find(node.domain, node.op_type) is None), None)
        if blocking is not None:
            return (
                f"{blocking.op_type} '{blocking.name}' has no rewrite. "
                "`onnxtune inspect` lists every such node."
            )
        if not self.holders:
            return "the model holds no learned tensors."
        if not stops:
            return "no learned tensor stands before the output."
        names = ", ".join(f"{node.op_type} '{node.name}'" for node in stops[:3])
        return f"no gradient passes {names}, and no learned tensor stands behind it."

    def extract(
        self, core: set[str], entering: list[str], values: Iterable[str]
    ) -> onnx.ModelProto:
        """The core nodes as a model from `entering` to `values`."""
        nodes = [
            without_long_lists(node) if node.domain == "ai.onnx.ml" else node
            for name, node in self.nodes.items()
            if name in core
        ]
        made = list(dict.fromkeys(values))
        return part(self.prepared.proto, nodes, entering, made, self.prepared.type_of)

    def prefix(self, entering: list[str]) -> onnx.ModelProto | None:
        """The nodes that compute what enters the core."""
        before = self._before(entering)
        if not before:
            return None
        proto = self.prepared.proto
        nodes = [node for name, node in self.nodes.items() if name in before]
        fed = [value.name for value in proto.graph.input if value.name not in self.initializers]
        made = [value for value in entering if value in self.maker]
        return part(proto, nodes, fed, made, self.prepared.type_of)
