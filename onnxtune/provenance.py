"""Which column of which input a node reads: the values of a graph, traced back to its inputs.

Only the ways by which tables reach their models are followed: columns picked, joined, cast and
moved by constants. What comes out of any other node is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxtune.flow import Array, Flow, Forest, Trace, attributes_of
from onnxtune.runtime import ValueType, input_types


def trace(model: onnx.ModelProto) -> Trace:
    """Follow the inputs of the main graph forwards; subgraphs and functions are not entered."""
    inputs = input_types(model)
    constants = _constants(model.graph)
    widths = {value.name: width for value in inputs if (width := _declared_width(value))}
    while True:
        seen = _walk(model, inputs, widths, constants)
        unknown = [value.name for value in inputs if value.name not in widths]
        if not unknown:
            return seen
        told = seen.needed | seen.wanted  # an exact width wins over one that is large enough
        found = {name: told[name] for name in unknown if name in told}
        widths |= found or dict.fromkeys(unknown, 1)


def _declared_width(value: ValueType) -> int | None:
    sizes = (value.shape or (None, None))[1:]
    if len(sizes) == 1:
        return sizes[0]
    return int(np.prod([size or 1 for size in sizes]))


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            value = next(iter(attributes_of(node).values()), None)
            if isinstance(value, int | float | list | np.ndarray):
                found[node.output[0]] = np.asarray(value)
    return found


def _walk(
    model: onnx.ModelProto,
    inputs: list[ValueType],
    widths: dict[str, int],
    constants: dict[str, Array],
) -> Trace:
    seen = Trace(inputs, widths, constants)
    flows: dict[str, Flow | None] = {}
    for value in inputs:
        if len(value.shape or ()) <= 2:
            flows[value.name] = _plain(np.array(seen.columns(value), np.int64))
            if value.name not in widths:
                flows[value.name] = replace(_plain(np.zeros(0, np.int64)), whole=value.name)
    for node in model.graph.node:
        held = [flows.get(name) for name in node.input]
        if any(held):
            follow = _FOLLOWERS.get(node.op_type, _unknown)
            flows.update(zip(node.output, follow(seen, node, held), strict=False))
    return seen


def _plain(source: Array, filled: bool = False) -> Flow:
    size = len(source)
    return Flow(source, np.ones(size), np.zeros(size), np.full(size, filled))


Held = list[Flow | None]
Follower = Callable[[Trace, onnx.NodeProto, Held], Iterable[Flow | None]]


def _unknown(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    for flow in held:
        if flow is not None:
            seen.read(flow)
    return []


def _same(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    return held[:1]


def _cast(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    flow = held[0]
    target = onnx.TensorProto.DataType.Name(int(attributes_of(node).get("to", 1)))
    if flow is None or target == "STRING":
        return [flow]
    known = flow.take((flow.source >= 0) & flow.unmoved)
    _encode(seen, known.take(seen.text[known.source]), ["-3", "0", "1", "12"], closed=True)
    if "INT" in target:  # NaN has no integer
        seen.poisoned[flow.source[(flow.source >= 0) & ~flow.filled]] = True
    return [flow]


def _reshape(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    flow, shape = held[0], seen.constants.get(node.input[1]) if len(node.input) > 1 else None
    if flow is None or shape is None:
        return _unknown(seen, node, held)
    sizes = shape.ravel().tolist()
    row = int(np.prod([size for size in sizes[1:] if size > 0]))
    free = any(size in (0, -1) for size in sizes[1:])
    if flow.whole is not None and sizes[:1] == [-1] and not free:
        seen.want(flow, row)
    if sizes[:1] in ([0], [-1]) and (row == flow.width or free):
        return [flow]
    return _unknown(seen, node, held)


def _flatten(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    return held[:1] if attributes_of(node).get("axis", 1) == 1 else _unknown(seen, node, held)


def _join(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    across = node.op_type == "FeatureVectorizer" or attributes_of(node).get("axis", 1) in (1, 2, -1)
    joined = [flow for flow in held if flow is not None and flow.whole is None]
    if not across or len(joined) < len(held):
        return _unknown(seen, node, held)
    return [
        Flow(
            np.concatenate([flow.source for flow in joined]),
            np.concatenate([flow.scale for flow in joined]),
            np.concatenate([flow.offset for flow in joined]),
            np.concatenate([flow.filled for flow in joined]),
        )
    ]


def _pick(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """ArrayFeatureExtractor, and Gather along the columns or of rows of a constant."""
    flow, picked = held[0], seen.constants.get(node.input[1])
    axis = -1 if node.op_type == "ArrayFeatureExtractor" else attributes_of(node).get("axis", 0)
    if flow is None or picked is None or axis not in (1, -1):
        table, index = seen.constants.get(node.input[0]), held[1]
        if table is not None and table.ndim and index is not None and axis in (0, -1):
            size = table.shape[axis]
            _encode(seen, index, np.arange(size), closed=True)
        return _unknown(seen, node, held)
    columns = picked.astype(np.int64).ravel()
    seen.need(flow, int(columns.max(initial=0)) + 1)
    if flow.whole is not None or columns.max(initial=0) >= flow.width:
        return _unknown(seen, node, held)
    return [flow.take(columns)]


def _slice(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    flow, bounds = held[0], [seen.constants.get(name) for name in node.input[1:]]
    known = [int(bound.ravel()[0]) for bound in bounds if bound is not None and bound.size == 1]
    if flow is None or flow.whole is not None or len(known) < max(3, len(bounds)):
        return _unknown(seen, node, held)
    start, end, axis, *step = known
    return [flow.take(slice(start, end, *step))] if axis in (1, -1) else _unknown(seen, node, held)


def _affine(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """Add, Sub, Mul, Div of a traced value and a constant that is one row."""
    flow, other = (held[0], node.input[1]) if held[0] is not None else (held[1], node.input[0])
    constant, kind, left = seen.constants.get(other), node.op_type, held[0] is None
    if flow is None or constant is None or constant.dtype.kind not in "fiu":
        alone = next((f for f in held if f is not None and f.whole is not None), None)
        return [alone] if alone is not None else _unknown(seen, node, held)
    row = constant.astype(np.float64).ravel()
    if row.size > 1:
        seen.want(flow, row.size)
    plain_row = row.size == (constant.shape[-1] if constant.ndim else 1)
    fits = 1 in (row.size, flow.width) or row.size == flow.width
    if flow.whole is not None:
        return [flow]
    if not plain_row or not fits or (kind == "Div" and left):
        return _unknown(seen, node, held)
    flow = flow.take(np.zeros(row.size, np.int64)) if flow.width == 1 else flow
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = {"Mul": row, "Div": 1 / row}.get(
            kind, np.float64(-1 if left and kind == "Sub" else 1)
        )
        moved = {"Add": row, "Sub": row if left else -row}.get(kind, np.float64(0))
        return [replace(flow, scale=flow.scale * factor, offset=flow.offset * factor + moved)]


def _scaler(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    attributes, flow = attributes_of(node), held[0]
    offset = np.asarray(attributes.get("offset", np.zeros(1)), np.float64)
    scale = np.asarray(attributes.get("scale", np.ones(1)), np.float64)
    width = max(offset.size, scale.size)
    if flow is None or (width > 1 and flow.width != width):
        if flow is not None and width > 1:
            seen.want(flow, width)
        return _unknown(seen, node, held)
    return [replace(flow, scale=flow.scale * scale, offset=(flow.offset - offset) * scale)]


def _imputer(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    attributes, flow = attributes_of(node), held[0]
    if flow is None:
        return []
    values = attributes.get("imputed_value_floats", attributes.get("imputed_value_int64s", ()))
    seen.want(flow, len(values) if len(values) > 1 else 0)
    missing = attributes.get("replaced_value_float", attributes.get("replaced_value_int64", 0))
    source = flow.source[flow.source >= 0]
    if np.isnan(missing):
        seen.routes_nan[source] = True
        return [replace(flow, filled=np.ones(flow.width, bool))]
    for column in source.tolist():
        seen.specials.setdefault(column, []).append(float(missing))
    return [flow]


def _is_nan(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    if held[0] is not None:
        seen.routes_nan[held[0].source[held[0].source >= 0]] = True
    return []


def _compare(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """Less, Greater, Equal and Binarizer: a threshold, or a category that is looked for."""
    flow = next((flow for flow in held if flow is not None), None)
    if node.op_type == "Binarizer":
        limit: Array | None = np.float32(attributes_of(node).get("threshold", 0)).reshape(1)
    else:
        limit = seen.constants.get(node.input[1] if held[0] is not None else node.input[0])
    if flow is not None and limit is not None:
        if limit.dtype.kind in "OSU":
            _encode(seen, flow, map(str, limit.ravel().tolist()))
        elif limit.dtype.kind in "fiu":
            seen.want(flow, limit.size if limit.size > 1 and flow.width != 1 else 0)
            row = limit.ravel()
            columns = np.arange(flow.width) if row.size in (1, flow.width) else np.zeros_like(row)
            seen.split(flow, columns.astype(np.int64), row)
    return _unknown(seen, node, held)


def _trees(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    attributes, flow = attributes_of(node), held[0]
    if flow is None:
        return []
    feature = np.asarray(attributes.get("nodes_featureids", ()), np.int64)
    limit = attributes.get("nodes_values_as_tensor", attributes.get("nodes_values"))
    branch = np.ones(feature.shape, bool)
    if node.op_type == "TreeEnsemble":
        limit = attributes["nodes_splits"]
    else:
        branch = np.array(attributes["nodes_modes"]) != "LEAF"
    if limit is None or not branch.any():
        return []
    feature = feature[branch]
    seen.need(flow, int(feature.max()) + 1)
    if flow.whole is not None or feature.max() >= flow.width:
        return []
    seen.split(flow, feature, limit[branch])
    used = flow.take(np.unique(feature))
    used = used.take(used.source >= 0)
    seen.raw[used.source[used.unmoved]] = True
    seen.moved[used.source[~used.unmoved]] = True
    if np.any(attributes.get("nodes_missing_value_tracks_true", 0)):
        seen.routes_nan[used.source] = True
    if node.op_type != "TreeEnsemble":
        seen.forests.append(Forest(flow, attributes, limit))
    return []


def _encode(seen: Trace, flow: Flow, values: Iterable[Any], closed: bool = False) -> None:
    known = list(values)
    for column, same in zip(flow.source.tolist(), flow.unmoved.tolist(), strict=True):
        if column >= 0 and same:
            seen.categories.setdefault(column, []).extend(known)
        if column >= 0 and closed:
            seen.closed.add(column)


def _encoder(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """OneHotEncoder, LabelEncoder, CategoryMapper, TfIdfVectorizer: values known by name."""
    attributes, flow = attributes_of(node), held[0]
    if flow is None:
        return []
    known: list[Any] = []
    for name in _KNOWN:
        known += np.asarray(attributes.get(name, ())).ravel().tolist()
    if any(isinstance(value, float) and np.isnan(value) for value in known):
        seen.routes_nan[flow.source[flow.source >= 0]] = True
    one_hot = node.op_type == "OneHotEncoder"
    _encode(seen, flow, known, closed=one_hot and not attributes.get("zeros", 1))
    if flow.whole is not None or node.op_type == "TfIdfVectorizer":
        return []
    if one_hot:
        return [_plain(np.full(flow.width * len(known), -1))]
    code = np.full(flow.width, np.nan)
    return [Flow(flow.source, code, code, filled=np.ones(flow.width, bool))]


_KNOWN = (
    "cats_strings",
    "cats_int64s",
    "keys_strings",
    "keys_int64s",
    "keys_floats",
    "keys_tensor",
    "classes_strings",
    "pool_strings",
)


def _weights(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """Linear and support vector models: of linear ones only the widths matter."""
    attributes, flow = attributes_of(node), held[0]
    if flow is not None:
        held_by = "support_vectors" if len(attributes.get("support_vectors", ())) else ""
        numbers = attributes.get(held_by or "coefficients", ())
        models = _models(attributes, held_by)
        seen.want(flow, len(numbers) // max(1, models))
        if held_by and models > 1 and len(numbers) == models * flow.width:
            _near(seen, flow, numbers.reshape(models, -1))
    return _unknown(seen, node, held)


def _product(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """MatMul and Gemm: again only the widths."""
    attributes, flow, weight = attributes_of(node), held[0], seen.constants.get(node.input[1])
    _unknown(seen, node, held)
    if flow is None or weight is None or weight.ndim != 2 or attributes.get("transA"):
        return []
    inner, outer = weight.shape[::-1] if attributes.get("transB") else weight.shape
    seen.want(flow, inner)
    return [_plain(np.full(outer, -1))]


def _blurred(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """As many columns, of which nothing else is known."""
    _unknown(seen, node, held)
    flow = held[0]
    return [] if flow is None or flow.whole is not None else [_plain(np.full(flow.width, -1))]


def _models(attributes: dict[str, Any], held_by: str) -> int:
    """How many vectors of the inputs' width the numbers of a linear or vector model make."""
    if held_by:
        per_class = attributes.get("vectors_per_class", attributes.get("n_supports", 1))
        return int(np.sum(per_class))
    classes = [len(attributes.get(f"classlabels_{kind}", ())) for kind in ("ints", "strings")]
    return (
        int(attributes.get("targets", 0)) or len(attributes.get("intercepts", ())) or max(classes)
    )


