"""Tree ensembles: gradients against references, votes that change sign, refusals, real models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from forests import (
    Array,
    Trees,
    Weights,
    assert_agree,
    classifier,
    leaf_numbers,
    random_rows,
    random_trees,
    random_weights,
    regressor,
)

import onnxtune
from onnxtune.errors import OnnxTuneError, UnsupportedError
from onnxtune.export import native
from onnxtune.learned import ir_node
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from rewrites import tree_ensemble_classifier, tree_ensemble_regressor
from rewrites.trees.ensemble import Ensemble, ensemble_of
from rewrites.trees.listed import read_listed

LEQ, LT = "BRANCH_LEQ", "BRANCH_LT"
TEMPERATURE = 0.3


def read(model: onnx.ModelProto, columns: int) -> Ensemble:
    prepared = prepare(load(model))
    node = ir_node(prepared, prepared.proto.graph.node[0])
    return ensemble_of(read_listed(node, "target", columns, np.float32), np.arange(columns))


def reference(
    trees: Trees, weights: Weights, columns: int, spread: Array, routing: str
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Thresholds in the operator's order, leaf values, and scores as a function of rows.

    Every row walks down every tree by itself, both ways, with its share of the gates passed.
    """
    limits = torch.tensor(trees.value, dtype=torch.float64, requires_grad=True)
    leaves = torch.tensor(weights.numbers, dtype=torch.float64, requires_grad=True)
    place = {key: at for at, key in enumerate(zip(trees.tree, trees.node, strict=True))}
    roots = np.flatnonzero(np.r_[True, np.diff(trees.tree) != 0])

    def gate(at: int, x: torch.Tensor) -> torch.Tensor:
        if torch.isnan(x):
            return torch.tensor(float(trees.missing[at]), dtype=torch.float64)
        soft = torch.sigmoid((limits[at] - x) / (TEMPERATURE * spread[trees.feature[at]]))
        if routing == "soft":
            return soft
        step = (x <= limits[at]).double()
        return step + soft - soft.detach()

    def walk(at: int, share: Any, row: torch.Tensor, scores: list[Any]) -> None:
        tree = trees.tree[at]
        if trees.mode[at] == "LEAF":
            mine = (weights.leaves == [tree, trees.node[at]]).all(axis=1)
            for entry in np.flatnonzero(mine):
                scores[weights.ids[entry]] = scores[weights.ids[entry]] + share * leaves[entry]
            return
        passed = gate(at, row[trees.feature[at]])
        walk(place[tree, trees.true[at]], share * passed, row, scores)
        walk(place[tree, trees.false[at]], share * (1 - passed), row, scores)

    def score(rows: torch.Tensor) -> torch.Tensor:
        found = []
        for row in rows:
            scores: list[Any] = [torch.zeros((), dtype=torch.float64) for _ in range(columns)]
            for root in roots:
                walk(int(root), 1.0, row, scores)
            found.append(torch.stack(scores))
        return torch.stack(found)

    return limits, leaves, score


