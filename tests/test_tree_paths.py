"""Straight-through routing by the rows' paths: the gradients of routing through every node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from forests import (
    COMPARED,
    Array,
    Trees,
    Weights,
    random_rows,
    random_trees,
    random_weights,
    regressor,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxtune
from onnxtune import tree_paths
from onnxtune.learned import ir_node
from onnxtune.model import load
from onnxtune.preparation import prepare
from rewrites.trees.ensemble import Ensemble, ensemble_of
from rewrites.trees.listed import read_listed
from rewrites.trees.tensors import entry_places, threshold_numbers

LEQ, LT, GT, GTE, EQ, NEQ = (f"BRANCH_{word}" for word in ("LEQ", "LT", "GT", "GTE", "EQ", "NEQ"))
TEMPERATURE = 0.3
AGGREGATES = ["SUM", "AVERAGE", "MIN", "MAX"]


@dataclass(frozen=True)
class Example:
    """An ensemble with its weights, and rows: plain ones for the spreads, and any."""

    trees: Trees
    weights: Weights
    columns: int
    aggregate: str
    plain: Array
    rows: Array
    as_tensors: bool = False

    @property
    def model(self) -> onnx.ModelProto:
        return regressor(
            self.trees, self.weights, self.columns, dtype=self.rows.dtype,
            as_tensors=self.as_tensors, aggregate_function=self.aggregate,
        )  # fmt: skip

    @property
    def ensemble(self) -> Ensemble:
        prepared = prepare(load(self.model))
        node = ir_node(prepared, prepared.proto.graph.node[0])
        columns = np.unique(self.weights.ids)
        return ensemble_of(read_listed(node, "target", self.columns, self.rows.dtype), columns)

    def module(self) -> Any:
        return onnxtune.to_torch(
            self.model, "straight-through", temperature=TEMPERATURE, data=self.plain
        )


@dataclass(frozen=True)
class Found:
    """Scores, and gradients by place in the operator's lists."""

    scores: torch.Tensor
    thresholds: torch.Tensor
    leaves: torch.Tensor
    rows: torch.Tensor


