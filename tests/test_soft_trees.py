"""Soft routing in torch: scores and gradients of the soft form, in blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forests import Array, random_rows, random_trees, random_weights, regressor

import onnxtune
from onnxtune import soft_trees
from onnxtune.runtime import run
from onnxtune.soft_trees import blocks_of
from rewrites.trees.tables import node_tables

TEMPERATURE = 0.4


def example(shape: str, columns: int, dtype: type, rows: int = 80) -> tuple[object, Array]:
    rng = np.random.default_rng(7)
    trees = random_trees(rng, count=7, depth=5, width=4, shape=shape, missing=True)  # type: ignore[arg-type]
    weights = random_weights(rng, trees, columns, "dense" if columns > 1 else "single")
    return regressor(trees, weights, columns, dtype=dtype), random_rows(rng, trees, rows, dtype)


@pytest.mark.parametrize("size", [(1, 7), (16, 32), (1024, 256)])
@pytest.mark.parametrize(("shape", "columns"), [("balanced", 1), ("mixed", 3), ("leaf", 2)])
def test_scores_equal_the_exported_soft_form(
    shape: str, columns: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_trees, "_NODES", size[0])
    monkeypatch.setattr(soft_trees, "_ROWS", size[1])
    model, rows = example(shape, columns, np.float32)
    module = onnxtune.to_torch(model, temperature=TEMPERATURE)
    found = next(iter(module(torch.from_numpy(rows)).values())).detach().numpy()
    soft = (
        module.model("soft")
        if shape != "leaf"
        else onnxtune.convert(model, form="hard", temperature=TEMPERATURE)
    )
    expected = next(iter(run(soft, {"x": rows}).values()))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", ["balanced", "mixed", "chain"])
def test_gradients_equal_finite_differences(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_trees, "_NODES", 8)
    monkeypatch.setattr(soft_trees, "_ROWS", 5)
    model, rows = example(shape, 2, np.float64, rows=13)
    finite = torch.from_numpy(np.nan_to_num(rows, nan=0.3, posinf=2.0, neginf=-2.0))
    module = onnxtune.to_torch(model, temperature=TEMPERATURE)
    names = list(module.tensors())

    def scores(inputs: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        values = module.evaluate([inputs], dict(zip(names, tensors, strict=True)))
        return values[next(iter(module.cut.outputs.values()))]

    tensors = [module.tensors()[name].detach().requires_grad_() for name in names]
    wide = [finite.requires_grad_(), *tensors]
    if any(value.dtype != torch.float64 for value in wide):
        pytest.fail("a double model has double tensors")
    # The operator casts its scores to float32: the differences are taken before that.
    flow = torch.randn(13, 2, generator=torch.Generator().manual_seed(0))
    analytic = torch.autograd.grad((scores(*wide) * flow).sum(), wide)
    step = 1e-2
    for value, gradient in zip(wide, analytic, strict=True):
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).double()
        with torch.no_grad():
            moved = [
                (scores(*(v + sign * step * direction if v is value else v for v in wide)) * flow)
                for sign in (1, -1)
            ]
        numeric = float((moved[0] - moved[1]).sum()) / (2 * step)
        assert numeric == pytest.approx(float((gradient * direction).sum()), rel=0.05, abs=5e-3)


@pytest.mark.parametrize("size", [(1, 3), (20, 64)])
def test_blocks_of_any_size_give_the_same_gradients(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> list[torch.Tensor]:
        model, rows = example("mixed", 3, np.float32)
        module = onnxtune.to_torch(model, temperature=TEMPERATURE)
        inputs = torch.from_numpy(rows).requires_grad_()
        next(iter(module(inputs).values())).square().sum().backward()
        return [inputs.grad, *(tensor.grad for tensor in module.tensors().values())]

    whole = gradients()
    monkeypatch.setattr(soft_trees, "_NODES", size[0])
    monkeypatch.setattr(soft_trees, "_ROWS", size[1])
    for one, other in zip(whole, gradients(), strict=True):
        assert one is not None and other is not None
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_blocks_hold_every_node_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxtune.learned import ir_node
    from onnxtune.model import load
    from onnxtune.preparation import prepare
    from rewrites.tree_ensemble_regressor import _read

    monkeypatch.setattr(soft_trees, "_NODES", 10)
    model, _ = example("mixed", 1, np.float32)
    prepared = prepare(load(model))
    ensemble = _read(ir_node(prepared, prepared.proto.graph.node[0]))
    tables = node_tables(ensemble)
    starts = np.repeat(tables.starts[:-1], tables.sizes)
    blocks = blocks_of(
        np.zeros(len(tables.slots)), tables.children + starts,
        tables.slots, tables.starts[:-1], tables.inner,
    )  # fmt: skip
    assert len(blocks.levels) > 1
    assert sorted(torch.cat(blocks.inner).tolist()) == list(range(tables.inner))
    assert sorted(torch.cat(blocks.leaves).tolist()) == list(range(len(ensemble.leaf_places)))
    largest = int(tables.sizes.max()) // 2
    assert max(len(inner) for inner in blocks.inner) <= 10 + largest


def test_no_rows() -> None:
    model, rows = example("balanced", 2, np.float32)
    module = onnxtune.to_torch(model)
    found = next(iter(module(torch.from_numpy(rows[:0])).values()))
    assert found.shape == (0, 2)
    found.sum().backward()