@pytest.mark.parametrize("routing", ["soft", "straight-through"])
@pytest.mark.parametrize("votes", ["dense", "tree"])
@pytest.mark.parametrize("shape", ["balanced", "chain", "mixed"])
def test_level_wise_equals_a_walk_by_row(routing: Any, votes: Any, shape: Any) -> None:
    rng = np.random.default_rng(5)
    trees = random_trees(rng, count=4, depth=3, shape=shape, missing=True)
    columns = 2
    weights = random_weights(rng, trees, columns, votes)
    model = regressor(trees, weights, columns)
    rows = rng.normal(size=(12, trees.width)).astype(np.float32)
    spread = rows.astype(np.float64).std(axis=0)
    module = onnxtune.to_torch(model, routing, temperature=TEMPERATURE, data=rows).double()
    rows[rng.random(rows.shape) < 0.2] = np.nan

    limits, leaves, score = reference(trees, weights, columns, spread, routing)
    expected = score(torch.from_numpy(rows).double())
    inputs = torch.from_numpy(rows).double().requires_grad_()
    got = module(inputs)["y"]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)

    flow = torch.from_numpy(rng.normal(size=got.shape))
    (got * flow).sum().backward()
    (expected * flow).sum().backward()
    tensors = module.tensors()
    held = read(model, columns)
    entries = held.entries[held.entries >= 0]
    got_leaves = tensors["trees/leaf_values"].grad.ravel()
    torch.testing.assert_close(got_leaves, leaves.grad[entries], rtol=1e-5, atol=1e-6)
    got_limits = tensors["trees/thresholds"].grad
    torch.testing.assert_close(got_limits, limits.grad[held.inner_places], rtol=1e-5, atol=1e-6)
    assert (got_limits != 0).any()
    assert torch.isfinite(inputs.grad).all() and (inputs.grad[np.isnan(rows)] == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_gradients_equal_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, count=5, depth=4, modes=(LEQ, LT), missing=True, infinite=seed % 2)
    columns, votes = [(1, "dense"), (2, "dense"), (3, "dense")][seed % 3]
    weights = random_weights(rng, trees, columns, votes)
    if seed < 3:
        link = ["NONE", "LOGISTIC", "SOFTMAX"][seed]
        model = regressor(trees, weights, columns, base=rng.normal(size=columns), link=link)
    else:
        model = classifier(
            trees, random_weights(rng, trees, 3), 3, base=[0.5, -1, 2], link="SOFTMAX"
        )
    name = model.graph.output[-1].name
    rows = torch.from_numpy(random_rows(rng, trees, 30)).double()
    module = onnxtune.to_torch(model, "soft", temperature=TEMPERATURE).double()
    flow = torch.from_numpy(rng.normal(size=module(rows)[name].shape))

    def loss() -> torch.Tensor:
        return (module(rows)[name] * flow).sum()

    loss().backward()
    tensors = module.tensors()
    assert set(tensors) == {"trees/thresholds", "trees/leaf_values", "trees/base_values"}
    for name_of, tensor in tensors.items():
        flat = tensor.data.view(-1)
        finite = np.flatnonzero(np.abs(flat.numpy()) < 1e30)
        for at in rng.choice(finite, min(20, len(finite)), replace=False):
            before, step = flat[at].item(), 1e-5
            values = []
            for moved in (before + step, before - step):
                flat[at] = moved
                values.append(loss().item())
            flat[at] = before
            expected = (values[0] - values[1]) / (2 * step)
            got = tensor.grad.view(-1)[at].item()
            assert got == pytest.approx(expected, rel=1e-3, abs=1e-6), (name_of, at)
        assert (tensor.grad != 0).any()


@pytest.mark.parametrize("mode", [LEQ, LT])
def test_missing_only_splits_stay_exact_when_soft(mode: str) -> None:
    # Boosters part NaN from all numbers by an infinite threshold.
    trees = Trees(
        tree=np.zeros(3, np.int64),
        node=np.arange(3),
        feature=np.zeros(3, np.int64),
        value=np.array([np.inf, 0, 0]),
        mode=[mode, "LEAF", "LEAF"],
        true=np.array([1, 0, 0]),
        false=np.array([2, 0, 0]),
        missing=np.zeros(3, np.int64),
        leaves=np.array([[0, 1], [0, 2]]),
        width=1,
    )
    rows = np.array([[-1e6], [0], [5], [np.nan], [-np.inf]], np.float32)
    for value, tracks in ((np.inf, 0), (-np.inf, 1)):
        trees = replace(trees, value=np.array([value, 0, 0]), missing=np.array([tracks, 0, 0]))
        model = regressor(trees, leaf_numbers(trees), 1)
        expected = run(model, {"x": rows})["y"]
        assert len(np.unique(expected)) == 2
        # Straight-through and hard are exact even for -inf against -inf.
        for routing in ("straight-through", "hard"):
            found = onnxtune.to_torch(model, routing).predict(rows)["y"]
            np.testing.assert_array_equal(found.detach().numpy(), expected)
        module = onnxtune.to_torch(model, "soft")
        np.testing.assert_array_equal(module.predict(rows[:4])["y"].detach().numpy(), expected[:4])
        assert (module.learned["trees/thresholds"].unit == 0).all()


def test_equal_thresholds_give_no_tiny_spread() -> None:
    trees = random_trees(np.random.default_rng(0), count=3, depth=3, width=2, shape="balanced")
    # A third has no exact mean, so that its deviations are rounding.
    value = np.where(trees.feature == 0, np.float32(1 / 3), trees.value)
    trees = replace(trees, value=np.where(trees.inner, value, 0))
    model = regressor(trees, leaf_numbers(trees), 3)
    unit = onnxtune.to_torch(model).learned["trees/thresholds"].unit
    assert unit.min() > 0.01


