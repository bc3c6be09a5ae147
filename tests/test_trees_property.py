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
    assert_agree,
    away_from_thresholds,
    classifier,
    evaluate,
    leaf_numbers,
    random_rows,
    random_trees,
    random_weights,
    regressor,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxtune
from onnxtune.export import native
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run

LEQ, LT = "BRANCH_LEQ", "BRANCH_LT"
GT, GTE = "BRANCH_GT", "BRANCH_GTE"
ROWS = 48


def examples(count: int) -> Any:
    """The same examples in every run, so that a failure is one of the code."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=slow,
    )


@dataclass(frozen=True)
class Example:
    """An ensemble, a model of it and rows; `seed` for what a test draws beyond."""

    trees: Trees
    model: onnx.ModelProto
    rows: Array
    seed: int
    tensors: bool

    def outputs(self, model: onnx.ModelProto) -> dict[str, Array]:
        return run(model, {"x": self.rows})


def _trees(draw: Any, dtype: Any, tensors: bool, rng: np.random.Generator) -> Trees:
    return random_trees(
        rng,
        count=draw(st.integers(1, 5)),
        depth=draw(st.integers(1, 5)),
        width=draw(st.integers(1, 5)),
        shape=draw(st.sampled_from(["mixed", "balanced", "chain", "grown", "leaf"])),
        modes=draw(st.sampled_from([(LEQ,), (LT,), (LEQ, LT), (GT,), (GTE,), (LEQ, LT, GT, GTE)])),
        missing=draw(st.booleans()),
        infinite=draw(st.booleans()),
        whole=dtype is np.int64,
        doubles=tensors,
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
    return Example(trees, model, random_rows(rng, trees, ROWS, dtype), seed, tensors)


@st.composite
def regressors(draw: Any) -> Example:
    seed, dtype, tensors, rng = _start(draw, np.float32, np.float64)
    trees = _trees(draw, dtype, tensors, rng)
    targets = draw(st.integers(1, 3))
    votes = draw(st.sampled_from(["dense", "tree"]))
    # A base value needs a vote for its target, unless there is one target only.
    based = votes == "dense" or targets == 1
    model = regressor(
        trees,
        random_weights(rng, trees, targets, votes, doubles=tensors),
        targets,
        base=rng.normal(size=targets * draw(st.integers(0, based))),
        link=draw(st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX"])),
        dtype=dtype,
        as_tensors=tensors,
    )
    return Example(trees, model, random_rows(rng, trees, ROWS, dtype), seed, tensors)


@st.composite
def classifiers(draw: Any) -> Example:
    seed, dtype, tensors, rng = _start(draw, np.float32, np.float64, np.int64)
    trees = _trees(draw, dtype, tensors, rng)
    classes, votes, bases = draw(
        st.sampled_from(
            [
                (1, "single", (0, 1)),
                (2, "first", (0, 1)),
                (2, "second", (0,)),
                (2, "both", (0,)),
                (3, "dense", (0, 3)),
                (4, "tree", (0, 4)),
            ]
        )
    )
    base = draw(st.sampled_from(bases))
    # Negative votes and rows without votes for some class go together with base values only.
    signed = draw(st.booleans()) and not (votes == "tree" and not base)
    model = classifier(
        trees,
        random_weights(rng, trees, classes, votes, signed=signed, doubles=tensors),
        classes,
        base=rng.normal(size=base),
        link=draw(st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX"])),
        dtype=dtype,
        words=classes > 1 and draw(st.booleans()),  # onnxruntime dies of a single word
        plain=draw(st.booleans()),
        as_tensors=tensors,
    )
    return Example(trees, model, random_rows(rng, trees, ROWS, dtype), seed, tensors)


def standard_only(model: onnx.ModelProto) -> bool:
    return all(node.domain == "" for node in model.graph.node)


def predicted(module: Any, rows: Array, name: str) -> Array:
    return module.predict(rows)[name].detach().numpy()


@examples(150)
@given(numbered())
def test_every_row_reaches_the_same_leaf(example: Example) -> None:
    expected = example.outputs(example.model)["y"]
    dtype = np.float64 if example.rows.dtype == np.float64 else np.float32
    np.testing.assert_array_equal(expected, evaluate(example.trees, example.rows, dtype) + 1)

    hard = onnxtune.convert(example.model, form="hard")
    assert standard_only(hard)
    np.testing.assert_array_equal(example.outputs(hard)["y"], expected)

    module = onnxtune.to_torch(example.model, routing="hard")
    np.testing.assert_array_equal(predicted(module, example.rows, "y"), expected)
    module.routing = "straight-through"
    np.testing.assert_array_equal(predicted(module, example.rows, "y"), expected)


@examples(80)
@given(st.one_of(regressors(), classifiers()))
def test_hard_form_and_torch_agree_with_the_original(example: Example) -> None:
    expected = example.outputs(example.model)
    hard = onnxtune.convert(example.model, form="hard")
    assert standard_only(hard)
    assert_agree(example.outputs(hard), expected)

    name = example.model.graph.output[-1].name
    module = onnxtune.to_torch(example.model, routing="hard")
    for routing in ("hard", "straight-through"):
        module.routing = routing
        assert_agree({name: predicted(module, example.rows, name)}, {name: expected[name]})


@examples(80)
@given(st.one_of(regressors(), classifiers()))
def test_soft_form_becomes_the_original_as_the_temperature_falls(example: Example) -> None:
    name = example.model.graph.output[-1].name
    soft = onnxtune.convert(example.model, form="soft", temperature=1e-7)
    module = onnxtune.to_torch(example.model, routing="soft", temperature=1e-7)
    got = example.outputs(soft)
    assert np.isfinite(got[name]).all()

    away = away_from_thresholds(example.trees, example.rows, 1e-4)
    expected = example.outputs(example.model)
    for found in (got, {name: predicted(module, example.rows, name)}):
        kept = {}
        for key, value in found.items():
            kept[key] = expected[key].copy()
            kept[key][away] = value[away]
        assert_agree(kept, {key: expected[key] for key in kept})


@examples(80)
@given(st.one_of(regressors(), classifiers()), st.sampled_from([1e-7, 0.1]))
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
        assert torch.isfinite(found).all()
        found.square().sum().backward()
        for value in (*module.tensors().values(), rows):
            assert value.grad is None or torch.isfinite(value.grad).all()


def learned(example: Example) -> dict[str, Array]:
    module = onnxtune.to_torch(example.model, routing="hard")
    return {name: value.detach().numpy() for name, value in module.tensors().items()}


@examples(60)
@given(st.one_of(regressors(), classifiers(), numbered()))
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
    assert_agree(example.outputs(hard), expected)
    assert_agree({name: predicted(module, example.rows, name)}, {name: expected[name]})
    return expected, hard


@examples(80)
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


@examples(80)
@given(st.one_of(regressors(), classifiers()))
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
