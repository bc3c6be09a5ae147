"""A torch module whose parameters are the learned tensors of an ONNX model, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxtune.caching import Border, Settled
from onnxtune.calibration import node_spreads
from onnxtune.columns import check_batch
from onnxtune.comparisons import soften_comparisons, step_unit
from onnxtune.constraints import constraint_of
from onnxtune.conversion import check_temperature, rewrite_model
from onnxtune.data import load as load_data
from onnxtune.errors import ArgumentError
from onnxtune.export import SavedForm, written
from onnxtune.learned import ir_node, node_tensors, tensor_value
from onnxtune.links import Source, find_source
from onnxtune.model import ModelLike, load
from onnxtune.neighbours import soften_neighbours
from onnxtune.partition import Partition, partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.runtime import input_types, run, session
from onnxtune.saved_form import check_native
from onnxtune.subgraphs import reads
from onnxtune.torch_graph import CoreGraph, to_fx
from rewrites.core.graph_pass import Plan
from rewrites.core.linear import weight_unit
from rewrites.core.rewrite import Array, Routing
from rewrites.core.rewrite import Tensor as Learned

ROUTINGS: tuple[Routing, ...] = ("soft", "straight-through", "hard")


def to_torch(
    model: ModelLike,
    routing: Routing = "soft",
    *,
    temperature: float | str = "auto",
    data: Any = None,
    output: str | Sequence[str] | None = None,
    sample: Any = None,
) -> OnnxModule:
    """The tunable core of a model as a torch module.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        routing: how trees pass rows on, and learned thresholds decide: "soft" by sigmoids,
            "straight-through" by steps with a sigmoid's gradient, "hard" by steps without.
        temperature: width of a soft gate in units of its feature's spread; "auto" is 0.1.
        data: rows to measure the spreads on; without, the spread of a feature's thresholds
            stands for it.
        output: a float output of the model, or several; None takes all.
        sample: rows like those an estimator was fitted on; None takes the data.

    Raises:
        ModelError: the model is unreadable or invalid.
        ArgumentError: no such routing, temperature or output.
        UnsupportedError: nothing can be tuned; the message names the node in the way.
    """
    width = check_temperature(temperature)  # type: ignore[arg-type]
    prepared = prepare(check_native(load(model, data if sample is None else sample)))
    outputs = [output] if isinstance(output, str) else output
    cut = partition(prepared, outputs)
    spreads = {} if data is None else node_spreads(prepared, data)
    return OnnxModule(prepared, cut, spreads, routing, width, sharing=True)


class OnnxModule(nn.Module):
    """The core of a model: from the values that its prefix computes to its float outputs.

    `forward` takes the core's inputs in the order of `input_names` and returns output name ->
    tensor; `predict` takes what the model itself takes. A tensor that ONNX uses in two places is
    one parameter. `routing` and `temperature` may be set at any time.
    """

    def __init__(
        self,
        prepared: Prepared,
        cut: Partition,
        spreads: Mapping[str, Array],
        routing: Routing,
        temperature: float,
        sharing: bool = False,
    ) -> None:
        """Use `to_torch`, which makes the parts.

        Without `sharing` neighbours and votes are what they are in files, in soft routing too, and
        only their gradients are those of shares.
        """
        super().__init__()
        self.prepared = prepared
        self.cut = cut
        self.spreads = dict(spreads)
        self.input_names = tuple(value.name for value in cut.inputs)
        self.learned = learned_tensors(prepared, cut, spreads)
        self._escaped = {name: f"tensor_{i}" for i, name in enumerate(self.learned)}
        self._values = nn.ParameterDict(
            {
                self._escaped[name]: nn.Parameter(torch.from_numpy(np.array(tensor.value)))
                for name, tensor in self.learned.items()
            }
        )
        self._graphs = nn.ModuleDict()
        self._links: dict[str, dict[str, Source]] = {}
        self._prefix: Any = None
        self._temperature = temperature
        self._routing: Routing = "soft"
        self._sharing = sharing
        self.routing = routing
        self.register_state_dict_post_hook(_to_onnx_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_onnx_names)  # type: ignore[no-untyped-call]

    @property
    def routing(self) -> Routing:
        """How trees pass rows on.

        Raises:
            ArgumentError: on setting one that does not exist.
        """
        return self._routing

    @routing.setter
    def routing(self, routing: Routing) -> None:
        if routing not in ROUTINGS:
            raise ArgumentError(f"Routing '{routing}' is none of {', '.join(ROUTINGS)}.")
        if routing not in self._graphs:
            self._graphs[routing] = self._build(routing)
        self._routing = routing

    @property
    def temperature(self) -> float:
        """Width of the soft gates in units of their features' spread.

        Raises:
            ArgumentError: on setting one that is not positive.
        """
        return self._temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self._temperature = check_temperature(temperature)

    @property
    def links(self) -> dict[str, Source]:
        """Output name -> its link function and the value in front of it, for the routing set."""
        return self._links[self._routing]

    def tensors(self) -> dict[str, nn.Parameter]:
        """Every learned tensor by its ONNX name."""
        return {name: self._values[escaped] for name, escaped in self._escaped.items()}

    def load_tensors(self, tensors: Mapping[str, Array | Tensor]) -> None:
        """Copy values into the learned tensors.

        Raises:
            ArgumentError: a name that is not there, or another shape.
        """
        own = self.tensors()
        with torch.no_grad():
            for name, value in tensors.items():
                if name not in own:
                    raise ArgumentError(f"'{name}' is no learned tensor of this model.")
                new = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
                if new.shape != own[name].shape:
                    raise ArgumentError(
                        f"'{name}' has shape {tuple(own[name].shape)}, not {tuple(new.shape)}."
                    )
                own[name].copy_(new)

    def freeze(self, pattern: str) -> list[str]:
        """Take the tensors whose ONNX names match a glob out of training; returns their names.

        Raises:
            ArgumentError: it matches none; the message lists the names.
        """
        return self._set_trainable(pattern, False)

    def unfreeze(self, pattern: str) -> list[str]:
        """Undo `freeze` for the tensors that match; returns their names.

        Raises:
            ArgumentError: it matches none; the message lists the names.
        """
        return self._set_trainable(pattern, True)

    def _set_trainable(self, pattern: str, trainable: bool) -> list[str]:
        names = matching(pattern, self._escaped)
        own = self.tensors()
        for name in names:
            own[name].requires_grad_(trainable)
        return names

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Core inputs, each with the rows first -> output name -> tensor."""
        values = self.evaluate(inputs, self.tensors())
        return {name: values[value] for name, value in self.cut.outputs.items()}

    def evaluate(
        self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Like `forward` with these tensors in place of the parameters.

        Returns:
            ONNX value name -> tensor, for the outputs and the values in front of their links.
        """
        graph = cast(CoreGraph, self._graphs[self._routing])
        found = graph(*inputs, *self._others(graph, tensors))
        return dict(zip(graph.value_names, found, strict=True))

    def _others(self, graph: CoreGraph, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """What a graph takes beside the core's inputs."""
        slopes = [getattr(graph, name) / self._temperature for name in graph.slope_names]
        return [*(tensors[name] for name in self._escaped), *slopes]

    def settled(self, inputs: Sequence[Tensor], trained: Collection[str]) -> Settled:
        """What does not depend on the trained tensors, computed once for these rows.

        It belongs to the routing and the temperature that are set, and to the values that the
        other tensors have now.
        """
        graph = cast(CoreGraph, self._graphs[self._routing])
        others = self._others(graph, self.tensors())
        moved = [name in trained for name in self._escaped] + [False] * len(graph.slope_names)
        border = Border(graph.graph, inputs, others, moved)
        return border.settle(inputs)

    def evaluate_settled(
        self, settled: Settled, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Like `evaluate` from there on, with the routing that was set then."""
        graph = cast(CoreGraph, self._graphs[self._routing])
        found = settled.border.follow(settled.values, self._others(graph, tensors))
        return dict(zip(graph.value_names, found, strict=True))

    def predict(self, data: Any) -> dict[str, Tensor]:
        """The model's own inputs -> output name -> tensor with gradient.

        Args:
            data: anything `onnxtune.data.load` takes.

        Raises:
            DataError: the data do not fit the model.
        """
        return cast(dict[str, Tensor], self(*self.to_tensors(self.core_inputs(data))))

    def model(self, form: SavedForm = "native") -> onnx.ModelProto:
        """The model with the module's tensors in it, by name.

        Args:
            form: "native" (the original graph), or "hard" or "soft" (standard operators).

        Raises:
            ArgumentError: no such form.
        """
        values = {name: np.array(t.detach().cpu().numpy()) for name, t in self.tensors().items()}
        outputs = list(self.cut.outputs)
        return written(self.prepared, values, form, self._temperature, self.spreads, outputs)

    def __getstate__(self) -> dict[str, Any]:
        """Without the prefix's session, which cannot be copied and is made again."""
        return {**self.__dict__, "_prefix": None}

    def core_inputs(self, data: Any) -> list[Array]:
        """Run the prefix: what `predict` takes -> the arrays that enter the core.

        Raises:
            DataError: the data do not fit the model.
        """
        inputs = input_types(self.prepared.source.proto)
        feed = load_data(data, inputs, allow_empty=True).feed
        if self.cut.prefix is not None:
            check_batch(inputs, feed, self.prepared.source.origin)
        return self.run_prefix(feed)

    def run_prefix(self, feed: Mapping[str, Array]) -> list[Array]:
        """Like `core_inputs`, of a feed as `onnxtune.data.load` makes it."""
        if self.cut.prefix is None:
            return [np.asarray(feed[name]) for name in self.input_names]
        if self._prefix is None:
            self._prefix = session(self.cut.prefix)
        taken = {value.name for value in self._prefix.get_inputs()}
        made = run(self._prefix, {name: a for name, a in feed.items() if name in taken})
        return [np.asarray(made[n] if n in made else feed[n]) for n in self.input_names]

    def to_tensors(self, arrays: Sequence[Array]) -> list[Tensor]:
        """Arrays as tensors on the module's device."""
        device = next(iter(self._values.values())).device
        return [torch.as_tensor(np.ascontiguousarray(array), device=device) for array in arrays]

    def _build(self, routing: Routing) -> nn.Module:
        trees = {
            name.rsplit("/", 1)[0]
            for name, tensor in self.learned.items()
            if tensor.group in ("thresholds", "leaves")
        }
        # Elsewhere "hard" is the kernels' arithmetic, which may lack a gradient.
        routings: dict[str, Routing] = {
            name: routing if name in trees else "soft" for name in self.cut.roles
        }
        plan = Plan(routings, 1.0, self.spreads, for_torch=True)
        read = {
            node.name: ir_node(self.prepared, node)
            for node in self.prepared.proto.graph.node
            if node.domain == "ai.onnx.ml" and self.cut.roles[node.name] == "core"
        }
        proto, _ = rewrite_model(self.cut.core, plan, read)
        # Leaves are trained with hard routing, and may stand before votes.
        if routing != "hard" or (trees and not self._sharing):
            straight = not (self._sharing and routing == "soft")
            steps = {} if routing == "hard" else self.cut.thresholds
            units = {node: _step(self.prepared, node, t, self.spreads) for node, t in steps.items()}
            soften_comparisons(proto, steps, units, self.cut.truths, straight)
            soften_neighbours(proto, straight, self.cut.truths)
        links = {name: find_source(proto.graph, v) for name, v in self.cut.outputs.items()}
        self._links[routing] = links
        sources = [source.value for source in links.values()]
        values = list(dict.fromkeys([*self.cut.outputs.values(), *sources]))
        graph = to_fx(proto, self.input_names, tuple(self._escaped), values)
        return graph.to(next(iter(self._values.values())).device)


def learned_tensors(
    prepared: Prepared, cut: Partition, spreads: Mapping[str, Array]
) -> dict[str, Learned]:
    """The tunable tensors of a partition, in the order of the graph."""
    declared: dict[str, Learned] = {}
    for node in prepared.proto.graph.node:
        if cut.roles[node.name] == "core" and node.name not in cut.refused:
            declared |= node_tensors(prepared, node, spreads.get(node.name))
    found = {}
    for name in cut.tensors:
        if name in declared:
            found[name] = declared[name]
        else:
            found[name] = _initializer(prepared, cut, name, spreads)
    return found


def _initializer(
    prepared: Prepared, cut: Partition, name: str, spreads: Mapping[str, Array]
) -> Learned:
    """A learned initializer of a standard node, its unit taken from what it meets there."""
    value = tensor_value(prepared, name)
    for held, threshold in cut.thresholds.items():
        if threshold == name:
            return Learned(value, "thresholds", _step(prepared, held, name, spreads))
    node = next(node for node in cut.core.graph.node if name in reads(node))
    spread = spreads.get(node.name)
    size = float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))) or 1.0
    bound = constraint_of(cut.core.graph, name, value)
    if bound is not None:
        return Learned(value, "weights", size, bound)
    if node.op_type in ("MatMul", "Gemm") and value.ndim <= 2 and node.input[1] == name:
        rows = value.reshape(len(value), -1).T
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        if turned:
            return Learned(value, "weights", weight_unit(value, spread))
        return Learned(value, "weights", weight_unit(rows, spread).T.reshape(value.shape))
    if node.op_type in ("Add", "Sub") and spread is not None and value.shape[-1:] == spread.shape:
        return Learned(value, "offsets", np.where(spread > 0, spread, size))
    return Learned(value, "weights", size)


def _step(
    prepared: Prepared, node: str, threshold: str, spreads: Mapping[str, Array]
) -> Array | float:
    return step_unit(tensor_value(prepared, threshold), spreads.get(node))


def matching(pattern: str, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The names that match a glob.

    Raises:
        ArgumentError: none does.
    """
    found = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise ArgumentError(f"'{pattern}' matches no learned tensor; there are {', '.join(names)}.")
    return found


def _to_onnx_names(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, escaped in cast(OnnxModule, module)._escaped.items():
        state[prefix + name] = state.pop(f"{prefix}_values.{escaped}")


def _from_onnx_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, escaped in cast(OnnxModule, module)._escaped.items():
        if prefix + name in state:
            state[f"{prefix}_values.{escaped}"] = state.pop(prefix + name)
