"""Ensembles with other trees: parts, copies, and copies that stand for a soft model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from forests import (
    Array,
    Trees,
    assert_agree,
    away_from_thresholds,
    classifier,
    indexed,
    leaf_numbers,
    random_rows,
    random_trees,
    random_weights,
    regressor,
    without_leaf_roots,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pipelines import exported

import onnxtune
from onnxtune.export import as_held, native
from onnxtune.model import load
from onnxtune.partition import partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.resizing import Resized, carried, dithered, resized, tree_nodes, tree_shapes
from onnxtune.runtime import run
from onnxtune.torch_module import learned_tensors

LEQ, LT, GT, GTE, EQ = (f"BRANCH_{word}" for word in ("LEQ", "LT", "GT", "GTE", "EQ"))
ROWS = 40

slow = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def own_tensors(prepared: Prepared) -> dict[str, Array]:
    learned = learned_tensors(prepared, partition(prepared), {})
    return {name: np.asarray(tensor.value) for name, tensor in learned.items()}


def outputs(proto: onnx.ModelProto, rows: Array) -> dict[str, Array]:
    return run(proto, {"x": rows})


def taking(prepared: Prepared, trees: Any, tensors: Mapping[str, Array], scale: float = 1) -> Any:
    """The model of these trees with these tensors, native."""
    new = resized(prepared, {"trees": np.asarray(trees)})
    return native(new.prepared, carried(new, tensors, {"trees": scale})).proto


def moved(prepared: Prepared, tensors: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Other numbers of the same signs, as the file holds them; infinite thresholds stay."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, value in tensors.items():
        factor = rng.uniform(0.5, 1.5, value.shape)
        finite = np.abs(value) < 1e30
        found[name] = value.copy()
        found[name][finite] *= factor[finite].astype(value.dtype)
    return as_held(prepared, found)


@st.composite
def options(draw: Any) -> dict[str, Any]:
    modes = draw(st.sampled_from([(LEQ,), (LT, GT), (LEQ, LT, GT, GTE), (LEQ, EQ), (EQ,)]))
    operator = draw(st.sampled_from(["regressor", "classifier", "indexed"]))
    return {
        "operator": operator,
        "seed": draw(st.integers(0, 2**32 - 1)),
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "columns": draw(st.integers(1, 3)),
        "votes": "tree" if operator == "indexed" else draw(
            st.sampled_from(["dense", "tree", "sparse", "doubled"])),
        "aggregate": 0 if operator == "classifier" else draw(st.integers(0, 3)),
        "base": draw(st.booleans()),
        "modes": modes,
        "categories": EQ in modes,
        "count": draw(st.integers(1, 7)),
        "depth": draw(st.integers(1, 5)),
        "missing": draw(st.booleans()),
        "infinite": draw(st.booleans()),
        "shared": operator != "indexed" and draw(st.booleans()),
    }  # fmt: skip


def built(
    operator: str,
    seed: int,
    dtype: Any,
    columns: int,
    votes: Any,
    aggregate: int,
    base: bool,
    **held: Any,
) -> tuple[Prepared, Array, Trees]:
    """A model of one node `trees` that holds what an operator may, and rows."""
    rng = np.random.default_rng(seed)
    doubles = dtype is np.float64 and not held["categories"] and operator != "indexed"
    trees = random_trees(rng, doubles=doubles, **held)
    if held["shared"] or operator == "indexed" or EQ in trees.mode:
        # onnxruntime mixes up leaves that nothing reaches where the first tree is a leaf.
        assume(max(np.bincount(trees.tree)) > 1)
        trees = without_leaf_roots(trees)
    weights = random_weights(rng, trees, columns, votes, doubles=doubles)
    word = ["AVERAGE", "SUM", "MIN", "MAX"][aggregate]
    bases = rng.random(columns) if base else ()
    if operator == "indexed":
        model = indexed(rng, trees, weights, columns, aggregate=aggregate, dtype=dtype, sets=True)
    elif operator == "regressor":
        model = regressor(trees, weights, columns, dtype=dtype, as_tensors=doubles, base=bases,
                          aggregate_function=word)  # fmt: skip
    else:
        model = classifier(trees, weights, columns, dtype=dtype, as_tensors=doubles, base=bases,
                           link="SOFTMAX" if columns == 3 else "NONE")  # fmt: skip
    return prepare(load(model)), random_rows(rng, trees, ROWS, dtype), trees


@slow
@given(options())
def test_all_trees_in_order_are_the_same_function(held: dict[str, Any]) -> None:
    prepared, rows, trees = built(**held)
    count = int(trees.tree.max()) + 1
    own = own_tensors(prepared)
    expected = outputs(prepared.source.proto, rows)
    for name, value in outputs(taking(prepared, range(count), own), rows).items():
        np.testing.assert_array_equal(value, expected[name])
    order = np.random.default_rng(0).permutation(count)
    assert_agree(outputs(taking(prepared, order, own), rows), expected)
    # Least, largest and mean of copies are those of the originals.
    total = held["aggregate"] == 1 or held["operator"] == "classifier"
    copies = taking(prepared, np.tile(range(count), 3), own, 1 / 3 if total else 1)
    assert_agree(outputs(copies, rows), expected, loosely=total)


@slow
@given(options())
def test_numbers_come_from_where_origin_says(held: dict[str, Any]) -> None:
    """Tuned and then taken is the same as taken and then tuned."""
    prepared, rows, trees = built(**held)
    count = int(trees.tree.max()) + 1
    tuned = moved(prepared, own_tensors(prepared), held["seed"])
    written = native(prepared, tuned)
    assume(not written.replaced)
    again = prepare(load(written.proto))
    rng = np.random.default_rng(held["seed"])
    for chosen in (np.arange(count), rng.permutation(count), rng.integers(count, size=2 * count)):
        first = resized(again, {"trees": chosen}).prepared.source.proto
        second = taking(prepared, chosen, tuned)
        for name, value in outputs(first, rows).items():
            np.testing.assert_array_equal(outputs(second, rows)[name], value)


@slow
@given(options(), st.integers(1, 6))
def test_parts_add_up(held: dict[str, Any], cut: int) -> None:
    held |= {"aggregate": 1, "base": False}
    if held["operator"] == "classifier":
        held["operator"] = "regressor"
    prepared, rows, trees = built(**held)
    count = int(trees.tree.max()) + 1
    assume(cut < count)
    own = own_tensors(prepared)
    order = np.random.default_rng(held["seed"]).permutation(count)
    parts = [outputs(taking(prepared, part, own), rows)["y"] for part in np.split(order, [cut])]
    whole = outputs(prepared.source.proto, rows)["y"]
    size = max(float(np.abs(part).max()) for part in (whole, *parts))
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_each_tree_alone_reaches_its_leaves(as_tensors: bool) -> None:
    rng = np.random.default_rng(0)
    trees = random_trees(rng, count=9, depth=5, modes=(LEQ, LT, GT, GTE), missing=True)
    dtype = np.float64 if as_tensors else np.float32
    model = regressor(trees, leaf_numbers(trees), 9, dtype=dtype, as_tensors=as_tensors)
    prepared, rows = prepare(load(model)), random_rows(rng, trees, 200, dtype)
    own, whole = own_tensors(prepared), outputs(model, rows)["y"]
    for chosen in ([4], [8, 0], [3, 3]):
        expected = np.zeros_like(whole)
        for tree in chosen:
            expected[:, tree] += whole[:, tree]
        np.testing.assert_array_equal(outputs(taking(prepared, chosen, own), rows)["y"], expected)
    (shape,) = tree_shapes(prepared, ["trees"])
    new = resized(prepared, {"trees": np.array([8, 0])}).prepared
    (smaller,) = tree_shapes(new, ["trees"])
    np.testing.assert_array_equal(smaller.inner, shape.inner[[8, 0]])
    np.testing.assert_array_equal(smaller.depths, shape.depths[[8, 0]])


@pytest.mark.parametrize("columns", [1, 2])
def test_a_leaf_of_several_parents_has_one_row(columns: int) -> None:
    rng = np.random.default_rng(0)
    held = {"count": 3, "depth": 4, "shape": "balanced", "shared": True}
    trees = random_trees(rng, **held)
    model = regressor(trees, random_weights(rng, trees, columns), columns)
    prepared, rows = prepare(load(model)), random_rows(rng, trees, ROWS)
    own = own_tensors(prepared)
    again = run(onnxtune.convert(model, "hard"), {"x": rows})
    assert_agree(again, outputs(model, rows))
    for name, size in (("thresholds", trees.inner.sum()), ("leaf_values", len(trees.leaves))):
        assert len(own[f"trees/{name}"]) < size  # what nothing reaches is not there
    new = resized(prepared, {"trees": np.tile(np.arange(3), 2)})
    shapes = {name: value.shape for name, value in own_tensors(new.prepared).items()}
    for name, value in carried(new, own, {}).items():
        assert value.shape == shapes[name] == (2 * len(own[name]), *own[name].shape[1:])
    assert_agree(outputs(taking(prepared, np.tile(range(3), 2), own, 0.5), rows), again)


def test_all_else_of_the_node_and_the_model_stays() -> None:
    rng = np.random.default_rng(1)
    trees = random_trees(rng, count=4, shape="balanced", missing=True)
    model = classifier(trees, random_weights(rng, trees, 3), 3, base=[0.1, 0.2, 0.3],
                       link="SOFTMAX", nodes_hitrates=np.arange(len(trees.tree)) + 0.0)  # fmt: skip
    model.metadata_props.add(key="owner", value="somebody")
    prepared = prepare(load(model))
    written = resized(prepared, {"trees": np.array([2])}).prepared.source.proto
    before, after = (
        {a.name: a for a in proto.graph.node[0].attribute} for proto in (model, written)
    )
    assert set(before) == set(after)
    for name in ("classlabels_int64s", "post_transform", "base_values"):
        assert before[name] == after[name]
    kept = np.flatnonzero(trees.tree == 2)
    assert list(after["nodes_hitrates"].floats) == kept.tolist()
    assert len(after["nodes_missing_value_tracks_true"].ints) == len(kept)
    assert written.metadata_props == model.metadata_props
    assert written.graph.output == model.graph.output
    assert prepared.source.proto == model


def test_groups_are_trees_that_vote_for_the_same() -> None:
    rng = np.random.default_rng(0)
    trees = random_trees(rng, count=6, shape="balanced")
    names = ["trees"]
    for votes, count in (("tree", 3), ("dense", 1)):
        prepared = prepare(load(regressor(trees, random_weights(rng, trees, 3, votes), 3)))
        groups = tree_nodes(prepared, names)["trees"]
        assert len(groups) == 6 and len(np.unique(groups)) == count
        if count == 3:
            np.testing.assert_array_equal(groups[:3], groups[3:])
        assert tree_nodes(prepared, ["another"]) == {}
    for word in ("MIN", "MAX"):
        model = regressor(trees, random_weights(rng, trees, 1), 1, aggregate_function=word)
        assert tree_nodes(prepare(load(model)), names) == {}
    assert tree_nodes(prepare(load(exported("ridge"))), names) == {}


def hardened(
    model: onnx.ModelProto, copies: int, seed: int = 0, drop: str = "", temperature: float = 0.3
) -> tuple[Any, Resized, dict[str, Array]]:
    """The soft module, and what stands for it."""
    module = onnxtune.to_torch(model, "soft", temperature=temperature)
    prepared, learned = module.prepared, module.learned
    tensors = {n: np.asarray(t.value) for n, t in learned.items() if not drop or drop not in n}
    nodes = tree_nodes(prepared, [node.name for node in prepared.proto.graph.node])
    return module, *dithered(prepared, learned, tensors, nodes, copies, temperature, seed)


def forest(columns: int = 1, seed: int = 0, **more: Any) -> tuple[onnx.ModelProto, Array, Trees]:
    rng = np.random.default_rng(seed)
    trees = random_trees(rng, count=4, depth=3, shape="balanced", infinite=True, missing=True)
    model = regressor(trees, random_weights(rng, trees, columns), columns, **more)
    rows = rng.normal(size=(150, trees.width)).astype(np.float32)
    rows[::7, 0] = np.nan
    return model, rows, trees


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_noise_is_spread_evenly_over_the_copies(copies: int) -> None:
    model, _, _ = forest()
    module, new, tensors = hardened(model, copies)
    learned = module.learned["trees/thresholds"]
    before, origin = learned.value, new.taken["trees"].origin["thresholds"]
    after = tensors["trees/thresholds"]
    assert len(after) == copies * len(before) and after.dtype == before.dtype
    finite = np.isfinite(before)
    assert 0 < finite.sum() < len(before)
    np.testing.assert_array_equal(after[~finite[origin]], before[origin][~finite[origin]])
    width = 0.3 * np.broadcast_to(learned.unit, before.shape)
    shares = []
    for number in np.flatnonzero(finite):
        noise = (after[origin == number].astype(float) - before[number]) / width[number]
        share = np.sort(1 / (1 + np.exp(-noise)))
        shares.append(share)
        # One in each of as many equal strata.
        low = np.arange(copies) / copies
        assert (share >= low - 1e-5).all() and (share <= low + 1 / copies + 1e-5).all()
    assert np.std(shares) > 0.2
    # Each copy of a tree has noise of its own.
    assert len(np.unique(after[finite[origin]])) > 0.9 * finite.sum() * copies


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE"])
@pytest.mark.parametrize("columns", [1, 3])
def test_many_copies_come_near_the_soft_model(columns: int, aggregate: str) -> None:
    more = {"base": np.arange(columns) + 1.0, "aggregate_function": aggregate}
    model, rows, _ = forest(columns, **more)
    errors = []
    for copies in (1, 8, 128):
        module, new, tensors = hardened(model, copies)
        soft = module.predict(rows)["y"].detach().numpy()
        found = outputs(native(new.prepared, tensors).proto, rows)["y"]
        errors.append(np.sqrt(np.mean(np.square(found - soft))) / soft.std())
    assert errors[2] < 0.05 < errors[0]
    assert errors[2] < errors[1] < errors[0]


def test_one_copy_keeps_the_size_and_seeds_repeat() -> None:
    model, _, _ = forest()
    _, new, tensors = hardened(model, 1, seed=3)
    assert new.prepared.source.proto.ByteSize() == model.ByteSize()
    own = own_tensors(prepare(load(model)))
    np.testing.assert_array_equal(tensors["trees/leaf_values"], own["trees/leaf_values"])
    assert (tensors["trees/thresholds"] != own["trees/thresholds"]).any()
    for copies in (1, 4):
        first, again, other = (hardened(model, copies, seed)[2] for seed in (3, 3, 4))
        for name in first:
            np.testing.assert_array_equal(first[name], again[name])
        assert (first["trees/thresholds"] != other["trees/thresholds"]).any()


def test_frozen_thresholds_stay_in_every_copy() -> None:
    model, rows, _ = forest()
    _, new, tensors = hardened(model, 4, drop="thresholds")
    found = native(new.prepared, tensors)
    assert "trees/thresholds" not in found.changed
    assert_agree(outputs(found.proto, rows), outputs(model, rows))


def test_frozen_leaves_are_divided_among_the_copies() -> None:
    """Else the copies would say M times what the model says."""
    model, rows, trees = forest()
    _, new, tensors = hardened(model, 4, drop="leaf_values", temperature=1e-6)
    away = away_from_thresholds(trees, rows, 1e-3)
    found = outputs(native(new.prepared, tensors).proto, rows)["y"][away]
    assert_agree({"y": found}, {"y": outputs(model, rows)["y"][away]})


def test_a_pipeline_around_the_trees_stays() -> None:
    model = exported("forest")
    module, new, tensors = hardened(model, 2)
    written = native(new.prepared, tensors).proto
    assert [node.op_type for node in written.graph.node] == [
        node.op_type for node in model.graph.node
    ]
    assert set(tensors) == set(module.learned)
    rows = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32)
    found = run(written, {"X": rows})[
        "output_probability" if False else written.graph.output[1].name
    ]
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
