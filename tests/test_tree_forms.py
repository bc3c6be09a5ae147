"""The forms of hard routing: each equals onnxruntime, and the forecast chooses among them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from forests import (
    Array,
    assert_agree,
    classifier,
    indexed,
    leaf_numbers,
    random_rows,
    random_trees,
    random_weights,
    regressor,
    without_leaf_roots,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxtune
from onnxtune.cli import main
from onnxtune.conversion import rewritten, serving_for
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.inspection import inspect
from onnxtune.learned import ir_node
from onnxtune.model import load
from onnxtune.output import as_json
from onnxtune.preparation import prepare
from onnxtune.resizing import tree_shapes
from onnxtune.runtime import run
from rewrites.core.ensembles import EnsembleShape
from rewrites.core.graph_pass import Plan
from rewrites.core.rewrite import TREE_FORMS, Serving
from rewrites.trees.costs import choose, forecasts, most_trees, soft_row_bytes
from rewrites.trees.ensemble import ensemble_of
from rewrites.trees.listed import read_listed
from rewrites.trees.tables import NodeTables, node_tables
from rewrites.trees.traversal import _groups

MODES = [
    ("BRANCH_LEQ",), ("BRANCH_LT",), ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"),
    ("BRANCH_EQ",), ("BRANCH_EQ", "BRANCH_LEQ", "BRANCH_NEQ"),
]  # fmt: skip
ROWS = 40

quick = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def hard(model: onnx.ModelProto, memory: int | None = None, **options: Any) -> onnx.ModelProto:
    serving = Serving(**options, memory=memory)
    return rewritten(prepare(load(model)), Plan({}, 0.1, {}, serving=serving))


def names(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def groups_in(model: onnx.ModelProto) -> int:
    """How many groups of trees a traversal takes down."""
    return sum(name.endswith("root_features") for name in names(model))


def form_of(model: onnx.ModelProto) -> str:
    """Which form the nodes were written in."""
    held = names(model)
    if "trees/ways" in held:
        return "gemm"
    return "traversal" if groups_in(model) else "level-wise"


@st.composite
def options(draw: Any) -> dict[str, Any]:
    modes = draw(st.sampled_from(MODES))
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "columns": draw(st.sampled_from([1, 2, 3, 6])),
        "votes": draw(st.sampled_from(["dense", "tree", "sparse", "doubled"])),
        "aggregate": draw(st.sampled_from(["SUM", "SUM", "AVERAGE", "MIN", "MAX"])),
        "modes": modes,
        "categories": "BRANCH_EQ" in modes,
        "count": draw(st.integers(1, 9)),
        "depth": draw(st.integers(1, 6)),
        "shape": draw(st.sampled_from(["mixed", "balanced", "chain", "grown"])),
        "missing": draw(st.booleans()),
        "infinite": draw(st.booleans()),
    }


def drawn(
    seed: int, dtype: Any, columns: int, votes: Any, aggregate: str, **trees: Any
) -> tuple[onnx.ModelProto, Array]:
    rng = np.random.default_rng(seed)
    doubles = dtype is np.float64 and not trees["categories"]
    held = random_trees(rng, doubles=doubles, **trees)
    weights = random_weights(rng, held, columns, votes, doubles=doubles)
    model = regressor(
        held, weights, columns, dtype=dtype, as_tensors=doubles, aggregate_function=aggregate
    )
    return model, random_rows(rng, held, ROWS, dtype)


@quick
@given(options(), st.integers(0, 3))
def test_every_form_equals_onnxruntime(held: dict[str, Any], few: int) -> None:
    model, rows = drawn(**held)
    expected = run(model, {"x": rows})
    for form in TREE_FORMS:
        written = onnxtune.convert(model, "hard", trees=form)
        assert {node.domain for node in written.graph.node} <= {""}
        assert_agree(run(written, {"x": rows}), expected)
        assert run(written, {"x": rows[:0]})["y"].shape == (0, held["columns"])
    # Memory for a few trees at a time.
    sliced = hard(model, trees="traversal", memory=1 + few * 40, batch_size=1)
    assert_agree(run(sliced, {"x": rows}), expected)


@pytest.mark.parametrize("form", TREE_FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_row_reaches_the_same_leaf(form: Any, dtype: Any) -> None:
    rng = np.random.default_rng(4)
    trees = random_trees(rng, count=25, depth=6, missing=True, infinite=True, modes=MODES[2])
    model = regressor(trees, leaf_numbers(trees), 25, dtype=dtype)
    rows = random_rows(rng, trees, 400, dtype)
    written = onnxtune.convert(model, "hard", trees=form)
    assert form_of(written) == form
    np.testing.assert_array_equal(run(written, {"x": rows})["y"], run(model, {"x": rows})["y"])


@pytest.mark.parametrize("form", TREE_FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sets_of_categories(form: Any, dtype: Any) -> None:
    rng = np.random.default_rng(7)
    held = {"modes": ("BRANCH_EQ", "BRANCH_LEQ"), "categories": True, "missing": True}
    trees = without_leaf_roots(random_trees(rng, count=8, depth=4, shape="grown", **held))
    weights = random_weights(rng, trees, 3, "tree")
    model = indexed(rng, trees, weights, 3, dtype=dtype, sets=True)
    rows = random_rows(rng, trees, 300, dtype)
    written = onnxtune.convert(model, "hard", trees=form)
    assert form_of(written) == form
    assert_agree(run(written, {"x": rows}), run(model, {"x": rows}))


@pytest.mark.parametrize("form", TREE_FORMS)
def test_classes_and_their_labels(form: Any) -> None:
    rng = np.random.default_rng(1)
    trees = random_trees(rng, count=12, depth=5, missing=True)
    weights = random_weights(rng, trees, 7, "sparse")
    model = classifier(trees, weights, 7, link="SOFTMAX", words=True)
    rows = random_rows(rng, trees, 200)
    written = onnxtune.convert(model, "hard", trees=form)
    assert_agree(run(written, {"x": rows}), run(model, {"x": rows}))


def uneven(rng: np.random.Generator) -> Any:
    """Stumps, chains and large trees side by side."""
    parts = [
        random_trees(rng, count=40, depth=1, shape="balanced"),
        random_trees(rng, count=3, depth=25, shape="chain"),
        random_trees(rng, count=4, depth=8, shape="balanced"),
        random_trees(rng, count=2, shape="leaf"),
    ]
    columns: dict[str, Any] = {}
    shift = np.cumsum([0] + [int(part.tree.max()) + 1 for part in parts])
    for name in ("node", "feature", "value", "true", "false", "missing"):
        columns[name] = np.concatenate([getattr(part, name) for part in parts])
    columns["tree"] = np.concatenate([p.tree + s for p, s in zip(parts, shift, strict=False)])
    columns["mode"] = [mode for part in parts for mode in part.mode]
    columns["leaves"] = np.concatenate(
        [p.leaves + np.array([s, 0]) for p, s in zip(parts, shift, strict=False)]
    )
    return type(parts[0])(**columns, width=parts[0].width)


@pytest.mark.parametrize("columns", [1, 5])
def test_uneven_trees_go_down_in_groups(columns: int) -> None:
    rng = np.random.default_rng(0)
    trees = uneven(rng)
    weights = random_weights(rng, trees, columns)
    model = regressor(trees, weights, columns)
    rows = random_rows(rng, trees, 100)
    written = onnxtune.convert(model, "hard", trees="traversal")
    assert 1 < groups_in(written) <= 8
    assert_agree(run(written, {"x": rows}), run(model, {"x": rows}))
    for form in ("gemm", "level-wise"):
        other = onnxtune.convert(model, "hard", trees=form)  # type: ignore[arg-type]
        assert_agree(run(other, {"x": rows}), run(model, {"x": rows}))


@pytest.mark.parametrize("aggregate", ["SUM", "MIN", "MAX", "AVERAGE"])
def test_scarce_memory_takes_few_trees_at_a_time(aggregate: str) -> None:
    rng = np.random.default_rng(2)
    trees = random_trees(rng, count=30, depth=4, shape="balanced")
    model = regressor(trees, random_weights(rng, trees, 2), 2, aggregate_function=aggregate)
    rows = random_rows(rng, trees, 64)
    serving = Serving(batch_size=64)
    (shape,) = tree_shapes(prepare(load(model)), ["trees"])
    whole = next(f for f in forecasts(shape, serving) if f.form == "traversal").row_bytes * 64
    counts = []
    for share in (1.0, 0.5, 0.1, 1e-9):
        memory = max(1, int(whole * share))
        written = hard(model, memory, batch_size=64)
        assert form_of(written) == "traversal" or share == 1
        counts.append(groups_in(written))
        assert_agree(run(written, {"x": rows}), run(model, {"x": rows}))
    assert counts[1] >= 2 and counts[2] >= 10 and counts[3] == 30


def tables_of(model: onnx.ModelProto) -> NodeTables:
    prepared = prepare(load(model))
    node = ir_node(prepared, prepared.proto.graph.node[0])
    return node_tables(ensemble_of(read_listed(node, "target", 1, np.float32), np.arange(1)))


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.booleans())
def test_groups_hold_every_tree_once_with_little_padding(
    seed: int, count: int, skewed: bool
) -> None:
    rng = np.random.default_rng(seed)
    depths = rng.integers(0, 30, count) if skewed else rng.integers(5, 8, count)
    inner = np.maximum(depths, rng.integers(0, 4000, count) * (rng.random(count) < 0.3))
    sizes = np.where(depths > 0, 2 * inner + 1, 1)
    none = np.zeros(0, np.int64)
    tables = NodeTables(np.r_[0, np.cumsum(sizes)], none, none, depths, int(inner.sum()))
    found = _groups(tables)
    assert 1 <= len(found) <= 8
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(count))
    padded = sum(len(trees) * sizes[trees].max() for trees in found)
    levels = sum(len(trees) * depths[trees].max() for trees in found)
    # No worse than all at once, and bounded by what is there.
    assert padded <= count * sizes.max() and levels <= count * depths.max()
    assert len(found) == 8 or padded <= max(2 * sizes.sum(), 1e5)


def test_node_tables_tell_every_node_of_a_tree() -> None:
    rng = np.random.default_rng(3)
    trees = random_trees(rng, count=9, depth=5, shape="mixed")
    tables = tables_of(regressor(trees, random_weights(rng, trees, 1), 1))
    np.testing.assert_array_equal(tables.sizes, np.bincount(trees.tree))
    np.testing.assert_array_equal(np.sort(tables.slots), np.arange(len(trees.tree)))
    leaf = tables.slots >= tables.inner
    own = np.arange(len(leaf)) - np.repeat(tables.starts[:-1], tables.sizes)
    np.testing.assert_array_equal(tables.children[leaf], own[leaf])
    start = np.repeat(tables.starts[:-1], tables.sizes)[~leaf]
    below = np.r_[start + tables.children[~leaf], start + tables.children[~leaf] + 1]
    np.testing.assert_array_equal(np.sort(np.r_[below, tables.starts[:-1]]), np.arange(len(leaf)))


def shape_like(trees: int, inner: int, depth: int, columns: int = 1) -> EnsembleShape:
    return EnsembleShape(np.full(trees, depth), np.full(trees, inner), columns, 10)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("batch", [1, 1000])
def test_the_lowest_forecast_that_fits_is_taken(provider: Any, batch: int) -> None:
    for shape in (shape_like(5, 3, 2), shape_like(200, 63, 6), shape_like(100, 2000, 35)):
        serving = Serving(provider=provider, batch_size=batch)
        found = forecasts(shape, serving)
        assert sorted(f.form for f in found) == sorted(TREE_FORMS)
        assert [f.seconds for f in found] == sorted(f.seconds for f in found)
        assert choose(shape, serving, "here") == found[0]
        least = min(f.row_bytes for f in found)
        for memory in (least * batch, least * batch - 1):
            tight = Serving(provider=provider, batch_size=batch, memory=memory)
            taken = choose(shape, tight, "here")
            fitting = [f for f in found if f.row_bytes * batch <= memory or f.form == "traversal"]
            assert taken == fitting[0]
        for form in TREE_FORMS:
            asked = Serving(trees=form, provider=provider, batch_size=batch)
            assert choose(shape, asked, "here").form == form


def test_trees_at_a_time_stay_within_memory() -> None:
    shape = shape_like(100, 30, 5, columns=2)
    plenty = Serving(trees="traversal", batch_size=10)
    forecast = choose(shape, plenty, "here")
    assert most_trees(forecast, plenty, 100) == 100
    for memory in (1, 5000, 20_000, 10**9):
        tight = Serving(trees="traversal", batch_size=10, memory=memory)
        most = most_trees(forecast, tight, 100)
        assert 1 <= most <= 100
        assert most == 1 or most * forecast.row_bytes * 10 / 100 <= memory


def large(memory: int, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    monkeypatch.setattr("onnxtune.conversion.memory_at_hand", lambda: memory)
    rng = np.random.default_rng(5)
    trees = random_trees(rng, count=10, depth=6, shape="balanced")
    return regressor(trees, random_weights(rng, trees, 1), 1)


@pytest.mark.parametrize("form", ["gemm", "level-wise"])
def test_a_form_beyond_memory_is_refused_with_the_figures(
    form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = large(2_000_000, monkeypatch)
    (shape,) = tree_shapes(prepare(load(model)), ["trees"])
    size = next(f for f in forecasts(shape, Serving()) if f.form == form).row_bytes * 1000
    pattern = rf"'trees'.*{form} takes {size / 1e9:.2g} GB .*1,000 rows, and 0.001 GB.*traversal"
    with pytest.raises(UnsupportedError, match=pattern):
        onnxtune.convert(model, "hard", trees=form)
    with pytest.raises(UnsupportedError, match=pattern):
        inspect(model, trees=form)
    assert form_of(onnxtune.convert(model, "hard", trees=form, batch_size=1)) == form
    assert form_of(onnxtune.convert(model, "hard")) == "traversal"
    assert form_of(onnxtune.convert(model, "hard", trees=form, provider="cuda")) == form


def test_a_soft_form_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = large(2_000_000, monkeypatch)
    (shape,) = tree_shapes(prepare(load(model)), ["trees"])
    size = soft_row_bytes(shape) * 1000
    pattern = rf"'trees'.*soft form takes {size / 1e9:.2g} GB .*1,000 rows, and 0.001 GB.*smaller"
    with pytest.raises(UnsupportedError, match=pattern):
        onnxtune.convert(model, "soft")
    assert onnxtune.convert(model, "soft", batch_size=10).graph.node


def test_inspect_tells_form_forecast_and_memory() -> None:
    rng = np.random.default_rng(0)
    trees = random_trees(rng, count=20, depth=4, shape="balanced")
    model = regressor(trees, random_weights(rng, trees, 1), 1)
    report = inspect(model)
    held = report.nodes[0].trees
    assert held is not None
    assert (held.trees, held.depth) == (20, 4)
    assert set(held.row_seconds) == set(TREE_FORMS)
    assert held.row_seconds[held.form] == min(held.row_seconds.values())
    assert form_of(onnxtune.convert(model, "hard")) == held.form
    text = report.text().splitlines()[-1]
    assert text.startswith(f"trees: 20 trees of depth 4: {held.form}, forecast ")
    for word in (*TREE_FORMS, f"{held.row_bytes:,} bytes a row", f"{held.soft_row_bytes:,}"):
        assert word in text
    plain = json.loads(as_json(report))["nodes"][0]["trees"]
    assert plain["form"] == held.form and plain["row_bytes"] == held.row_bytes
    assert plain["row_seconds"] == held.row_seconds
    one = inspect(model, trees="level-wise", batch_size=1, provider="cuda").nodes[0].trees
    assert one is not None and one.form == "level-wise"
    assert one.row_seconds["level-wise"] > held.row_seconds["level-wise"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"trees": "fastest"}, "trees 'fastest' is none of auto, traversal, level-wise, gemm"),
        ({"provider": "tpu"}, "provider 'tpu' is none of cpu, cuda"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, not 2.5"),
        ({"batch_size": "many"}, "batch_size must be a whole number of at least 1, not 'many'"),
    ],
)
def test_wrong_arguments_are_named(option: dict[str, Any], message: str) -> None:
    trees = random_trees(np.random.default_rng(0), shape="balanced")
    model = regressor(trees, leaf_numbers(trees), 3)
    for function in (onnxtune.convert, inspect):
        with pytest.raises(ArgumentError, match=message):
            function(model, **option)
    assert serving_for("auto", np.int64(7), "cuda") == Serving(provider="cuda", batch_size=7)


def test_the_command_line_takes_the_form(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    trees = random_trees(rng, count=5, depth=3, shape="balanced")
    path, target = tmp_path / "model.onnx", tmp_path / "hard.onnx"
    onnx.save(regressor(trees, random_weights(rng, trees, 1), 1), path)
    for form in TREE_FORMS:
        options = ["--trees", form, "--batch-size", "1"]
        assert main(["convert", str(path), "--form", "hard", "-o", str(target), *options]) == 0
        assert form_of(onnx.load(target)) == form
        capsys.readouterr()
        assert main(["inspect", str(path), "--json", "--provider", "cuda", *options]) == 0
        found = json.loads(capsys.readouterr().out)["nodes"][0]["trees"]
        assert found["form"] == form
    alone = found["row_seconds"]["gemm"]
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"][0]["trees"]["row_seconds"]["gemm"] < alone
    assert main(["inspect", str(path), "--batch-size", "0"]) == 2
    assert "batch_size" in capsys.readouterr().err
    for wrong in (["--trees", "fast"], ["--provider", "tpu"], ["--batch-size", "few"]):
        with pytest.raises(SystemExit) as exit_:
            main(["inspect", str(path), *wrong])
        assert exit_.value.code == 2
