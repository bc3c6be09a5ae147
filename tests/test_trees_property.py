"""Random ensembles: every form routes like onnxruntime, and the way back loses nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    away_from_thresholds,
    classifier,
    evaluate,
    indexed,
    leaf_numbers,
    random_rows,
    random_trees,
    random_weights,
    regressor,
    without_leaf_roots,
)
from hypothesis import given
from hypothesis import strategies as st
from repeatable import examples

import onnxtune
from onnxtune.export import native
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run

LEQ, LT = "BRANCH_LEQ", "BRANCH_LT"
GT, GTE = "BRANCH_GT", "BRANCH_GTE"
EQ, NEQ = "BRANCH_EQ", "BRANCH_NEQ"
MODES = [
    (LEQ,), (LT,), (LEQ, LT), (GT,), (GTE,), (LEQ, LT, GT, GTE),
    (EQ,), (NEQ,), (EQ, NEQ), (EQ, LEQ), (LEQ, LT, GT, GTE, EQ, NEQ),
]  # fmt: skip
LINKS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]
AGGREGATES = ["SUM", "AVERAGE", "MIN", "MAX"]
ROWS = 48


@dataclass(frozen=True)
class Example:
    """An ensemble, a model of it and rows; `seed` for what a test draws beyond."""

    trees: Trees
    model: onnx.ModelProto
    rows: Array
    seed: int
    tensors: bool
    link: str

    @property
    def steady(self) -> bool:
        """Whether the link has a number for all: a quantile or a softmax of zeros may not."""
        return self.link not in ("PROBIT", "SOFTMAX_ZERO")

    def outputs(self, model: onnx.ModelProto) -> dict[str, Array]:
        return run(model, {"x": self.rows})

    def assert_agree(self, got: dict[str, Array], expected: dict[str, Array]) -> None:
        assert_agree(got, expected, self.link == "PROBIT")


def _trees(
    draw: Any, dtype: Any, tensors: bool, rng: np.random.Generator, shared: bool = True
) -> Trees:
    modes = draw(st.sampled_from(MODES))
    return random_trees(
        rng,
        count=draw(st.integers(1, 5)),
        depth=draw(st.integers(1, 5)),
        width=draw(st.integers(1, 5)),
        shape=draw(st.sampled_from(["mixed", "balanced", "chain", "grown", "leaf"])),
        modes=modes,
        categories=EQ in modes or NEQ in modes,
        shared=shared and draw(st.booleans()),
        missing=draw(st.booleans()),
        infinite=draw(st.booleans()),
        whole=dtype is np.int64,
        doubles=tensors and EQ not in modes and NEQ not in modes,
    )


def _start(draw: Any, *kinds: Any) -> tuple[int, Any, bool, np.random.Generator]:
    seed = draw(st.integers(0, 2**32 - 1))
    dtype = draw(st.sampled_from(kinds))
    tensors = dtype is np.float64 and draw(st.booleans())
    return seed, dtype, tensors, np.random.default_rng(seed)


@st.composite
def numbered(draw: Any) -> Example:
    """Ensembles that put out the number of the leaf reached in each tree."""
    seed, dtype, tensors, rng = _start(draw, np.float32, np.float64)
    trees = _trees(draw, dtype, tensors, rng)
    targets = int(trees.tree.max()) + 1
    model = regressor(trees, leaf_numbers(trees), targets, dtype=dtype, as_tensors=tensors)
    return Example(trees, model, random_rows(rng, trees, ROWS, dtype), seed, tensors, "NONE")


def _shares(rng: np.random.Generator, weights: Weights, trees: Trees, link: str) -> Weights:
    """Numbers whose sums are probabilities, where the link takes nothing else."""
    if link != "PROBIT":
        return weights
    most = 2 * (int(trees.tree.max()) + 1)
    numbers = (rng.random(len(weights.numbers)) / most).astype(np.float32).astype(np.float64)
    return replace(weights, numbers=numbers)


@st.composite
def regressors(draw: Any) -> Example:
    seed, dtype, tensors, rng = _start(draw, np.float32, np.float64)
    trees = _trees(draw, dtype, tensors, rng)
    targets, link = draw(st.integers(1, 3)), draw(st.sampled_from(LINKS))
    votes = draw(st.sampled_from(["dense", "tree", "sparse", "doubled"]))
    weights = random_weights(
        rng, trees, targets, votes, doubles=tensors, coarse=draw(st.booleans())
    )
    model = regressor(
        trees,
        _shares(rng, weights, trees, link),
        targets,
        base=rng.random(size=targets * draw(st.integers(0, 1))) / 2,
        link=link,
        dtype=dtype,
        as_tensors=tensors,
        aggregate_function=draw(st.sampled_from(AGGREGATES)),
    )
    rows = random_rows(rng, trees, ROWS, dtype)
    return Example(trees, model, rows, seed, tensors, link)


@st.composite
def sets(draw: Any) -> Example:
    """TreeEnsemble, most of them with sets of categories."""
    seed, dtype, _, rng = _start(draw, np.float32, np.float64)
    trees = _trees(draw, dtype, False, rng, shared=False)
    if (trees.mode[0], *trees.mode[1:]) == ("LEAF",) * len(trees.mode):
        trees = random_trees(rng, shape="balanced", modes=(EQ,), categories=True)
    trees = without_leaf_roots(trees)
    targets, link = draw(st.integers(1, 3)), draw(st.sampled_from(range(5)))
    votes = "tree" if targets > 1 or draw(st.booleans()) else "first"
    weights = random_weights(rng, trees, targets, votes, coarse=draw(st.booleans()))
    model = indexed(
        rng,
        trees,
        _shares(rng, weights, trees, LINKS[link]),
        targets,
        aggregate=draw(st.integers(0, 3)),
        link=link,
        dtype=dtype,
        sets=draw(st.booleans()),
    )
    rows = random_rows(rng, trees, ROWS, dtype)
    return Example(trees, model, rows, seed, True, LINKS[link])


# Classes, votes, numbers of base values, and whether every row has votes for the second class.
VOTES: list[tuple[int, Any, tuple[int, ...], bool]] = [
    (1, "single", (0, 1), True),
    (1, "sparse", (0, 1), True),
    (2, "first", (0, 1, 2), False),
    (2, "second", (0, 1, 2), True),
    (2, "both", (0, 1, 2), True),
    (2, "sparse", (0, 2), False),
    (2, "doubled", (0, 2), False),
    (2, "tree", (0, 2), False),
    (3, "dense", (0, 3), True),
    (3, "sparse", (0, 3), True),
    (4, "tree", (0, 4), True),
    (4, "doubled", (0, 4), True),
]


@st.composite
def classifiers(draw: Any) -> Example:
    seed, dtype, tensors, rng = _start(draw, np.float32, np.float64, np.int64)
    trees = _trees(draw, dtype, tensors, rng)
    classes, votes, bases, voted = draw(st.sampled_from(VOTES))
    base = draw(st.sampled_from(bases))
    # Without votes for the second class some scores of PROBIT are never written.
    link = draw(st.sampled_from(LINKS if voted or base == 2 else LINKS[:-1]))
    signed, coarse = draw(st.booleans()), draw(st.booleans())
    weights = random_weights(
        rng, trees, classes, votes, signed=signed, doubles=tensors, coarse=coarse
    )
    model = classifier(
        trees,
        _shares(rng, weights, trees, link),
        classes,
        base=rng.random(size=base) / 2,
        link=link,
        dtype=dtype,
        words=classes > 1 and draw(st.booleans()),  # onnxruntime dies of a single word
        plain=draw(st.booleans()),
        as_tensors=tensors,
    )
    rows = random_rows(rng, trees, ROWS, dtype)
    return Example(trees, model, rows, seed, tensors, link)


ANY = st.one_of(regressors(), classifiers(), sets())


def standard_only(model: onnx.ModelProto) -> bool:
    return all(node.domain == "" for node in model.graph.node)


def predicted(module: Any, rows: Array, name: str) -> Array:
    return module.predict(rows)[name].detach().numpy()


@examples(80)
@given(numbered())
def test_every_row_reaches_the_same_leaf(example: Example) -> None:
    expected = example.outputs(example.model)["y"]
    dtype = np.float64 if example.rows.dtype == np.float64 else np.float32
    if EQ not in example.trees.mode or not example.trees.missing.any():
        # onnxruntime has its own way with NaN in chains of BRANCH_EQ.
        np.testing.assert_array_equal(expected, evaluate(example.trees, example.rows, dtype) + 1)

    hard = onnxtune.convert(example.model, form="hard")
    assert standard_only(hard)
    np.testing.assert_array_equal(example.outputs(hard)["y"], expected)

    module = onnxtune.to_torch(example.model, routing="hard")
    np.testing.assert_array_equal(predicted(module, example.rows, "y"), expected)
    module.routing = "straight-through"
    np.testing.assert_array_equal(predicted(module, example.rows, "y"), expected)


@examples(50)
@given(ANY)
def test_hard_form_and_torch_agree_with_the_original(example: Example) -> None:
    expected = example.outputs(example.model)
    hard = onnxtune.convert(example.model, form="hard")
    assert standard_only(hard)
    example.assert_agree(example.outputs(hard), expected)

    name = example.model.graph.output[-1].name
    module = onnxtune.to_torch(example.model, routing="hard")
    for routing in ("hard", "straight-through"):
        module.routing = routing
        example.assert_agree({name: predicted(module, example.rows, name)}, {name: expected[name]})


@examples(50)
@given(ANY)
def test_soft_form_becomes_the_original_as_the_temperature_falls(example: Example) -> None:
    name = example.model.graph.output[-1].name
    soft = onnxtune.convert(example.model, form="soft", temperature=1e-7)
    module = onnxtune.to_torch(example.model, routing="soft", temperature=1e-7)
    got = example.outputs(soft)
    expected = example.outputs(example.model)
    if example.steady:
        assert np.isfinite(got[name]).all()
    away = away_from_thresholds(example.trees, example.rows, 1e-4)
    for found in (got, {name: predicted(module, example.rows, name)}):
        kept = {}
        for key, value in found.items():
            kept[key] = expected[key].copy()
            kept[key][away] = value[away]
        example.assert_agree(kept, {key: expected[key] for key in kept})


@examples(50)
@given(ANY, st.sampled_from([1e-7, 0.1]))
def test_gradients_are_finite_on_missing_and_infinite_values(
    example: Example, temperature: float
) -> None:
    module = onnxtune.to_torch(example.model, routing="soft", temperature=temperature)
    name = example.model.graph.output[-1].name
    for routing in ("soft", "straight-through", "hard"):
        module.routing = routing
        module.zero_grad()
        rows = torch.from_numpy(example.rows)
        if rows.is_floating_point():
            rows.requires_grad_()
        found = module(rows)[name]
        if not example.steady and not torch.isfinite(found).all():
            continue
        assert torch.isfinite(found).all()
        found.square().sum().backward()
        for value in (*module.tensors().values(), rows):
            assert value.grad is None or torch.isfinite(value.grad).all()


def learned(example: Example) -> dict[str, Array]:
    module = onnxtune.to_torch(example.model, routing="hard")
    return {name: value.detach().numpy() for name, value in module.tensors().items()}


@examples(60)
@given(st.one_of(ANY, numbered()))
def test_untouched_tensors_change_no_byte(example: Example) -> None:
    written = native(prepare(load(example.model)), learned(example))
    assert written.proto == example.model
    assert written.proto.SerializeToString() == example.model.SerializeToString()
    assert not written.changed and not written.replaced


def moved(example: Example, tensors: dict[str, Array], *, leaves: bool) -> dict[str, Array]:
    """The tensors after random steps; infinite thresholds, and some others, stay."""
    rng = np.random.default_rng([example.seed, 1])
    out = {}
    for name, value in tensors.items():
        step = rng.normal(size=value.shape) * (rng.random(value.shape) < 0.7)
        if name == "trees/thresholds":
            finite = np.abs(value) < np.finfo(value.dtype).max
            new = value + 0.3 * step
            if not example.tensors:
                # The operator holds floats; for doubles BRANCH_LT lies just below one.
                with np.errstate(over="ignore"):
                    strict = (value != value.astype(np.float32)) & finite
                    new = new.astype(np.float32).astype(value.dtype)
                new = np.where(strict, np.nextafter(new, value.dtype.type(-np.inf)), new)
            out[name] = np.where((step != 0) & finite, new, value).astype(value.dtype)
        else:
            new = value + 0.5 * step * leaves
            out[name] = (new if example.tensors else new.astype(np.float32)).astype(value.dtype)
    return out


def three_ways(example: Example) -> tuple[dict[str, Array], onnx.ModelProto]:
    """The tuned model's outputs, checked to be the same by native, hard and torch."""
    tuned = moved(example, learned(example), leaves=len(example.model.graph.output) == 2)
    written = native(prepare(load(example.model)), tuned)
    expected = example.outputs(written.proto)
    hard = onnxtune.convert(written.proto, form="hard")
    assert standard_only(hard)
    module = onnxtune.to_torch(example.model, routing="hard")
    module.load_tensors(tuned)
    name = example.model.graph.output[-1].name
    example.assert_agree(example.outputs(hard), expected)
    example.assert_agree({name: predicted(module, example.rows, name)}, {name: expected[name]})
    return expected, hard


