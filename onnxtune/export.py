"""Tuned tensors back into the original graph, by name: the native form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxtune.conversion import from_ir, rewritten, soft_routing, to_ir
from onnxtune.errors import ArgumentError
from onnxtune.learned import ir_node
from onnxtune.model import Model, load
from onnxtune.preparation import (
    OLDEST_IR,
    OLDEST_OPSET,
    OPSET,
    Prepared,
    constant_tensor,
    correct_outputs,
    dense_tensor,
    opset_of,
    prepare,
    set_opset,
)
from rewrites.core.attributes import LongList, numbers
from rewrites.core.builder import Builder
from rewrites.core.graph_pass import Plan, replace
from rewrites.core.naming import node_names
from rewrites.core.registry import find
from rewrites.core.rewrite import (
    ANYWHERE,
    PROVIDERS,
    Array,
    Attributes,
    Provider,
    Replacement,
    Rewrite,
    Serving,
)

SavedForm = Literal["native", "hard", "soft"]
SAVED_FORMS: tuple[SavedForm, ...] = ("native", "hard", "soft")


@dataclass(frozen=True)
class Native:
    """The original graph with tuned numbers.

    `changed` counts the numbers that differ, by tensor; `replaced` tells why a node had to be
    replaced, by node.
    """

    proto: onnx.ModelProto
    changed: dict[str, int]
    replaced: dict[str, str]


def native(prepared: Prepared, tensors: Mapping[str, Array], plan: Plan | None = None) -> Native:
    """Write tuned tensors into a copy of the original model.

    Attributes and initializers are overwritten, and only the numbers that changed; all else,
    names and metadata included, stays. Where an operator cannot carry the numbers, that one node
    is replaced.

    Args:
        prepared: the model.
        tensors: learned tensors by ONNX name; others stay.
        plan: how nodes that stand in for one pass rows on; hard without.
    """
    written, replacements = _write(prepared, prepared.source.proto, tensors)
    if not replacements:
        return written
    if (opset_of(written.proto) or 0) < OLDEST_OPSET:
        # The nodes that stand in need a newer opset than the original's.
        written, replacements = _write(prepared, prepared.proto, tensors)
    proto = _replace(prepared, written.proto, replacements, plan or Plan({}, 1.0, {}))
    reasons = {name: replacement.reason for name, replacement in replacements.items()}
    return Native(proto, written.changed, reasons)


def _write(
    prepared: Prepared, base: onnx.ModelProto, tensors: Mapping[str, Array]
) -> tuple[Native, dict[str, Replacement]]:
    """A copy of `base` with the tensors in it, and the nodes that could not take theirs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(base)
    changed: dict[str, int] = {}
    replacements: dict[str, Replacement] = {}
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node, name in zip(proto.graph.node, node_names(base.graph), strict=True):
        constant = constant_tensor(node)
        if constant is not None and _is_tuned(constant, tensors.get(node.output[0])):
            # A list of floats becomes a tensor, which can be written to like an initializer.
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", constant))
            held.setdefault(node.output[0], node.attribute[0].t)
        rewrite = find(node.domain, node.op_type)
        if rewrite is None or not any(key.startswith(f"{name}/") for key in tensors):
            continue
        read = ir_node(prepared, node, name)
        change = _change_of(rewrite, read, tensors)
        if change is None:
            continue
        changed |= change.counts
        if isinstance(change.after, Replacement):
            replacements[name] = change.after
            continue
        for attribute, values in change.after.items():
            _overwrite(node, attribute, change.before[attribute], values)
    for sparse in list(proto.graph.sparse_initializer):
        dense = dense_tensor(sparse, sparse.values.name)
        if _is_tuned(dense, tensors.get(dense.name)):
            # Tuned numbers stand where there were zeros, too.
            proto.graph.sparse_initializer.remove(sparse)
            held[dense.name] = proto.graph.initializer.add()
            held[dense.name].CopyFrom(dense)
    for name, value in tensors.items():
        if name in held:
            count = _overwrite_tensor(held[name], np.asarray(value))
            if count:
                changed[name] = count
    return Native(proto, changed, {}), replacements


def _is_tuned(tensor: onnx.TensorProto, value: Array | None) -> bool:
    return value is not None and _is_moved(tensor, value)


def _is_moved(tensor: onnx.TensorProto, value: Array) -> bool:
    before = numpy_helper.to_array(tensor)
    return bool(_differs(before, np.reshape(value, before.shape)).any())


