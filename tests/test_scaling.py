"""One factor on the scores in front of a link, and forests that move to logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from courts import court_for
from forests import Array, Weights, classifier, random_rows, random_trees, random_weights, regressor
from graphs import parse
from onnx import helper
from pipelines import data_of, exported
from scipy.special import xlogy
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier

from onnxtune.export import native
from onnxtune.model import load
from onnxtune.partition import partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.runtime import run
from onnxtune.scaling import (
    _FACTORS,
    _LOGIT_FACTORS,
    _ROWS_OF_ANY_CLASS,
    known_by_heart,
    scaled,
    with_logits,
)
from onnxtune.torch_module import OnnxModule, learned_tensors, to_torch
from onnxtune.tuning import tune
from rewrites.core.registry import find

LINKED = ["boosting", "boosting of three", "logistic", "logistic of three", "gemm", "matmul",
          "rates", "boosted rates"]  # fmt: skip


def numbers(model: onnx.ModelProto, X: Any) -> Array:
    """The float output in onnxruntime, [N, K] in doubles."""
    found = run(model, {model.graph.input[0].name: X})
    value = next(v for v in map(np.asarray, found.values()) if v.dtype.kind == "f")
    return value.astype(np.float64).reshape(len(value), -1)


def linked(name: str) -> tuple[onnx.ModelProto, Array]:
    """A model with a link, and rows."""
    rng = np.random.default_rng(0)
    if name in ("gemm", "matmul", "rates"):
        X = rng.normal(size=(1200, 4)).astype(np.float32)
        columns, link = (1, "Exp") if name == "rates" else (3, "Softmax <axis = 1>")
        made = {
            "gemm": "z = Gemm (x, w, b)",
            "matmul": "v = MatMul (x, w) z = Add (v, b)",
            # A single number is not learned, and so nor is a bias of one column.
            "rates": "z = MatMul (x, w)",
        }[name]
        model = parse(
            f"g (float[N, 4] x) => (float[N, {columns}] y) {{ {made} y = {link} (z) }}",
            w=rng.normal(size=(4, columns)).astype(np.float32) / 2,
            b=rng.normal(size=columns).astype(np.float32) / 2,
        )
        return model, X
    if name == "boosted rates":
        trees = random_trees(rng, count=5, depth=3)
        model = regressor(trees, random_weights(rng, trees, 1), 1, base=[0.5])
        model.graph.node.append(helper.make_node("Exp", ["y"], ["rate"], name="link"))
        model.graph.output[0].name = "rate"
        return model, random_rows(rng, trees, 1200, special=False)
    rows = [part[0] for part in data_of(name)]
    return exported(name), np.tile(np.concatenate(rows), (20, 1))[:1500]


def in_front(name: str, output: Array) -> Array:
    """[N, K] what stands in front of the link, as far as the output tells it."""
    logarithm = np.log(output)
    if "rates" in name:
        return logarithm
    return logarithm - logarithm.mean(axis=1, keepdims=True)


def drawn(name: str, scores: Array, factor: float) -> Array:
    """A target, were the scores so many times larger."""
    rng = np.random.default_rng(1)
    if "rates" in name:
        return rng.poisson(np.exp(factor * scores[:, 0])).astype(float)
    share = np.exp(factor * scores)
    share /= share.sum(axis=1, keepdims=True)
    return (rng.random((len(share), 1)) > share.cumsum(axis=1)).sum(axis=1)


def chosen(name: str, factors: Any, scores: Array, y: Array, limit: float = np.inf) -> float:
    """The best factor with four more rows, that are of each class in equal parts.

    Of those that bring the mean loss of the rows within the limit, if any does.
    """
    plain, more = [], []
    for factor in factors:
        z = factor * scores
        if "rates" in name:
            plain.append((np.exp(z[:, 0]) - y * z[:, 0] + xlogy(y, y) - y).mean())
            more.append(plain[-1])
            continue
        losses = np.log(np.exp(z).sum(axis=1, keepdims=True)) - z
        plain.append(losses[np.arange(len(y)), y].mean())
        more.append(len(y) * plain[-1] + _ROWS_OF_ANY_CLASS * losses.mean())
    able = [place for place in range(len(factors)) if plain[place] <= limit + 1e-6]
    if not able:
        return float(factors[int(np.argmin(plain))])
    return float(factors[min(able, key=more.__getitem__)])


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("wanted", [0.5, 2.0])
def test_scores_are_multiplied_by_the_best_factor(name: str, wanted: float) -> None:
    model, X = linked(name)
    scores = in_front(name, numbers(model, X))
    y = drawn(name, scores, wanted)
    if name in ("gemm", "matmul"):
        # Without labels its columns are numbers, and their loss is the squared one.
        problem, _ = court_for(model, X, np.eye(3)[y], (X, np.eye(3)[y]))
        assert problem.loss.name == "squared"
        model = with_label(model)
    half = len(X) // 2
    problem, court = court_for(model, X[:half], y[:half], (X[half:], y[half:]))
    found = scaled(court, problem.original, problem.original.learned)
    assert found is not None
    new = in_front(name, numbers(native(found.prepared, {}).proto, X))
    inside = np.abs(scores).max(axis=1) < 8  # beyond, floats do not tell
    factor = float((new * scores)[inside].sum() / np.square(scores[inside]).sum())
    np.testing.assert_allclose(new[inside], factor * scores[inside], rtol=1e-3, atol=1e-3)
    assert 0.7 * wanted < factor < 1.4 * wanted
    limit = court.original.mean()
    assert factor == pytest.approx(chosen(name, _FACTORS, scores[half:], y[half:], limit), rel=0.01)
    # The torch module says the same.
    predicted = next(iter(found.predict(X).values())).detach().numpy().reshape(len(X), -1)
    np.testing.assert_allclose(
        predicted, numbers(native(found.prepared, {}).proto, X), rtol=1e-4, atol=1e-5
    )


def with_label(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a label output beside its scores."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0))
    made.graph.output.insert(0, helper.make_tensor_value_info("label", 7, ["N"]))
    return made


@pytest.mark.parametrize("name", ["boosting", "logistic of three"])
def test_what_is_frozen_or_squared_is_not_scaled(name: str) -> None:
    (X, y), valid, _ = data_of(name)
    problem, court = court_for(exported(name), X, y, valid)
    learned = set(problem.original.learned)
    assert scaled(court, problem.original, learned) is not None
    last = {n for n in learned if n.endswith(("leaf_values", "base_values", "coefficients"))}
    assert last
    for each in last:
        assert scaled(court, problem.original, learned - {each}) is None
    (first,) = (n for n in learned if n.endswith("/scale"))
    assert scaled(court, problem.original, learned - {first}) is not None

    def names(**options: Any) -> list[str]:
        result = tune(exported(name), X, y, valid=valid, epochs=1, **options)
        return [candidate["name"] for candidate in result.report["candidates"]]

    assert "scaled" in names()
    assert "scaled" not in names(freeze=sorted(last))
    assert "scaled" not in names(init="random")


@pytest.mark.parametrize("name", ["ridge", "regression boosting", "regression forest"])
def test_numbers_are_not_scaled(name: str) -> None:
    (X, y), valid, _ = data_of(name)
    for loss in ("squared", "absolute"):
        problem, court = court_for(exported(name), X, 2 * y, (valid[0], 2 * valid[1]), loss)
        assert scaled(court, problem.original, problem.original.learned) is None


def test_another_loss_of_probabilities_is_not_scaled() -> None:
    def brier(output: Any, target: Any) -> Any:
        return (1 - output.gather(1, target[:, None])[:, 0]).square()

    for name in ("boosting of three", "forest of three"):
        (X, y), valid, _ = data_of(name)
        problem, court = court_for(exported(name), X, y, valid, brier)
        assert scaled(court, problem.original, problem.original.learned) is None


def test_a_factor_of_one_changes_nothing() -> None:
    model, X = linked("rates")
    y = numbers(model, X)[:, 0]  # the very rates
    problem, court = court_for(model, X, y, (X, y))
    assert scaled(court, problem.original, problem.original.learned) is None


def right_rows(name: str) -> tuple[Array, Array, Array]:
    """Rows of a pipeline, their classes, and which of them the model gets right."""
    (X, y), _, _ = data_of(name)
    return X, y, numbers(exported(name), X).argmax(axis=1) == y


@pytest.mark.parametrize("name", ["boosting", "logistic", "forest of three", "boosting of three"])
def test_rows_that_the_model_knows_by_heart(name: str) -> None:
    X, y, known = right_rows(name)

    def found(rows: Array, target: Any = y) -> bool:
        problem, court = court_for(exported(name), X, y, (X[rows], target[rows]))
        return known_by_heart(court, problem.original)

    assert len(np.unique(y[known])) > 1
    assert found(known)
    one = np.flatnonzero(known)[:1]
    other = y.copy()
    other[one] = (y[one] + 1) % (y.max() + 1)
    assert not found(known, other)
    assert not found(known & (y == y[one]))  # that all are of one class says little


@pytest.mark.parametrize("name", ["ridge", "poisson"])
def test_numbers_are_not_known_by_heart(name: str) -> None:
    (X, y), valid, _ = data_of(name)
    problem, court = court_for(exported(name), X, y, valid)
    assert not known_by_heart(court, problem.original)


@pytest.mark.parametrize("name", ["boosting", "forest of three"])
def test_rows_of_any_class_temper_the_factor(name: str) -> None:
    """Where every row is right, no factor would be too large."""
    X, y, known = right_rows(name)
    X, y = X[known], y[known]
    problem, court = court_for(exported(name), X, y, (X, y))
    found = scaled(court, problem.original, problem.original.learned)
    assert found is not None
    output = numbers(exported(name), X)
    forest = name.startswith("forest")
    scores = output - 1 / output.shape[1] if forest else in_front(name, output)
    factors = _LOGIT_FACTORS if forest else _FACTORS
    factor = chosen(name, factors, scores, y, court.original.mean())
    assert 1 < factor < factors[-1]
    expected = np.exp(factor * scores)
    expected /= expected.sum(axis=1, keepdims=True)
    new = numbers(native(found.prepared, {}).proto, X)
    np.testing.assert_allclose(new, expected, rtol=1e-3, atol=1e-6)
    assert (
        np.log(expected[np.arange(len(y)), y]).mean() > np.log(output[np.arange(len(y)), y]).mean()
    )


def test_a_forest_in_logits_is_scaled_again() -> None:
    """What follows from it, such as a part of its trees, has a link in front of its output."""
    (X, y), valid, _ = data_of("forest of three")
    _, court = court_for(exported("forest of three"), X, y, valid)
    first = court.module(logits_of(exported("forest of three"), 2.0), "hard")
    again = scaled(court, first, first.learned)
    assert again is not None
    before, after = (court.losses(module, "hard").mean() for module in (first, again))
    assert after < before
    share = numbers(exported("forest of three"), valid[0]) - 1 / 3
    z = 2 * chosen("", _FACTORS, 2 * share, valid[1], court.original.mean()) * share
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    new = numbers(native(again.prepared, {}).proto, valid[0])
    np.testing.assert_allclose(new, expected, rtol=1e-3, atol=1e-5)


# Forests whose votes are probabilities.


def forest(
    kind: str, words: bool = False, base: bool = False, seed: int = 0
) -> tuple[onnx.ModelProto, Array]:
    """A forest of votes "for one" or "for both" of two classes, or "of three"; and rows."""
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, count=6, depth=4, shape="balanced", missing=True)
    classes = 3 if kind == "of three" else 2
    leaves = len(trees.leaves)
    share = rng.dirichlet(np.full(classes, 0.4), size=leaves) / 6
    if kind == "for one":
        weights = Weights(trees.leaves, np.zeros(leaves, np.int64), share[:, 1])
    else:
        places = np.repeat(np.arange(leaves), classes)
        order = rng.permutation(len(places))
        weights = Weights(
            trees.leaves[places][order], np.tile(np.arange(classes), leaves)[order],
            share.ravel()[order],
        )  # fmt: skip
    bases = np.zeros(classes) if base else ()
    return classifier(trees, weights, classes, words=words, base=bases), random_rows(
        rng, trees, 300
    )


def logits_of(model: onnx.ModelProto, factor: float) -> Prepared:
    prepared = prepare(load(model))
    learned = learned_tensors(prepared, partition(prepared), {})
    leaves = {name for name in learned if name.endswith("/leaf_values")}
    found = with_logits(prepared, leaves, factor)
    assert found is not None
    return found


@pytest.mark.parametrize("factor", [2.0, 8.0, 24.0])
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize(
    ("kind", "base"),
    [("for one", False), ("for both", False), ("of three", False), ("of three", True)],
)
def test_a_forest_in_logits(kind: str, words: bool, base: bool, factor: float) -> None:
    model, X = forest(kind, words, base)
    before = run(model, {"x": X})
    share = before["p"].astype(np.float64)
    np.testing.assert_allclose(share.sum(axis=1), 1, atol=1e-5)
    new = logits_of(model, factor)
    written = native(new, {}).proto
    after = run(written, {"x": X})
    centred = factor * (share - 1 / share.shape[1])
    expected = np.exp(centred)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after["p"], expected, rtol=1e-4, atol=1e-6)
    best = np.sort(share, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-5
    assert clear.mean() > 0.9 and len(set(share.argmax(axis=1))) == share.shape[1]
    assert after["label"].dtype == before["label"].dtype
    labels = np.array([f"class {n}" if words else 3 + 2 * n for n in range(3)])
    chosen = labels[share.argmax(axis=1)]
    np.testing.assert_array_equal(after["label"][clear], chosen[clear])
    if kind != "for both":  # where onnxruntime's own labels are others
        np.testing.assert_array_equal(before["label"][clear], chosen[clear])
    (node,) = (node for node in written.graph.node if node.name == "trees")
    (link,) = (a.s for a in node.attribute if a.name == "post_transform")
    assert link == (b"SOFTMAX" if kind == "of three" else b"LOGISTIC")
    for routing in ("hard", "straight-through"):
        module = to_torch(written, routing)  # type: ignore[arg-type]
        found = module.predict(X)["p"].detach().numpy()
        np.testing.assert_allclose(found, after["p"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["for one", "for both", "of three"])
def test_logits_are_tuned_like_any_other(kind: str) -> None:
    """No constraint is left, and other numbers come back out of the file."""
    model, X = forest(kind)
    old = learned_tensors(prepare(load(model)), partition(prepare(load(model))), {})
    assert old["trees/leaf_values"].constraint is not None
    new = logits_of(model, 8.0)
    tensors = learned_tensors(new, partition(new), {})
    leaves = tensors["trees/leaf_values"]
    assert leaves.constraint is None
    rng = np.random.default_rng(3)
    moved = (leaves.value * rng.uniform(0.5, 2, leaves.value.shape)).astype(np.float32)
    written = native(new, {"trees/leaf_values": moved}).proto
    module = OnnxModule(new, partition(new), {}, "hard", 0.1)
    module.load_tensors({"trees/leaf_values": moved})
    found = module.predict(X)["p"].detach().numpy()
    np.testing.assert_allclose(run(written, {"x": X})["p"], found, rtol=1e-4, atol=1e-6)


def test_the_factor_of_a_forest_is_the_best_one() -> None:
    (X, y), (X_valid, y_valid), _ = data_of("forest of three")
    model = exported("forest of three")
    problem, court = court_for(model, X, y, (X_valid, y_valid))
    found = scaled(court, problem.original, problem.original.learned)
    assert found is not None
    share = numbers(model, X_valid)
    factor = chosen("", _LOGIT_FACTORS, share - 1 / 3, y_valid, court.original.mean())
    # Tempered alone it would be milder, and worse than the forest is.
    assert factor > chosen("", _LOGIT_FACTORS, share - 1 / 3, y_valid)
    z = factor * (share - 1 / 3)
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    new = numbers(native(found.prepared, {}).proto, X_valid)
    np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-6)


def test_without_a_negative_vote_a_forest_keeps_its_probabilities() -> None:
    """The kernel would take the sum for a share again."""
    rewrite = find("ai.onnx.ml", "TreeEnsembleClassifier")
    assert rewrite is not None and rewrite.ensemble is not None
    for kind in ("for one", "for both"):
        model, _ = forest(kind)
        (node,) = model.graph.node
        (weights,) = (a for a in node.attribute if a.name == "class_weights")
        (ids,) = (a for a in node.attribute if a.name == "class_ids")
        for sure in (False, True):
            held = onnx.ModelProto()
            held.CopyFrom(model)
            (own,) = (a for a in held.graph.node[0].attribute if a.name == "class_weights")
            if sure:  # of the second class, at every leaf
                own.floats[:] = [1 / 6 if kind == "for one" else number / 6 for number in ids.ints]
            prepared = prepare(load(held))
            found = with_logits(prepared, {"trees/leaf_values"}, 4.0)
            assert (found is None) == sure
        assert len(weights.floats)


def test_what_holds_no_probabilities_does_not_move() -> None:
    rng = np.random.default_rng(0)
    trees = random_trees(rng, count=4, shape="balanced")
    signed = classifier(trees, random_weights(rng, trees, 3), 3)
    linked_already = classifier(trees, random_weights(rng, trees, 3, signed=False), 3,
                                link="SOFTMAX")  # fmt: skip
    for model in (signed, linked_already):
        assert with_logits(prepare(load(model)), {"trees/leaf_values"}, 4.0) is None
    model, _ = forest("of three")
    assert with_logits(prepare(load(model)), {"trees/thresholds"}, 4.0) is None
    for name in ("regression forest", "ridge"):
        prepared = prepare(load(exported(name)))
        learned = learned_tensors(prepared, partition(prepared), {})
        assert with_logits(prepared, set(learned), 4.0) is None


def test_base_values_of_two_classes_are_no_probabilities() -> None:
    for kind in ("for one", "for both"):
        model, X = forest(kind, base=True)
        y = np.random.default_rng(0).choice([3, 5], len(X))
        problem, court = court_for(model, X, y, (X, y))
        assert scaled(court, problem.original, problem.original.learned) is None


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_forests_of_a_library_in_logits_end_to_end(classes: int, words: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 3)).astype(np.float32)
    hidden = X.sum(axis=1) + rng.normal(size=900) / 10
    y = np.digitize(hidden, [0.0] if classes == 2 else [-0.5, 0.5])
    names = np.array(["low", "top", "mid"])
    labels = names[y] if words else y + 5
    fitted = RandomForestClassifier(8, max_depth=2, max_features=1, random_state=0).fit(
        X[:300], labels[:300]
    )
    model = to_onnx(fitted, X[:1], options={"zipmap": False})
    result = tune(model, X[:300], labels[:300], valid=(X[300:600], labels[300:600]),
                  routing="leaves", epochs=3)  # fmt: skip
    assert result.accepted and "scaled" in [c["name"] for c in result.report["candidates"]]
    rows = X[600:]
    native_form, hard = (
        run(result.model(form), {"X": rows})  # type: ignore[arg-type]
        for form in ("native", "hard")
    )
    share = native_form["probabilities"]
    np.testing.assert_allclose(share.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(hard["probabilities"], share, rtol=1e-4, atol=1e-6)
    order = np.sort(share, axis=1)
    clear = order[:, -1] - order[:, -2] > 1e-5
    chosen = fitted.classes_[share.argmax(axis=1)]
    for each in (native_form, hard):
        np.testing.assert_array_equal(each["label"][clear], chosen[clear])

    def loss(proto: onnx.ModelProto) -> float:
        p = run(proto, {"X": rows})["probabilities"]
        place = np.searchsorted(fitted.classes_, labels[600:])
        return float(-np.log(p[np.arange(len(p)), place]).mean())

    assert loss(result.model()) < loss(model)