# Votes that change sign -------------------------------------------------------------------------

SIGNS = [
    # votes, classes, whether the original's votes are signed
    ("first", 2, False),
    ("first", 2, True),
    ("second", 2, False),
    ("second", 2, True),
]


@pytest.mark.parametrize("kind", ["float", "double", "double tensors", "int64"])
@pytest.mark.parametrize("link", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize(("votes", "classes", "signed"), SIGNS)
def test_votes_of_other_signs_keep_the_meaning_of_the_original(
    votes: Any, classes: int, signed: bool, link: str, kind: str
) -> None:
    rng = np.random.default_rng(3)
    dtype = {"float": np.float32, "int64": np.int64}.get(kind, np.float64)
    tensors = kind == "double tensors"
    trees = random_trees(
        rng, count=3, depth=3, shape="balanced", doubles=tensors, whole=kind == "int64"
    )
    weights = random_weights(rng, trees, classes, votes, signed=signed, doubles=tensors)
    words = votes == "first"
    model = classifier(
        trees, weights, classes, link=link, dtype=dtype, words=words, as_tensors=tensors
    )
    rows = random_rows(rng, trees, 200, dtype)
    module = onnxtune.to_torch(model, "hard")
    tuned = {name: value.detach().numpy().copy() for name, value in module.tensors().items()}
    values = tuned["trees/leaf_values"]
    tuned["trees/leaf_values"] = np.abs(values) if signed else values - values.dtype.type(0.4)
    if kind != "int64":
        tuned["trees/thresholds"] = tuned["trees/thresholds"] * 1.25  # exact in every type
    module.load_tensors(tuned)

    written = native(prepare(load(model)), tuned)
    assert set(written.replaced) == {"trees"}
    assert "TreeEnsembleRegressor" in {node.op_type for node in written.proto.graph.node}
    got = run(written.proto, {"x": rows})
    p = module.predict(rows)["p"].detach().numpy()
    np.testing.assert_allclose(got["p"], p, rtol=1e-5, atol=1e-6)

    hard = onnxtune.convert(written.proto, form="hard")
    assert {node.domain for node in hard.graph.node} == {""}
    again = run(hard, {"x": rows})
    np.testing.assert_allclose(again["p"], p, rtol=1e-5, atol=1e-6)
    assert (again["label"] == got["label"]).all()

    # The label goes by the original's rule.
    limit = 0.0 if signed else 0.5
    if link == "LOGISTIC":
        limit = 1 / (1 + np.exp(-limit))
    place, clear = (p[:, 1] > limit).astype(int), np.abs(p[:, 1] - limit) > 1e-5
    labels = np.array(["class 0", "class 1"] if words else [3, 5, 7, 9])
    assert (got["label"][clear] == labels[place][clear]).all()
    assert clear.mean() > 0.8


# Refusals ---------------------------------------------------------------------------------------


def stump(**changed: Any) -> Trees:
    trees = Trees(
        tree=np.zeros(5, np.int64),
        node=np.arange(5),
        feature=np.array([0, 1, 0, 0, 0]),
        value=np.array([0.5, -0.25, 0, 0, 0]),
        mode=[LEQ, LEQ, "LEAF", "LEAF", "LEAF"],
        true=np.array([1, 2, 0, 0, 0]),
        false=np.array([4, 3, 0, 0, 0]),
        missing=np.zeros(5, np.int64),
        leaves=np.array([[0, 2], [0, 3], [0, 4]]),
        width=2,
    )
    return replace(trees, **changed)


def votes_for(trees: Trees, *ids: int, numbers: Any = None) -> Weights:
    values = np.arange(1.0, len(ids) + 1) if numbers is None else np.array(numbers, float)
    return Weights(trees.leaves[: len(ids)], np.array(ids), values)


def _classes(classes: int, ids: tuple[int, ...], **more: Any) -> onnx.ModelProto:
    trees = stump()
    numbers = more.pop("numbers", None)
    return classifier(trees, votes_for(trees, *ids, numbers=numbers), classes, **more)


def _interleaved() -> onnx.ModelProto:
    """A first tree of a single leaf, and a second one with a leaf that nothing refers to."""
    trees = stump(
        tree=np.array([0, 1, 1, 1, 1]),
        node=np.array([0, 0, 1, 2, 3]),
        mode=["LEAF", LEQ, "LEAF", "LEAF", "LEAF"],
        true=np.array([0, 1, 0, 0, 0]),
        false=np.array([0, 2, 0, 0, 0]),
        leaves=np.array([[0, 0], [1, 1], [1, 2], [1, 3]]),
    )
    return regressor(trees, votes_for(trees, 0, 0, 0, 0), 1)


UNSUPPORTED = {
    "an unknown mode": (
        lambda: regressor(
            stump(mode=[LEQ, "BRANCH_MEMBER", "LEAF", "LEAF", "LEAF"]), leaf_numbers(stump()), 1
        ),
        "BRANCH_MEMBER",
    ),
    "no votes for the second class, PROBIT": (
        lambda: _classes(2, (0, 0, 0), link="PROBIT"),
        "unwritten",
    ),
    "votes for one of two, one base value": (
        lambda: _classes(2, (0, 1, 0), base=[0.5]),
        "unwritten",
    ),
    "two base values for one class": (lambda: _classes(1, (0, 0, 0), base=[1, 2]), "base values"),
    "leaves that nothing refers to": (_interleaved, "single leaf"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_has_no_rewrite_is_refused_by_name_and_left_alone(case: str) -> None:
    build, word = UNSUPPORTED[case]
    model = build()
    prepared = prepare(load(model))
    node = ir_node(prepared, prepared.proto.graph.node[0])
    family = tree_ensemble_regressor if "Regressor" in node.op_type else tree_ensemble_classifier
    with pytest.raises(UnsupportedError, match="'trees'") as caught:
        family.REWRITE.tensors(node, None)
    assert word in str(caught.value)

    rng = np.random.default_rng(0)
    rows = random_rows(rng, stump(), 50)
    expected = run(model, {"x": rows})
    hard = onnxtune.convert(model, form="hard")
    assert [n.op_type for n in hard.graph.node] == [node.op_type]
    for name, value in run(hard, {"x": rows}).items():
        columns = 1 if word == "unwritten" else None
        np.testing.assert_array_equal(value.T[:columns], expected[name].T[:columns])
    with pytest.raises(UnsupportedError, match="'trees'"):
        onnxtune.to_torch(model)
    with pytest.raises(OnnxTuneError, match="'trees'"):
        onnxtune.convert(model, form="soft")


def test_weights_of_inner_nodes_are_never_reached() -> None:
    trees = stump()
    leaves = np.r_[trees.leaves, [[0, 0]]]
    model = regressor(trees, Weights(leaves, np.zeros(4, int), np.arange(1.0, 5)), 1)
    rows = random_rows(np.random.default_rng(0), trees, 30)
    expected = run(model, {"x": rows})["y"]
    hard = onnxtune.convert(model, form="hard")
    np.testing.assert_array_equal(run(hard, {"x": rows})["y"], expected)


def test_integers_beyond_float_precision_are_rounded_alike() -> None:
    trees = stump(value=np.array([2.0**24, -(2.0**24), 0, 0, 0]))
    model = classifier(trees, votes_for(trees, 0, 1, 2), 3, dtype=np.int64)
    rows = 2**24 + np.arange(-3, 4).repeat(2).reshape(-1, 2)
    expected = run(model, {"x": rows})
    got = run(onnxtune.convert(model, form="hard"), {"x": rows})
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)


# Real models ------------------------------------------------------------------------------------


def _forest(X: Array, y: Array) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, random_state=0, n_jobs=2).fit(X, y)


def _boosted(X: Array, y: Array) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=100, max_depth=4, random_state=0).fit(X, X[:, 1])


