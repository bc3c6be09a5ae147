"""Model -> the same model in standard operators, hard or soft."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxtune.calibration import node_spreads
from onnxtune.copying import copy_model
from onnxtune.cuda_form import for_cuda, warn_of_gaps
from onnxtune.errors import ArgumentError
from onnxtune.memory import memory_at_hand
from onnxtune.model import Model, ModelLike, load
from onnxtune.partition import partition
from onnxtune.placement import Placement, place
from onnxtune.preparation import (
    IR_VERSION,
    OLDEST_IR,
    OPSET,
    Prepared,
    opset_of,
    prepare,
    set_opset,
)
from onnxtune.runtime import input_types, value_types
from onnxtune.saved_form import mark
from rewrites.core.attributes import LongList, long_list
from rewrites.core.graph_pass import Plan, rewrite_graph
from rewrites.core.registry import find
from rewrites.core.rewrite import (
    PROVIDERS,
    TREE_FORMS,
    Provider,
    Routing,
    Serving,
    Tensor,
    TreeForm,
)

_log = logging.getLogger(__name__)

Precision = Literal["float32", "float16"]
Form = Literal["soft", "hard"]
FORMS: tuple[Form, ...] = ("soft", "hard")

# The width of a soft gate in units of its feature's spread where nothing else is known.
DEFAULT_TEMPERATURE = 0.1

# Rows to measure the loss of accuracy on where there are no data.
_SAMPLED = 1000


def convert(
    model: ModelLike,
    form: Form = "soft",
    temperature: float | Literal["auto"] = "auto",
    data: Any = None,
    *,
    trees: TreeForm | Literal["auto"] = "auto",
    batch_size: int = 1000,
    provider: Provider = "cpu",
    sample: Any = None,
    precision: Precision = "float32",
) -> onnx.ModelProto:
    """The model in standard operators.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        form: "hard" routes like the original; "soft" passes every row down both sides of a
            decision, by a sigmoid of its distance from the threshold.
        temperature: width of a soft gate in units of its feature's spread; "auto" is 0.1.
        data: rows to measure the spreads on; without, the spread of a feature's thresholds
            stands for it.
        trees: how hard trees are evaluated: "traversal", "level-wise", "gemm", or "auto" for what
            `inspect` forecasts to be the fastest. In the soft form that is only for trees that
            nothing tunes, such as those before an operator without a gradient.
        batch_size: rows a call, for that forecast.
        provider: "cpu" or "cuda", likewise. For "cuda" every node is one that onnxruntime's CUDA
            provider has a kernel for; a warning names those for which that cannot be, and `split`
            takes them off. What is the same in every call is computed beforehand.
        sample: rows like those an estimator was fitted on, to tell the types of its columns and to
            compare its export on; None takes the data.
        precision: "float16" holds the gates of soft trees in float16, for provider "cuda". How much
            that changes is measured on the data, without data on rows sampled from the graph.

    Returns:
        A model at opset 17 and IR 8 where the original allows it, with the same inputs and
        outputs. A node without a rewrite stays as it is.

    Raises:
        ModelError: the model is unreadable or invalid.
        ArgumentError: no such form or precision; a temperature that is not positive; `trees` for a
            soft form without hard trees; float16 for another form or provider.
        UnsupportedError: in the soft form, nothing in the model has a gradient; the trees take more
            memory in the form that was asked for than is at hand; nothing can run on a GPU;
            float16 changes an output by more than 1 % of its size.
    """
    source = load(model, data if sample is None else sample)
    proto, placement = converted(
        source, form, temperature, data, serving_for(trees, batch_size, provider), precision
    )
    if placement is not None:
        warn_of_gaps(placement, source.origin)
    return proto


def converted(
    source: Model,
    form: Form,
    temperature: float | Literal["auto"],
    data: Any,
    serving: Serving,
    precision: Precision = "float32",
) -> tuple[onnx.ModelProto, Placement | None]:
    """What `convert` returns, and for provider "cuda" where each node is to run.

    Raises:
        OnnxTuneError: as `convert`.
    """
    if form not in FORMS:
        raise ArgumentError(f"Form '{form}' is none of {', '.join(FORMS)}.")
    width = check_temperature(temperature)
    if precision not in ("float32", "float16"):
        raise ArgumentError(f"precision '{precision}' is none of float32, float16.")
    if precision == "float16" and (form, serving.provider) != ("soft", "cuda"):
        raise ArgumentError("precision 'float16' is for the form 'soft' with provider 'cuda'.")
    prepared = prepare(source)
    spreads = {} if data is None else node_spreads(prepared, data)
    routing = soft_routing(prepared) if form == "soft" else {}
    if form == "soft" and serving.trees != "auto" and not _hard_trees(prepared, routing):
        raise ArgumentError(
            f"{source.origin}: trees='{serving.trees}' is a form of hard trees, and the soft form "
            "of this model has none; leave it out, or choose the form 'hard'."
        )
    proto = rewritten(prepared, Plan(routing, width, spreads, serving=serving))
    if serving.provider != "cuda":
        return proto, None
    placement = for_cuda(proto, source.origin, serving.batch_size)
    if precision == "float32":
        return proto, placement
    made = _in_float16(source, proto, data)
    return made, place(made, value_types(made))


def _in_float16(source: Model, proto: onnx.ModelProto, data: Any) -> onnx.ModelProto:
    from onnxtune.data import load as load_data
    from onnxtune.half_precision import in_float16
    from onnxtune.sampling import sample

    if data is None:
        feed = sample(source.proto, _SAMPLED)
    else:
        feed = load_data(data, input_types(source.proto)).feed
    made, worst = in_float16(proto, feed, source.origin)
    _log.info("%s: float16 changes outputs by up to %.2g of their size.", source.origin, worst)
    return made


def _hard_trees(prepared: Prepared, routing: Mapping[str, Routing]) -> bool:
    """Whether there are trees beside those that are routed softly."""
    others = (node for node in prepared.proto.graph.node if node.name not in routing)
    found = (find(node.domain, node.op_type) for node in others)
    return any(rewrite is not None and rewrite.ensemble is not None for rewrite in found)


def serving_for(trees: str, batch_size: int, provider: str) -> Serving:
    """Where a hard form is to run; it may take half of the memory at hand.

    Raises:
        ArgumentError: no such form or provider, or a batch size below 1.
    """
    if trees not in ("auto", *TREE_FORMS):
        raise ArgumentError(f"trees '{trees}' is none of auto, {', '.join(TREE_FORMS)}.")
    if provider not in PROVIDERS:
        raise ArgumentError(f"provider '{provider}' is none of {', '.join(PROVIDERS)}.")
    given: Any = batch_size
    if not isinstance(given, Integral) or int(given) < 1:
        raise ArgumentError(f"batch_size must be a whole number of at least 1, not {batch_size!r}.")
    memory = memory_at_hand() // 2 if provider == "cpu" else None
    return Serving(trees, provider, int(given), memory)  # type: ignore[arg-type]


def soft_routing(prepared: Prepared, outputs: Sequence[str] | None = None) -> dict[str, Routing]:
    """The nodes that a soft form routes softly: the core on the way to these outputs, or to all.

    Raises:
        UnsupportedError: nothing in the model has a gradient.
    """
    roles = partition(prepared, outputs).roles
    return {name: "soft" for name, role in roles.items() if role == "core"}


def check_temperature(temperature: float | Literal["auto"]) -> float:
    """The temperature as a number.

    Raises:
        ArgumentError: it is not "auto" or a positive number.
    """
    if temperature == "auto":
        return DEFAULT_TEMPERATURE
    given: Any = temperature
    number = isinstance(given, Real) and not isinstance(given, bool)
    if not number or not 0 < float(given) < float("inf"):
        raise ArgumentError(f"temperature {temperature!r} is neither 'auto' nor a positive number.")
    return float(given)


def rewritten(prepared: Prepared, plan: Plan) -> onnx.ModelProto:
    """The prepared model with every node that has a rewrite in standard operators.

    A model whose opset is too old for rewrites comes back as it is.
    """
    if prepared.obstacle is not None:
        _log.warning("left as it is: %s", prepared.obstacle)
        proto = onnx.ModelProto()
        proto.ParseFromString(prepared.source.content)
    else:
        proto, _ = rewrite_model(prepared.proto, plan)
        _tidy(proto)
        mark(proto, "soft" if "soft" in plan.routing.values() else "hard")
    return proto


def rewrite_model(
    proto: onnx.ModelProto, plan: Plan, lists: Mapping[str, ir.Node] | None = None
) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """A rewritten copy of a model with named, typed nodes, and the tensors that were declared.

    `lists` has, by the names of nodes, others that hold the long lists of their attributes.
    """
    model, wrapped = to_ir(proto)
    for node in model.graph:
        held = (lists or {}).get(str(node.name))
        if held is not None:
            node.attributes.update(held.attributes)
    tensors = rewrite_graph(model, plan)
    RemoveUnusedNodesPass()(model)
    return from_ir(model, wrapped), tensors


MapTypes = dict[str, onnx.TypeProto]


def to_ir(proto: onnx.ModelProto) -> tuple[ir.Model, MapTypes]:
    """A model as onnx_ir reads it, and the types that it cannot read, for `from_ir`."""
    lists: list[list[LongList]] = []

    def fill(node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        held = [long_list(attribute) for attribute in node.attribute]
        lists.append([long for long in held if long is not None])
        for attribute, long in zip(node.attribute, held, strict=True):
            if long is None:
                copy.attribute.add().CopyFrom(attribute)

    plain = copy_model(proto, fill)
    wrapped = _take_map_types(plain)
    model = ir.from_proto(plain)
    for node, long_lists in zip(list(model.graph), lists, strict=True):
        for attribute in long_lists:
            node.attributes[attribute.name] = attribute
    return model, wrapped


def from_ir(model: ir.Model, wrapped: MapTypes) -> onnx.ModelProto:
    """Undo `to_ir`."""
    proto = ir.to_proto(model)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in wrapped:
            value.type.CopyFrom(wrapped[value.name])
    return proto


def _take_map_types(proto: onnx.ModelProto) -> MapTypes:
    """Take the types that onnx_ir cannot read (maps and sequences of maps) out of a model."""
    taken = {}
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.HasField("map_type") or value.type.HasField("sequence_type"):
            taken[value.name] = onnx.TypeProto.FromString(value.type.SerializeToString())
            value.ClearField("type")
    return taken


def _tidy(proto: onnx.ModelProto) -> None:
    """Drop imports without nodes, and go to the older IR where that is enough."""
    used = {node.domain for node in _all_nodes(proto)}
    for opset in list(proto.opset_import):
        if opset.domain not in used | {""}:
            set_opset(proto, opset.domain, None)
    ml = opset_of(proto, "ai.onnx.ml") or 0
    if (opset_of(proto) or 0) <= OPSET and ml <= 3 and not proto.functions:
        proto.ir_version = min(proto.ir_version, IR_VERSION)
    proto.ir_version = max(proto.ir_version, OLDEST_IR)


def _all_nodes(proto: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    stack = list(proto.graph.node) + [n for f in proto.functions for n in f.node]
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            stack.extend(attribute.g.node)
            for graph in attribute.graphs:
                stack.extend(graph.node)