def _neighbours(seen: Trace, node: onnx.NodeProto, held: Held) -> Held:
    """Distances to the rows of a constant: data belong where those are."""
    for flow in held:
        for rows in (seen.constants.get(name) for name in node.input):
            if flow is None or rows is None or rows.ndim != 2 or rows.dtype.kind != "f":
                continue
            seen.want(flow, rows.shape[1])
            if flow.width == rows.shape[1]:
                _near(seen, flow, rows)
    return _unknown(seen, node, held)


def _near(seen: Trace, flow: Flow, rows: Array) -> None:
    """Data belong where these rows are."""
    spread = rows.std(axis=0) + 1e-12
    centred = (flow.offset - rows.mean(axis=0)) / spread
    seen.read(replace(flow, scale=flow.scale / spread, offset=centred))


_FOLLOWERS: dict[str, Follower] = {
    **dict.fromkeys(
        ("Identity", "Dropout", "Squeeze", "Unsqueeze", "StringNormalizer", "Tokenizer"), _same
    ),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _affine),
    **dict.fromkeys(("Concat", "FeatureVectorizer"), _join),
    **dict.fromkeys(("ArrayFeatureExtractor", "Gather"), _pick),
    **dict.fromkeys(
        ("Binarizer", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"), _compare
    ),
    **dict.fromkeys(("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble"), _trees),
    **dict.fromkeys(
        ("OneHotEncoder", "LabelEncoder", "CategoryMapper", "TfIdfVectorizer"), _encoder
    ),
    **dict.fromkeys(
        ("LinearRegressor", "LinearClassifier", "SVMRegressor", "SVMClassifier"), _weights
    ),
    **dict.fromkeys(("Gemm", "MatMul"), _product),
    **dict.fromkeys(("Normalizer", "Relu", "Sigmoid", "Tanh", "Abs", "Exp", "Log"), _blurred),
    **dict.fromkeys(("Scan", "CDist"), _neighbours),
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Scaler": _scaler,
    "Imputer": _imputer,
    "IsNaN": _is_nan,
}