def _scaled(X: Array, y: Array) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _forest(StandardScaler().fit_transform(X), y)).fit(X, y)


def _lightgbm(X: Array, y: Array) -> onnx.ModelProto:
    lightgbm = pytest.importorskip("lightgbm")
    onnxmltools = pytest.importorskip("onnxmltools")
    from onnxmltools.convert.common.data_types import FloatTensorType

    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)
    fitted = lightgbm.LGBMClassifier(n_estimators=100, num_leaves=31, n_jobs=2, verbose=-1)
    fitted.fit(holes, y)
    types = [("x", FloatTensorType([None, X.shape[1]]))]
    return onnxmltools.convert_lightgbm(fitted, initial_types=types, zipmap=False)


def _exported(fitted: Any, X: Array) -> onnx.ModelProto:
    if isinstance(fitted, onnx.ModelProto):
        return fitted
    from skl2onnx import to_onnx

    options = {"zipmap": False} if hasattr(fitted, "predict_proba") else {}
    return to_onnx(fitted, X[:1], options=options, target_opset={"": 17, "ai.onnx.ml": 3})


def _fingerprints(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, its trees putting out whole numbers that tell all leaves reached.

    Each leaf adds two random numbers, small enough for their sums to be exact.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    at = next(i for i, node in enumerate(graph.node) if node.op_type.startswith("TreeEnsemble"))
    held = {a.name: onnx.helper.get_attribute_value(a) for a in graph.node[at].attribute}
    leaf = np.array(held["nodes_modes"]) == b"LEAF"
    trees, ids = (np.array(held[f"nodes_{name}"])[leaf] for name in ("treeids", "nodeids"))
    numbers = np.random.default_rng(0).integers(0, 2**24 // (trees.max() + 1), 2 * len(trees))
    kept = {name: value for name, value in held.items() if name.startswith("nodes_")}
    node = onnx.helper.make_node(
        "TreeEnsembleRegressor",
        graph.node[at].input,
        ["leaves"],
        domain="ai.onnx.ml",
        n_targets=2,
        target_treeids=np.repeat(trees, 2).tolist(),
        target_nodeids=np.repeat(ids, 2).tolist(),
        target_ids=np.tile([0, 1], len(trees)).tolist(),
        target_weights=numbers.astype(float).tolist(),
        **kept,
    )
    before = [n for n in graph.node[:at] if n.output[0] in graph.node[at].input]
    del graph.node[:], graph.output[:]
    graph.node.extend([*before, node])
    graph.output.append(onnx.helper.make_tensor_value_info("leaves", 1, ["N", 2]))
    return model


def _hard_rows(model: onnx.ModelProto, X: Array, rows: int) -> Array:
    """Rows of the data, half of their values on thresholds or beside, some NaN or infinite."""
    rng = np.random.default_rng(2)
    node = next(n for n in model.graph.node if n.op_type.startswith("TreeEnsemble"))
    held = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    inner = np.array(held["nodes_modes"]) != b"LEAF"
    feature = np.array(held["nodes_featureids"])[inner]
    limit = np.array(held["nodes_values"], np.float32)[inner]
    scaler = [n for n in model.graph.node if n.op_type == "Scaler"]
    if scaler:
        terms = {a.name: np.array(a.floats, np.float32) for a in scaler[0].attribute}
        limit = limit / terms["scale"][feature] + terms["offset"][feature]
    out = X[rng.integers(len(X), size=rows)].astype(np.float32)
    for column in range(X.shape[1]):
        at = rng.choice(limit[feature == column], rows)
        steps = rng.integers(-2, 3, rows)
        for _ in range(2):
            toward = np.sign(steps) * np.float32(np.inf)
            at = np.where(steps == 0, at, np.nextafter(at, toward, dtype=np.float32))
            steps -= np.sign(steps)
        out[:, column] = np.where(rng.random(rows) < 0.5, at, out[:, column])
    odd = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), out.shape)
    return np.where(rng.random(out.shape) < 0.02, odd, out)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("train", [_forest, _boosted, _lightgbm, _scaled])
def test_no_row_of_many_reaches_another_leaf(train: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 10)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] + X[:, 2] + 0.5 * rng.normal(size=5000) > 0).astype(int)
    model = _exported(train(X, y), X)
    rows = _hard_rows(model, X, 100_000)
    name = model.graph.input[0].name

    leaves = _fingerprints(model)
    hard = onnxtune.convert(leaves, form="hard")
    assert not any(node.domain for node in hard.graph.node)
    expected = run(leaves, {name: rows})["leaves"]
    assert len(np.unique(expected, axis=0)) > 10_000
    assert (run(hard, {name: rows})["leaves"] != expected).sum() == 0

    whole = onnxtune.convert(model, form="hard")
    outputs = [value.name for value in model.graph.output]
    got, wanted = (run(each, {name: rows}, outputs) for each in (whole, model))
    first = {n: v.reshape(len(rows), -1) if "label" not in n else v for n, v in got.items()}
    second = {n: v.reshape(len(rows), -1) if "label" not in n else v for n, v in wanted.items()}
    rename = {n: "label" if "label" in n else n for n in outputs}
    assert_agree(
        {rename[n]: v for n, v in first.items()}, {rename[n]: v for n, v in second.items()}
    )