@examples(50)
@given(numbered())
def test_tuned_thresholds_route_alike_in_every_form(example: Example) -> None:
    tuned = moved(example, learned(example), leaves=False)
    limits = tuned.get("trees/thresholds", np.zeros(0))
    # Rows on the new thresholds, and right above them.
    rng = np.random.default_rng([example.seed, 2])
    with np.errstate(over="ignore"):
        above = np.nextafter(limits, limits.dtype.type(np.inf))
    pool = np.r_[limits, above, example.rows[:, 0]]
    rows = rng.choice(pool.astype(example.rows.dtype), example.rows.shape)
    example = replace(example, rows=rows)

    written = native(prepare(load(example.model)), tuned)
    expected = example.outputs(written.proto)["y"]
    hard = onnxtune.convert(written.proto, form="hard")
    np.testing.assert_array_equal(example.outputs(hard)["y"], expected)
    module = onnxtune.to_torch(example.model, routing="hard")
    module.load_tensors(tuned)
    np.testing.assert_array_equal(predicted(module, rows, "y"), expected)
    assert not written.replaced


@examples(50)
@given(ANY)
def test_tuned_leaves_agree_in_every_form(example: Example) -> None:
    three_ways(example)


@pytest.mark.parametrize("seed", range(3))
def test_helpers_agree_with_onnxruntime_on_a_large_ensemble(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, count=60, depth=7, width=8, modes=(LEQ, LT, GT, GTE), missing=True)
    targets = int(trees.tree.max()) + 1
    model = regressor(trees, leaf_numbers(trees), targets)
    rows = random_rows(rng, trees, 300)
    expected = run(model, {"x": rows})["y"]
    np.testing.assert_array_equal(expected, evaluate(trees, rows, np.float32) + 1)
    hard = onnxtune.convert(model, form="hard")
    np.testing.assert_array_equal(run(hard, {"x": rows})["y"], expected)