def example(
    seed: int,
    *,
    columns: int = 1,
    votes: Any = "dense",
    aggregate: str = "SUM",
    dtype: Any = np.float32,
    rows: int = 24,
    coarse: bool = False,
    **options: Any,
) -> Example:
    rng = np.random.default_rng(seed)
    doubles = dtype is np.float64 and not options.get("categories")
    trees = random_trees(rng, doubles=doubles, **options)
    weights = random_weights(rng, trees, columns, votes, doubles=doubles, coarse=coarse)
    plain = rng.normal(size=(100, trees.width)).astype(dtype)
    held = random_rows(rng, trees, rows, dtype)
    held[: rows // 3] = rng.normal(size=(rows // 3, trees.width))
    return Example(trees, weights, columns, aggregate, plain, held, doubles)


def reference(of: Example, flow: Array) -> Found:
    """Every row through every node, by straight-through gates, in double precision."""
    trees, weights = of.trees, of.weights
    spread = of.plain.astype(np.float64).std(axis=0)
    # x < inf is x <= the largest number.
    strict = np.isin(trees.mode, [LT, GTE]) & np.isposinf(trees.value)
    largest = np.where(strict, np.finfo(of.rows.dtype).max, trees.value)
    limits = torch.tensor(largest, dtype=torch.float64, requires_grad=True)
    leaves = torch.tensor(weights.numbers, dtype=torch.float64, requires_grad=True)
    rows = torch.from_numpy(of.rows).double().requires_grad_()
    place = {key: at for at, key in enumerate(zip(trees.tree, trees.node, strict=True))}
    entries: dict[tuple[int, int], list[int]] = {}
    for at, (tree, node) in enumerate(weights.leaves.tolist()):
        entries.setdefault((tree, node), []).append(at)

    def passed(at: int) -> torch.Tensor:
        """[N]: how much goes to the true child."""
        column, mode = trees.feature[at], trees.mode[at]
        x, missing = rows[:, column], torch.from_numpy(np.isnan(of.rows[:, column]))
        step = torch.from_numpy(COMPARED[mode](of.rows[:, column], trees.value[at])).double()
        if mode not in (EQ, NEQ):
            distance = limits[at] - x
            distance = torch.where(distance.isnan(), torch.zeros_like(distance), distance)
            soft = torch.sigmoid(distance / (TEMPERATURE * spread[column]))
            soft = 1 - soft if mode in (GT, GTE) else soft
            # inf - inf has no distance to learn from.
            soft = torch.where((limits[at] - x).isnan(), step, soft)
            step = soft + (step - soft).detach()
        if mode == NEQ:
            return step
        return torch.where(missing, torch.full_like(step, float(trees.missing[at])), step)

    def total(root: int) -> torch.Tensor:
        """[N, K] of one tree."""
        shares, values = [], []
        open_nodes = [(root, torch.ones(len(rows), dtype=torch.float64))]
        while open_nodes:
            at, share = open_nodes.pop()
            tree = trees.tree[at]
            if trees.mode[at] == "LEAF":
                row = torch.zeros(of.columns, dtype=torch.float64)
                for entry in entries.get((tree, trees.node[at]), []):
                    one = torch.nn.functional.one_hot(torch.tensor(weights.ids[entry]), of.columns)
                    row = row + one * leaves[entry]
                shares.append(share)
                values.append(row)
                continue
            gate = passed(at)
            open_nodes.append((place[tree, trees.true[at]], share * gate))
            open_nodes.append((place[tree, trees.false[at]], share * (1 - gate)))
        return torch.stack(shares, 1) @ torch.stack(values)

    roots = np.flatnonzero(np.r_[True, np.diff(trees.tree) != 0])
    by_tree = torch.stack([total(int(root)) for root in roots])
    reduced = {"SUM": by_tree.sum(0), "MIN": by_tree.amin(0), "MAX": by_tree.amax(0)}
    scores = reduced.get(of.aggregate, by_tree.mean(0))
    (scores * torch.from_numpy(flow)).sum().backward()
    gradients = [
        torch.zeros_like(value) if value.grad is None else value.grad
        for value in (limits, leaves, rows)
    ]
    return Found(scores.detach(), *gradients)


def by_paths(of: Example, flow: Array) -> Found:
    module, ensemble = of.module(), of.ensemble
    rows = torch.from_numpy(of.rows).requires_grad_()
    scores = module(rows)["y"]
    (scores * torch.from_numpy(flow).to(scores.dtype)).sum().backward()
    tensors = module.tensors()
    thresholds = torch.zeros(len(of.trees.value), dtype=torch.float64)
    if "trees/thresholds" in tensors:
        first = ensemble.inner_places[threshold_numbers(ensemble)[0]]
        held = tensors["trees/thresholds"].grad
        thresholds[first] = 0.0 if held is None else held.double()
    leaves = torch.zeros(len(of.weights.numbers), dtype=torch.float64)
    leaves[entry_places(ensemble)] = tensors["trees/leaf_values"].grad.double().ravel()
    own = torch.zeros_like(rows) if rows.grad is None else rows.grad
    return Found(scores.detach(), thresholds, leaves, own.double())


def check(of: Example) -> Found:
    """Both ways, with the same numbers."""
    flow = np.random.default_rng(1).normal(size=(len(of.rows), of.columns))
    got, expected = by_paths(of, flow), reference(of, flow)
    # What adds up is of size 1, so that floats lose that much where it cancels.
    least = 1e-6 if got.scores.dtype == torch.float32 else 1e-12
    for name, wanted in vars(expected).items():
        found = getattr(got, name)
        assert torch.isfinite(found).all(), name
        size = float(wanted.abs().max()) if wanted.numel() else 0.0
        close = torch.isclose(found.double(), wanted.double(), rtol=1e-5, atol=1e-5 * size + least)
        assert close.all(), (name, found[~close], wanted[~close])
    return got


@st.composite
def options(draw: Any) -> dict[str, Any]:
    """What `example` takes."""
    modes = draw(st.sampled_from([(LEQ,), (LT,), (LEQ, LT, GT, GTE), (LEQ, EQ), (GT, NEQ)]))
    categories = bool({EQ, NEQ} & {*modes})
    columns = draw(st.integers(1, 3))
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "columns": columns,
        "votes": draw(st.sampled_from(["dense", "dense", "tree", "sparse"])),
        "aggregate": draw(st.sampled_from(["SUM", "AVERAGE"] if columns > 1 else AGGREGATES)),
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "coarse": draw(st.booleans()),  # the least and the largest may be of several trees
        "count": draw(st.integers(1, 6)),
        "depth": draw(st.integers(1, 5)),
        "shape": draw(st.sampled_from(["mixed", "balanced", "chain", "grown"])),
        "modes": modes,
        "categories": categories,
        "missing": draw(st.booleans()) and not categories,
        "infinite": draw(st.booleans()),
        "shared": draw(st.booleans()) and not categories,
    }


@settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(options())
def test_gradients_equal_those_through_all_nodes(held: dict[str, Any]) -> None:
    check(example(**held))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "depth"), [("chain", 10), ("chain", 14), ("grown", 16), ("balanced", 10)]
)
def test_deep_trees(shape: Any, depth: int, dtype: Any) -> None:
    count = 1 if shape == "balanced" else 8
    of = example(depth, shape=shape, depth=depth, count=count, missing=True, dtype=dtype, rows=18)
    assert of.ensemble.depth > tree_paths._DEEP
    check(of)


def stairs(steps: int, rows: int = 60) -> Example:
    """One tree that rows go down to any depth, each step a decision with a tree at its side."""
    rng = np.random.default_rng(steps)
    modes, features, values, true, false = [], [], [], [], []
    for step in range(steps):
        modes += [LEQ, LEQ, "LEAF", "LEAF"]
        features += [0, 1, 0, 0]
        values += [step / steps, rng.normal(), 0.0, 0.0]
        true += [4 * step + 1, 4 * step + 2, 0, 0]
        false += [4 * step + 4, 4 * step + 3, 0, 0]
    modes.append("LEAF")
    for column in (features, values, true, false):
        column.append(0)
    numbers = np.arange(len(modes))
    leaves = np.array([(0, at) for at in numbers if modes[at] == "LEAF"])
    trees = Trees(
        0 * numbers, numbers, np.array(features), np.array(values, np.float32).astype(float),
        modes, np.array(true), np.array(false), 0 * numbers, leaves, 2,
    )  # fmt: skip
    held = rng.normal(size=(rows, 2))
    held[:, 0] = rng.random(rows) * 1.1
    weights = Weights(leaves, 0 * leaves[:, 0], rng.normal(size=len(leaves)))
    return Example(trees, weights, 1, "SUM", held.astype("f"), held.astype("f"))


@pytest.mark.parametrize("steps", [8, 9, 10, 13, 14, 15, 16, 40])
def test_ways_that_end_at_any_depth(steps: int) -> None:
    of = stairs(steps)
    found = check(of)
    assert (found.thresholds != 0).sum() > 1.5 * steps


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_aggregates_of_several_columns(aggregate: str) -> None:
    of = example(3, columns=6, aggregate=aggregate, count=7, shape="balanced", depth=3)
    found = check(of)
    assert (found.leaves != 0).any() and (found.thresholds != 0).any()


def test_single_leaves_have_no_thresholds() -> None:
    found = check(example(0, shape="leaf", count=4, columns=2))
    assert not found.thresholds.any() and not found.rows.any()
    check(example(8, shape="mixed", count=12, columns=2))


def test_no_gradient_beyond_missing_and_infinite_values() -> None:
    of = example(5, count=6, shape="balanced", missing=True, infinite=True, rows=60)
    assert np.isnan(of.rows).any() and np.isinf(of.rows).any()
    found = check(of)
    assert not found.rows[~torch.isfinite(torch.from_numpy(of.rows))].any()
    assert not found.thresholds[torch.from_numpy(np.isinf(of.trees.value))].any()


