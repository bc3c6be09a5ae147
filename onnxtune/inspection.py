"""`inspect`: per node, its role, how it is handled, and what of it can be tuned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import onnx

from onnxtune import output
from onnxtune.conversion import serving_for
from onnxtune.errors import OnnxTuneError, UnsupportedError
from onnxtune.learned import (
    held_by,
    ir_node,
    is_learned,
    node_tensors,
    rewrite_of,
    tensor_value,
)
from onnxtune.model import ModelLike, load
from onnxtune.partition import Partition, Role, nodes_before_floats, partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.saved_form import check_native
from rewrites.core.graph_pass import STANDARD_DOMAINS
from rewrites.core.registry import find, problems
from rewrites.core.rewrite import Provider, Serving, TreeForm
from rewrites.trees.costs import choose, forecasts, soft_row_bytes


@dataclass(frozen=True)
class TreeReport:
    """How the hard form evaluates an ensemble.

    `form` is taken because its forecast, `row_seconds` a row, is the lowest of those that fit into
    memory (or because it was asked for). `row_bytes` is the memory that a row takes in it,
    `soft_row_bytes` in the soft form.
    """

    trees: int
    depth: int
    form: TreeForm
    row_seconds: dict[str, float]
    row_bytes: int
    soft_row_bytes: int

    def text(self) -> str:
        """A line."""
        others = ", ".join(
            f"{form} {output.duration(seconds)}"
            for form, seconds in self.row_seconds.items()
            if form != self.form
        )
        time = output.duration(self.row_seconds[self.form])
        return (
            f"{self.trees} {'tree' if self.trees == 1 else 'trees'} of depth {self.depth}: "
            f"{self.form}, forecast {time} a row "
            f"({others}); {self.row_bytes:,} bytes a row, in the soft form {self.soft_row_bytes:,}"
        )


@dataclass(frozen=True)
class NodeReport:
    """One node.

    `role` is prefix, core, tail or cut (it stops the gradient of learned numbers before it).
    `handling` says what becomes of it in the hard form. `tensors` maps the name of each learned
    tensor to its shape, `tunable` names those that can be tuned, and `parameters` counts the
    numbers of all. `trees` says how an ensemble is evaluated.
    """

    name: str
    operator: str
    role: Role
    handling: str
    tensors: dict[str, tuple[int, ...]]
    parameters: int
    tunable: tuple[str, ...] = ()
    trees: TreeReport | None = None


@dataclass(frozen=True)
class Report:
    """A model, node by node.

    `tunable` of the `learned` numbers can be tuned: every float tensor of more than one element on
    a path to a float output is learned, and so is what a rewrite declares. `note` says why, where
    none can be tuned. `packages` says what is wrong with rewrites that other packages bring.
    """

    model: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    nodes: tuple[NodeReport, ...]
    learned: int
    tunable: int
    note: str | None
    packages: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as dictionaries and lists."""
        return asdict(self)

    def text(self) -> str:
        """The report as a table."""
        rows = [
            [node.name, node.operator, node.role, node.handling, _shapes(node), node.parameters]
            for node in self.nodes
        ]
        headers = ["node", "operator", "role", "handling", "tensors", "parameters"]
        lines = [
            f"inputs   {_types(self.inputs)}",
            f"outputs  {_types(self.outputs)}",
            "",
            output.table(headers, rows, "lllllr"),
            "",
            f"{self.tunable:,} of {self.learned:,} learned numbers can be tuned.",
            *self._untuned(),
        ]
        lines += [
            f"{node.name}: {node.trees.text()}." for node in self.nodes if node.trees is not None
        ]
        return "\n".join([*lines, *([self.note] if self.note else []), *self.packages])

    def _untuned(self) -> list[str]:
        """What stands between the other numbers and the outputs, where some can be tuned."""
        if self.tunable == self.learned:
            return []
        lines = ["In brackets: learned, but not tuned."]
        cuts = [f"{node.operator} '{node.name}'" for node in self.nodes if node.role == "cut"]
        if cuts:
            more = f" and {len(cuts) - 5} more" if len(cuts) > 5 else ""
            lines.append(f"No gradient passes {', '.join(cuts[:5])}{more}.")
        return lines


def _types(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in values.items())


def _shapes(node: NodeReport) -> str:
    def shown(name: str) -> str:
        shape = "x".join(map(str, node.tensors[name]))
        text = f"{name.removeprefix(node.name + '/')} {shape}"
        return text if name in node.tunable else f"({text})"

    return ", ".join(map(shown, node.tensors))


