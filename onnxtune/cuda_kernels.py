"""Which nodes of a graph onnxruntime's CUDA provider has a kernel for.

The table is made by benchmarks/cuda_kernels.py. A node whose operator, version or types it lacks
runs on the CPU, between a copy from the GPU and one back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import onnx

from onnxtune.element_types import element_types, formals
from onnxtune.preparation import opset_of
from onnxtune.runtime import value_types
from onnxtune.subgraphs import subgraphs

# Attributes with which onnxruntime keeps a node on the CPU, though there is a kernel; of those with
# a value here, any other one.
_KEPT_ON_CPU: dict[str, dict[str, Any]] = {
    "ArgMax": {"select_last_index": 0},
    "ArgMin": {"select_last_index": 0},
    "RNN": {"activations": [b"Tanh"]},
    "GRU": {"activations": [b"Sigmoid", b"Tanh"]},
    "LSTM": {"activations": [b"Sigmoid", b"Tanh", b"Tanh"]},
}
_RECURRENT = ("activation_alpha", "activation_beta", "clip")


@dataclass(frozen=True)
class Gap:
    """A node without a kernel.

    Attributes:
        name: of the node; of one inside another node's graph, the outer one's name before it.
        operator: with its domain, where that is not the standard one.
        reason: what the provider lacks, such as "no kernel for tensor(string)".
    """

    name: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} '{self.name}': {self.reason}"


@cache
def table() -> dict[str, Any]:
    """The kernels, and the version of onnxruntime that they were read from.

    `kernels` has by domain and operator the kernels, each with its first and its last version
    (`since`, `until`; None for no last one) and its `types`, by the names of the constraints.
    """
    held = resources.files("onnxtune") / "bundled" / "cuda_kernels.json"
    found: dict[str, Any] = json.loads(held.read_text(encoding="utf-8"))
    return found


def gaps(proto: onnx.ModelProto) -> list[Gap]:
    """The nodes of a model that the CUDA provider has no kernel for, in the graph's order.

    Nodes in the graphs of Scan, If and Loop are among them. A type that nobody knows is taken for
    one that there is a kernel for.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    kinds = {name: value.kind for name, value in value_types(proto).items()}
    return [gap for _, gap in node_gaps(proto, kinds)]


def node_gaps(
    proto: onnx.ModelProto, kinds: Mapping[str, str]
) -> Iterator[tuple[onnx.NodeProto, Gap]]:
    """The nodes of the main graph with a gap, in themselves or in a graph of theirs.

    Args:
        proto: the model.
        kinds: the types of the main graph's values, as onnxruntime writes them.
    """
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    functions = {(function.domain, function.name) for function in proto.functions}
    versions[""] = versions.get("", opset_of(proto, "ai.onnx") or 1)
    known = element_types(proto.graph, versions, kinds)
    for node in proto.graph.node:
        for name, inner, types in _with_inner(node, node.name, versions, known):
            local = (inner.domain, inner.op_type) in functions
            reason = "is a function" if local else lack(inner, versions, types)
            if reason is not None:
                yield node, Gap(name, _operator(inner), reason)


def _with_inner(
    node: onnx.NodeProto, name: str, versions: Mapping[str, int], kinds: Mapping[str, str]
) -> Iterator[tuple[str, onnx.NodeProto, Mapping[str, str]]]:
    """A node and those of its graphs, with their names and the types that hold there."""
    yield name, node, kinds
    for graph in subgraphs(node):
        known = element_types(graph, versions, kinds)
        for inner in graph.node:
            yield from _with_inner(inner, f"{name}/{inner.name}", versions, known)


def _operator(node: onnx.NodeProto) -> str:
    standard = node.domain in ("", "ai.onnx")
    return node.op_type if standard else f"{node.domain}:{node.op_type}"


def lack(node: onnx.NodeProto, versions: Mapping[str, int], kinds: Mapping[str, str]) -> str | None:
    """What the provider lacks to run a node; None for nothing.

    Args:
        node: the node; what stands in its graphs is not looked at.
        versions: the opsets, by domain.
        kinds: the types of the values that it reads and makes, as onnxruntime writes them.
    """
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        return None  # an initializer, once the file is loaded
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not table()["kernels"].get(domain, {}).get(node.op_type):
        return "no kernel"
    version = versions.get(domain, 1)
    if not onnx.defs.has(node.op_type, version, domain):
        return None  # an operator of onnxruntime's own, whose types ONNX does not know
    reason = _kept_on_cpu(node)
    if reason is not None:
        return reason
    fitting = kernels_of(node, version)
    if not fitting:
        return f"no kernel at opset {version}"
    types = formals(node, version, domain, kinds)
    lacks = [_lacking(kernel["types"], types) for kernel in fitting]
    return None if None in lacks else min((lack for lack in lacks if lack), key=len)


def _kept_on_cpu(node: onnx.NodeProto) -> str | None:
    kept = _KEPT_ON_CPU.get(node.op_type)
    if kept is None:
        return None
    held = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    wrong = [name for name, value in kept.items() if held.get(name, value) != value]
    if node.op_type in ("RNN", "GRU", "LSTM"):
        ways = 2 if held.get("direction") == b"bidirectional" else 1
        if held.get("activations") == kept["activations"] * ways:
            wrong = []
        wrong += [name for name in _RECURRENT if name in held]
        if node.op_type == "GRU" and not held.get("linear_before_reset"):
            wrong.append("linear_before_reset = 0")
    return f"no kernel with this {wrong[0]}" if wrong else None


def kernels_of(node: onnx.NodeProto, version: int) -> list[dict[str, Any]]:
    """The kernels for the operator of a node, as it is at this version of its domain."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    since = onnx.defs.get_schema(node.op_type, version, domain).since_version
    kernels = table()["kernels"].get(domain, {}).get(node.op_type, ())
    return [kernel for kernel in kernels if _is_for(kernel, since)]


def _is_for(kernel: Mapping[str, Any], since: int) -> bool:
    """onnxruntime takes a kernel without a last version for that version of the operator only."""
    if kernel["until"] is None:
        return bool(kernel["since"] == since)
    return bool(kernel["since"] <= since <= kernel["until"])


def _lacking(allowed: Mapping[str, list[str]], types: Mapping[str, str]) -> str | None:
    wrong = {
        types[name] for name, kinds in allowed.items() if types.get(name, kinds[0]) not in kinds
    }
    return f"no kernel for {', '.join(sorted(wrong))}" if wrong else None