@pytest.mark.parametrize("block", [1, 40, 700])
def test_any_size_of_blocks_gives_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    of = example(2, count=9, depth=12, shape="grown", columns=2, missing=True, dtype=np.float64)
    flow = np.random.default_rng(0).normal(size=(len(of.rows), 2))
    whole = by_paths(of, flow)
    monkeypatch.setattr(tree_paths, "_BLOCK", block)
    parts = by_paths(of, flow)
    assert torch.equal(parts.scores, whole.scores)
    for name in ("thresholds", "leaves", "rows"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


def test_blocks_hold_every_tree_once(monkeypatch: pytest.MonkeyPatch) -> None:
    depths = sorted([0, 0, 1, 1, 3, 4, 4, 9, 20, 21, 60])
    roots = torch.arange(len(depths), dtype=torch.int32)
    none = torch.zeros(1, dtype=torch.int32)
    walk = tree_paths._Walk(
        tree_paths.Trees(none, none, none, none, roots), torch.zeros(1), torch.zeros(50, 2)
    )
    for block in (1, 100, 1000, 1 << 19):
        monkeypatch.setattr(tree_paths, "_BLOCK", block)
        for squared in (False, True):
            found = list(walk.blocks(depths, squared))
            assert torch.equal(torch.cat([part for part, _ in found]), roots)
            for part, depth in found:
                assert depth == max(depths[number] for number in part.tolist())
                assert len(part) == 1 or len(part) * 50 * (depth if squared else 1) <= block


def test_no_rows() -> None:
    module = example(0, count=3, shape="balanced", columns=3).module()
    rows = torch.zeros(0, 4, requires_grad=True)
    found = module(rows)["y"]
    assert found.shape == (0, 3)
    found.sum().backward()
    assert rows.grad is not None and rows.grad.shape == (0, 4)
    assert not any(tensor.grad.any() for tensor in module.tensors().values())


def test_leaves_alone_have_the_same_gradient() -> None:
    of = example(4, count=5, shape="grown", depth=6, columns=2)
    whole, frozen = of.module(), of.module()
    frozen.freeze("*/thresholds")
    rows = torch.from_numpy(of.rows)
    for module in (whole, frozen):
        module(rows)["y"].square().sum().backward()
    name = "trees/leaf_values"
    assert frozen.tensors()["trees/thresholds"].grad is None
    assert torch.equal(frozen.tensors()[name].grad, whole.tensors()[name].grad)
    hard = onnxtune.to_torch(of.model, "hard")
    hard(rows)["y"].square().sum().backward()
    torch.testing.assert_close(hard.tensors()[name].grad, whole.tensors()[name].grad)


def test_rows_alone_have_the_same_gradient() -> None:
    of = example(6, count=5, shape="balanced", depth=4)
    found = []
    for frozen in (False, True):
        module = of.module()
        if frozen:
            module.freeze("*")
        rows = torch.from_numpy(of.rows).requires_grad_()
        module(rows)["y"].sum().backward()
        found.append(rows.grad)
    assert torch.equal(*found) and found[0].any()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_with_gradients(dynamic: bool) -> None:
    of = example(7, count=6, depth=11, shape="grown", columns=2, missing=True)
    module = of.module()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for count in (len(of.rows), 7):
        found = []
        for either in (module, compiled):
            rows = torch.from_numpy(of.rows[:count].copy()).requires_grad_()
            module.zero_grad()
            scores = either(rows)["y"]
            scores.square().sum().backward()
            found.append([scores.detach(), rows.grad, *(t.grad for t in module.parameters())])
        for plain, other in zip(*found, strict=True):
            assert torch.equal(plain, other)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it of what has none
@pytest.mark.parametrize("turned", [False, True])
def test_operators_keep_the_rules_of_torch(turned: bool) -> None:
    """Shapes without data, gradients, no hidden writes; rows of any layout."""
    generator = torch.Generator().manual_seed(0)
    # Two trees: a decision on column 1, and a leaf.
    held = [[1, 0, 0, 0], [1, 1, 2, 3], [0, 1, 1, 1], [0, 0, 1, 2], [3, 0]]
    tables = [torch.tensor(table, dtype=torch.int32) for table in held]
    rows = torch.randn(2, 6, generator=generator).T if turned else torch.randn(6, 2)
    values = [torch.zeros(1), torch.tensor([[1.0], [2.0], [4.0]])]
    if turned:
        values[1] = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]]).T
    learned = [value.requires_grad_() for value in (*values, rows.detach())]
    slopes = torch.ones(1)
    torch.library.opcheck(
        torch.ops.onnxtune.path_scores.default, (*tables, [0, 1], "Sum", *learned, slopes)
    )
    torch.library.opcheck(
        torch.ops.onnxtune.reached_leaves.default,
        (*tables, [0, 1], values[0].detach(), rows.detach()),
    )