def inspect(
    model: ModelLike,
    sample: Any = None,
    *,
    trees: TreeForm | Literal["auto"] = "auto",
    batch_size: int = 1000,
    provider: Provider = "cpu",
) -> Report:
    """Look into a model.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        sample: rows like those an estimator was fitted on, to tell the types of its columns and to
            compare its export on.
        trees: the form of hard trees to forecast, as `convert` takes it.
        batch_size: rows a call, for that forecast.
        provider: "cpu" or "cuda", likewise.

    Raises:
        ModelError: the model is unreadable or invalid.
        ArgumentError: no such form of trees or provider, or a batch size below 1.
        UnsupportedError: the trees take more memory in the form that was asked for than is at hand.
    """
    serving = serving_for(trees, batch_size, provider)
    prepared = prepare(load(model, sample))
    cut: Partition | None = None
    note = None
    try:
        check_native(prepared.source)
        cut = partition(prepared)
    except UnsupportedError as error:
        note = str(error)
    tunable = set() if cut is None else set(cut.tensors)
    counted = nodes_before_floats(prepared)
    nodes = tuple(
        _node(prepared, node, cut, serving, tunable, node.name in counted)
        for node in prepared.proto.graph.node
    )
    sizes = {name: int(np.prod(shape)) for node in nodes for name, shape in node.tensors.items()}
    types = {value.name: prepared.type_of(value.name) for value in prepared.proto.graph.output}
    held = {tensor.name for tensor in prepared.proto.graph.initializer}
    return Report(
        model=prepared.source.origin,
        inputs={
            value.name: _kind(prepared, value.name)
            for value in prepared.proto.graph.input
            if value.name not in held
        },
        outputs={name: _kind(prepared, name) for name in types},
        nodes=nodes,
        learned=sum(sizes.values()),
        tunable=sum(size for name, size in sizes.items() if name in tunable),
        note=note,
        packages=problems(),
    )


def _kind(prepared: Prepared, name: str) -> str:
    known = prepared.type_of(name)
    if known.shape is None or not known.kind.startswith("tensor("):
        return known.kind or "unknown"
    sizes = ", ".join("N" if size is None else str(size) for size in known.shape)
    return f"{known.kind.removeprefix('tensor(').removesuffix(')')}[{sizes}]"


def _node(
    prepared: Prepared,
    node: onnx.NodeProto,
    cut: Partition | None,
    serving: Serving,
    tunable: set[str],
    counted: bool,
) -> NodeReport:
    """`counted` is whether the node stands on a path to a float output."""
    tensors: dict[str, tuple[int, ...]] = {}
    refused = None
    try:
        declared = node_tensors(prepared, node)
        tensors = {name: tensor.value.shape for name, tensor in declared.items()}
    except OnnxTuneError as error:
        refused = str(error)
    if refused is not None or find(node.domain, node.op_type) is None:
        tensors |= held_by(node)
    held = {tensor.name: tensor for tensor in prepared.proto.graph.initializer}
    for name in node.input:
        if name in held and is_learned(held[name]):
            tensors[name] = tensor_value(prepared, name).shape
    if not counted:
        tensors = {}
    domain = "" if node.domain in STANDARD_DOMAINS else f"{node.domain}:"
    return NodeReport(
        name=node.name,
        operator=f"{domain}{node.op_type}",
        role="tail" if cut is None else cut.roles[node.name],
        handling=_handling(prepared, node, refused),
        tensors=tensors,
        parameters=sum(int(np.prod(shape)) for shape in tensors.values()),
        tunable=tuple(name for name in tensors if name in tunable),
        trees=None if refused else _trees(prepared, node, serving),
    )


def _trees(prepared: Prepared, node: onnx.NodeProto, serving: Serving) -> TreeReport | None:
    rewrite = find(node.domain, node.op_type)
    if rewrite is None or rewrite.ensemble is None:
        return None
    shape = rewrite.ensemble.shape(ir_node(prepared, node))
    chosen = choose(shape, serving, f"{node.op_type} '{node.name}'")
    return TreeReport(
        trees=shape.trees,
        depth=int(shape.depths.max(initial=0)),
        form=chosen.form,
        row_seconds={f.form: f.seconds / serving.batch_size for f in forecasts(shape, serving)},
        row_bytes=chosen.row_bytes,
        soft_row_bytes=soft_row_bytes(shape),
    )


def _handling(prepared: Prepared, node: onnx.NodeProto, refused: str | None) -> str:
    if refused is not None:
        return f"stays: {refused}"
    if node.domain in STANDARD_DOMAINS:
        return "standard"
    if find(node.domain, node.op_type) is None:
        return "stays: no rewrite"
    rewrite = rewrite_of(prepared, node)
    stays = rewrite is None or rewrite.soften is None
    return "stays: no standard form" if stays else "rewritten"
