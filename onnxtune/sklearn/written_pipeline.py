"""Tuned numbers go back into a copy of the fitted pipeline that the model was exported from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxtune import converters
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.estimators import make_ready
from onnxtune.model import ModelLike, load
from onnxtune.result import TuneResult
from onnxtune.runtime import input_types
from onnxtune.saved_form import check_native
from onnxtune.sklearn.base import TunedEstimator
from onnxtune.sklearn.number_places import (
    Change,
    Difference,
    Key,
    Place,
    difference,
    differs,
    paired,
    places,
)
from onnxtune.sklearn.step_export import StepExport, export_steps
from onnxtune.sklearn.step_problems import Problems
from onnxtune.sklearn.steps.registry import find
from onnxtune.sklearn.steps.step import Part
from onnxtune.sklearn.supervision import unmarked
from rewrites.core.rewrite import Array

# How far numbers may be from the tuned ones, over their size: a few roundings to float32.
_TOLERANCE = 1e-6

# What the tensors of a node are called, where that is not the attribute's name.
_ROLES = {
    "nodes_values": "thresholds",
    "class_weights": "leaf_values",
    "target_weights": "leaf_values",
    "imputed_value_floats": "fill",
    "kernel_params": "gamma",
    "values_floats": "values",
    "default_float": "default",
}


_TUNED = (
    "write_back takes a fitted pipeline and what became of its numbers: of a tuned estimator "
    "write_back(tuned.estimator_, tuned.onnx_)."
)


def write_back(fitted_pipeline: Any, result: TuneResult | ModelLike) -> Any:
    """Put the tuned numbers into a copy of the fitted pipeline that was tuned.

    The copy answers as the tuned native model does, up to the roundings of float32. It is exported
    again, and what does not come out as it was tuned is an error.

    Args:
        fitted_pipeline: the estimator or pipeline that was tuned, or whose export was; it stays as
            it is.
        result: what `onnxtune.tune` returned; or the tuned model in its native form, as a path,
            bytes or an `onnx.ModelProto`, where it was `onnxtune.to_onnx` that exported it.

    Returns:
        An estimator of the same class.

    Raises:
        ArgumentError: one is None, or an estimator that tunes.
        UnsupportedError: tuning changed what a step cannot hold, and every such step is named; or
            the model is not in the native form.
        ModelError: the pipeline is not fitted, or the model unreadable.
    """
    for given in (fitted_pipeline, result):
        if given is None or isinstance(given, TunedEstimator):
            raise ArgumentError(_TUNED)
    make_ready(fitted_pipeline)
    written = copy.deepcopy(fitted_pipeline)
    if isinstance(result, TuneResult):
        before, after = unmarked(result.prepared.source.proto), unmarked(result.model("native"))
    else:
        before, after = None, unmarked(check_native(load(result)).proto)
    match = _matched(written, before, after)
    problems = Problems(match.names, _titles(written))
    for node, what in match.found.others.items():
        problems.changed(node, match.owners.get(node), what)
    for key in match.unknown:
        problems.missing(key, match.owners.get(key[0]))
    if match.unknown:
        problems.check()
    for step, part in match.parts():
        family = find(step)
        if family is not None:
            try:
                family.write(step, part)
            except UnsupportedError as error:
                problems.add(step, str(error))
    again = export_steps(written, input_types(after), match.exact)
    for node, what in difference(match.export.proto, again.proto).others.items():
        problems.changed(node, match.export.owners.get(node), what)
    for key in _unlike(match, again.proto):
        problems.left(match.key_of.get(key, key), match.export.owners.get(key[0]))
    problems.check()
    return written


@dataclass(frozen=True)
class _Match:
    """The pipeline's export beside the model that was tuned.

    Attributes:
        export: the pipeline as it came.
        exact: its scalers compute step by step in numbers of this type.
        found: what tuning changed, in the names of the model that was tuned.
        pairs: places there -> places in the export.
        names: place there -> the tensor's name.
        owners: node there -> the step that it comes of.
    """

    export: StepExport
    exact: converters.Digits | None
    found: Difference
    pairs: dict[Key, Key]
    names: dict[Key, str]
    owners: dict[str, Any]

    @property
    def key_of(self) -> dict[Key, Key]:
        """Places in the export -> places there."""
        return {ours: theirs for theirs, ours in self.pairs.items()}

    @property
    def unknown(self) -> list[Key]:
        """Places that changed and are not in the export."""
        return [key for key in self.found.changes if key not in self.pairs]

    @property
    def changes(self) -> dict[Key, Change]:
        """What changed, by places in the export."""
        return {self.pairs[key]: change for key, change in self.found.changes.items()}

    def parts(self) -> list[tuple[Any, Part]]:
        """Each step of which something changed, with what comes of it."""
        owners, changed = self.export.owners, self.changes
        steps = {id(owners[node]): owners[node] for node, _ in changed if node in owners}
        found = []
        for step in steps.values():
            nodes = {n.name: n for n in self.export.proto.graph.node if owners.get(n.name) is step}
            own = {key: change for key, change in changed.items() if key[0] in nodes}
            found.append((step, Part(nodes, own)))
        return found


def _matched(pipeline: Any, before: onnx.ModelProto | None, after: onnx.ModelProto) -> _Match:
    """The export of the pipeline in which everything that changed is found, if there is one."""
    matches = []
    ways = (None, *converters.DIGITS) if converters.scales(pipeline) else (None,)
    for exact in ways:
        export = export_steps(pipeline, input_types(after), exact)
        came = export.proto if before is None else before
        found, there, here = difference(came, after), places(came), places(export.proto)
        pairs = {key: key for key in there} if before is None else paired(there, here)
        owners = {
            node: export.owners[pairs[node, role][0]]
            for node, role in there
            if (node, role) in pairs and pairs[node, role][0] in export.owners
        }
        names = {
            key: place.tensor or f"{key[0]}/{_ROLES.get(place.role, place.role)}"
            for key, place in there.items()
        }
        matches.append(_Match(export, exact, found, pairs, names, owners))
        if not found.others and not matches[-1].unknown:
            break
    return min(matches, key=lambda match: len(match.found.others) + len(match.unknown))


def _unlike(match: _Match, written: onnx.ModelProto) -> list[Key]:
    """Places of the export where the written pipeline does not hold what it should."""
    now, changed = places(written), match.changes
    softmax = {n.name for n in written.graph.node for a in n.attribute if a.s == b"SOFTMAX"}
    wrong = []
    for key, place in places(match.export.proto).items():
        wanted = changed[key].after if key in changed else place.values
        held = now.get(key)
        same = held is not None and held.values.shape == wanted.shape
        if held is None or not same or _is_off(place, wanted, held.values, key[0] in softmax):
            wrong.append(key)
    return wrong


def _is_off(place: Place, wanted: Array, held: Array, softmax: bool) -> bool:
    """Whether numbers differ by more than roundings; thresholds in float32 may not at all.

    Those in float64 may by a rounding to float32: scikit-learn's trees read rows in that.
    """
    if place.role == "nodes_values":
        rounded = 0.0 if wanted.dtype == np.float32 else np.finfo(np.float32).eps
        with np.errstate(invalid="ignore"):  # infinite ones are equal, or differ
            apart = ~(np.abs(wanted - held) <= rounded * np.abs(wanted))
        return bool((apart & differs(wanted, held)).any())
    wanted, held = wanted.astype(np.float64), held.astype(np.float64)
    finite = wanted[np.isfinite(wanted)]
    size = np.sqrt(np.mean(np.square(finite))) if finite.size else 0.0
    if place.role == "base_values" and place.operator == "TreeEnsembleClassifier":
        # These are logits, which some libraries hold as probabilities in float32.
        size = max(size, 1.0)
        if softmax:  # which does not see what all classes have in common
            wanted, held = wanted - wanted.mean(), held - held.mean()
    near = np.abs(wanted - held) <= _TOLERANCE * np.maximum(np.abs(wanted), size)
    return bool((~near & differs(wanted, held)).any())


def _titles(pipeline: Any) -> dict[int, str]:
    """What a step is called in the pipeline, by its identity."""
    named = pipeline.get_params(deep=True) if hasattr(pipeline, "get_params") else {}
    return {id(value): name for name, value in named.items() if hasattr(value, "get_params")}