@dataclass(frozen=True)
class _Change:
    """The attributes of a node before and after; `counts` the numbers that differ, by tensor."""

    counts: dict[str, int]
    before: Attributes
    after: Attributes | Replacement


def _change_of(rewrite: Rewrite, node: ir.Node, tensors: Mapping[str, Array]) -> _Change | None:
    """What tuned tensors change in a node; None for nothing."""
    held = {role: tensor.value for role, tensor in rewrite.tensors(node, None).items()}
    names = {role: f"{node.name}/{role}" for role in held}
    tuned = {role: np.asarray(tensors[n]) for role, n in names.items() if n in tensors}
    moved = {names[role]: int(_differs(held[role], value).sum()) for role, value in tuned.items()}
    counts = {name: count for name, count in moved.items() if count}
    if not counts:
        return None
    before, after = rewrite.harden(node, held), rewrite.harden(node, held | tuned)
    if isinstance(before, Replacement):
        assert isinstance(after, Replacement)  # `before` is what the operator holds now
        before = {}
    return _Change(counts, before, after)


def as_held(prepared: Prepared, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors as the native form holds them: a double threshold may become a float.

    Empty where they are those of the model.
    """
    found: dict[str, Array] = {}
    moved = False
    held = {tensor.name: tensor for tensor in prepared.proto.graph.initializer}
    for node in prepared.proto.graph.node:
        rewrite = find(node.domain, node.op_type)
        if rewrite is None or not any(key.startswith(f"{node.name}/") for key in tensors):
            continue
        read = ir_node(prepared, node)
        change = _change_of(rewrite, read, tensors)
        if change is None:
            continue
        moved = True
        if isinstance(change.after, Replacement):
            continue
        written = _with_numbers(read, change.before, change.after)
        values = {f"{node.name}/{r}": t.value for r, t in rewrite.tensors(written, None).items()}
        found |= {name: value for name, value in values.items() if name in tensors}
    for name, value in tensors.items():
        if name in held:
            moved = moved or _is_moved(held[name], value)
    return {**tensors, **found} if moved else {}


def _with_numbers(
    node: ir.Node, before: Mapping[str, Array], after: Mapping[str, Array]
) -> ir.Node:
    """A copy of a node with other numbers in its attributes, in the types that these have."""
    attributes = dict(node.attributes)
    for name, values in after.items():
        own = name if name in attributes else f"{name}_as_tensor"
        if own not in attributes:
            attributes[name] = ir.AttrFloat32(name, float(np.ravel(values)[0]))
            continue
        attribute = attributes[own]
        tensor = attribute.type == ir.AttributeType.TENSOR
        held = attribute.as_tensor().numpy() if tensor else numbers(node, own, np.float32)
        held = np.array(held).ravel()
        moved = np.flatnonzero(_differs(before[name], values))
        held[moved] = np.ravel(values)[moved]
        if attribute.type == ir.AttributeType.FLOAT:
            attributes[own] = ir.AttrFloat32(own, float(held[0]))
        elif attribute.type == ir.AttributeType.FLOATS:
            attributes[own] = LongList(own, attribute.type, held)
        else:
            attributes[own] = ir.AttrTensor(own, ir.tensor(held))
    inputs, outputs = list(node.inputs), len(node.outputs)
    return ir.Node(
        node.domain, node.op_type, inputs, attributes.values(), num_outputs=outputs, name=node.name
    )


def _overwrite(node: onnx.NodeProto, name: str, before: Array, after: Array) -> None:
    """Write the numbers of an attribute that differ from the untouched ones.

    One that is not there is a single number, whose default stands for it.
    """
    attributes = {attribute.name: attribute for attribute in node.attribute}
    absent = name not in attributes and f"{name}_as_tensor" not in attributes
    if absent or (name in attributes and attributes[name].type == onnx.AttributeProto.FLOAT):
        if _differs(np.asarray(before), np.asarray(after)).any():
            number = onnx.helper.make_attribute(name, float(np.ravel(after)[0]))
            if absent:
                attributes[name] = node.attribute.add()
            attributes[name].CopyFrom(number)
        return
    if name in attributes and attributes[name].type == onnx.AttributeProto.FLOATS:
        attribute = attributes[name]
        values = np.array(attribute.floats, np.float32)
        moved = np.flatnonzero(_differs(before, after))
        values[moved] = np.asarray(after)[moved].astype(np.float32)
        del attribute.floats[:]
        attribute.floats.extend(values.tolist())
        return
    held = attributes.get(name) or attributes[f"{name}_as_tensor"]
    tensor = held.t
    values = numpy_helper.to_array(tensor).copy()
    moved = np.flatnonzero(_differs(before, after))
    values.ravel()[moved] = np.asarray(after)[moved].astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _differs(before: Array, after: Array) -> Array:
    """Where two arrays hold different numbers; NaN stands for "leave it" in both."""
    return np.asarray((before != after) & ~(np.isnan(before) & np.isnan(after)))


def _overwrite_tensor(tensor: onnx.TensorProto, value: Array) -> int:
    """Write the numbers that differ; returns how many."""
    before = numpy_helper.to_array(tensor)
    after = value.astype(before.dtype).reshape(before.shape)
    moved = _differs(before, after)
    if moved.any():
        result = np.where(moved, after, before)
        tensor.CopyFrom(numpy_helper.from_array(result, tensor.name))
    return int(moved.sum())


def _replace(
    prepared: Prepared,
    proto: onnx.ModelProto,
    replacements: Mapping[str, Replacement],
    plan: Plan,
) -> onnx.ModelProto:
    """Put standard nodes in the place of those that cannot carry their numbers."""
    names = node_names(proto.graph)
    correct_outputs(proto, prepared.types)
    if opset_of(proto) is None:
        set_opset(proto, "", OPSET)
    model, wrapped = to_ir(proto)
    for node, name in zip(list(model.graph), names, strict=True):
        if name not in replacements:
            continue
        for value in node.inputs:
            if value is not None and value.name is not None and value.type is None:
                known = prepared.type_of(value.name)
                value.type = ir.TensorType(ir.DataType.from_numpy(known.dtype))
        builder = Builder(
            name,
            {},
            plan.routing.get(name, "hard"),
            plan.temperature,
            plan.spreads.get(name),
            opset=opset_of(proto) or OPSET,
        )
        replace(model.graph, node, builder, replacements[name].build(builder))
    done = from_ir(model, wrapped)
    done.ir_version = max(done.ir_version, OLDEST_IR)
    return done


def written(
    prepared: Prepared,
    tensors: Mapping[str, Array],
    form: SavedForm,
    temperature: float,
    spreads: Mapping[str, Array],
    outputs: Sequence[str],
    provider: Provider = "cpu",
) -> onnx.ModelProto:
    """A model with tuned tensors, in one of its three forms.

    Hard and soft are made from the native one, so that all three hold the same numbers. The soft
    form is soft on the way to `outputs`, those that were tuned. For a GPU, `cuda_form.finish` has
    still to see to it.

    Raises:
        ArgumentError: no such form or provider, or the native form for a GPU.
    """
    serving = check_saved(form, provider)
    soft = form == "soft"
    routing = soft_routing(prepared, outputs) if soft else {}
    tuned = native(prepared, tensors, Plan(routing, temperature, spreads))
    if form == "native":
        return tuned.proto
    again = prepare(load(tuned.proto)) if tuned.changed else prepared
    routing = soft_routing(again, outputs) if soft else {}
    # A node that stands in for another is called `<node>/...`, and reads what that one read.
    known = dict(spreads)
    for node in again.proto.graph.node:
        stem = node.name.rsplit("/", 1)[0]
        if node.name not in known and stem in known:
            known[node.name] = known[stem]
    return rewritten(again, Plan(routing, temperature, known, serving=serving))


def check_saved(form: str, provider: str) -> Serving:
    """Where a form is to run.

    Raises:
        ArgumentError: no such form or provider, or the native form for a GPU.
    """
    if form not in SAVED_FORMS:
        raise ArgumentError(f"Form '{form}' is none of {', '.join(SAVED_FORMS)}.")
    if provider not in PROVIDERS:
        raise ArgumentError(f"provider '{provider}' is none of {', '.join(PROVIDERS)}.")
    if form == "native" and provider == "cuda":
        raise ArgumentError(
            "The native form keeps operators that no GPU runs; with provider 'cuda' choose the "
            "form 'hard' or 'soft'."
        )
    return Serving(provider="cuda") if provider == "cuda" else ANYWHERE


def with_metadata(proto: onnx.ModelProto, source: Model, facts: Mapping[str, str]) -> None:
    """Add `onnxtune.*` entries to a model's metadata, and bring over those of its source."""
    entries = {entry.key: entry.value for entry in source.proto.metadata_props}
    entries |= {entry.key: entry.value for entry in proto.metadata_props}
    entries |= {f"onnxtune.{key}": value for key, value in facts.items()}
    del proto.metadata_props[:]
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
