"""Models that a tuning run may take: copies, parts of the trees, leaves alone; rows kept once."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from forests import random_rows, random_trees, random_weights, regressor
from pipelines import data_of, exported

import onnxtune
from onnxtune import caching
from onnxtune.candidates import WHOLE
from onnxtune.cli import main
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.judging import best
from onnxtune.links import Source
from onnxtune.losses import Output, choose_loss
from onnxtune.result import FORMS, Candidate, TuneResult, Verdict
from onnxtune.row_losses import expected_loss
from onnxtune.runtime import run
from onnxtune.smaller import _first_of_each, as_target
from onnxtune.tuning import tune

BOOSTING, CLASSES = "regression boosting", "boosting of three"


@cache
def tuned(name: str, **options: Any) -> TuneResult:
    train, valid, _ = data_of(name)
    return tune(exported(name), *train, valid=valid, **({"lr": 0.03, "epochs": 4} | options))


def scores(model: onnx.ModelProto, X: Any) -> np.ndarray:
    found = run(model, {"X": X})
    return np.asarray(next(v for v in found.values() if np.asarray(v).dtype.kind == "f"))


def trees_in(model: onnx.ModelProto) -> int:
    node = next(node for node in model.graph.node if node.op_type.startswith("TreeEnsemble"))
    ids = next(a for a in node.attribute if a.name == "nodes_treeids").ints
    return len(set(ids))


def names(result: TuneResult) -> list[str]:
    return [candidate["name"] for candidate in result.report["candidates"]]


def assert_forms_agree(result: TuneResult, X: np.ndarray) -> None:
    """Native, hard and the module; the soft form and soft routing."""
    native = scores(result.model("native"), X)
    result.module.routing = "hard"
    module = next(iter(result.module.predict(X).values())).detach().numpy()
    for other in (scores(result.model("hard"), X), module):
        close = np.isclose(other, native, rtol=1e-4, atol=1e-5 * np.abs(native).max())
        # After a scaler the last bits differ, and a row on a threshold may turn.
        assert (~close.all(axis=1)).sum() <= 1
    assert result.soft is not None
    soft = onnxtune.to_torch(
        exported(BOOSTING), "soft", data=data_of(BOOSTING)[0][0], temperature=result.temperature
    )
    soft.load_tensors(result.soft_tensors)
    found = next(iter(soft.predict(X).values())).detach().numpy()
    np.testing.assert_allclose(scores(result.model("soft"), X), found, rtol=1e-3, atol=1e-3)


def test_copies_are_taken_where_they_validate_better(tmp_path: Any) -> None:
    result = tuned(BOOSTING, routing="soft", max_size=4)
    report, taken = result.report, result.hard
    copies = (1, 2, 4)
    assert names(result) == [
        "softened",
        *(f"softened, dithered x{count}" for count in copies),
        "soft, thresholds kept",
        "soft",
        *(f"soft, dithered x{count}" for count in copies),
    ]
    assert [c["size"] for c in report["candidates"]] == [1, *copies, 1, 1, *copies]
    soft = {"softened", "soft"}
    assert all((c["form"] == "soft") == (c["name"] in soft) for c in report["candidates"])
    assert taken is not None
    assert report["taken"]["hard"] == taken.name and report["size"] == taken.size
    assert 1 < report["size"] <= report["max_size"] == 4
    one = next(c for c in report["candidates"] if c["name"] == "soft, dithered x1")
    assert report["verdicts"]["hard"]["after"] == taken.verdict.after < one["after"]

    written = result.model("native")
    assert trees_in(written) == taken.size * trees_in(exported(BOOSTING))
    X, y = data_of(BOOSTING)[2]
    before, after = (
        np.square(scores(m, X)[:, 0] - y).mean() for m in (exported(BOOSTING), written)
    )
    assert after < before
    assert_forms_agree(result, X)
    assert f"{taken.name} ({taken.size:.3g} times the trees)" in result.text()

    path = tmp_path / "tuned.onnx"
    result.save(path)
    np.testing.assert_array_equal(scores(onnx.load(path), X), scores(written, X))
    again = onnxtune.to_torch(path, "hard")
    for name, tensor in again.tensors().items():
        assert torch.equal(tensor, result.module.tensors()[name])


@pytest.mark.parametrize(
    ("max_size", "copies"), [(1, [1]), (1.9, [1]), (2, [1, 2]), (100, [1, 2, 4, 8, 16])]
)
def test_as_many_copies_as_the_size_allows(max_size: float, copies: list[int]) -> None:
    result = tuned(CLASSES, routing="soft", max_size=max_size, epochs=1)
    for made in ("softened", "soft"):
        wanted = [made, *(f"{made}, dithered x{count}" for count in copies)]
        own = [name for name in names(result) if name.partition(",")[0] == made]
        assert [name for name in own if "kept" not in name] == wanted
    assert result.report["size"] <= max_size
    linear = tuned("ridge", routing="soft", max_size=max_size, epochs=1)
    assert not any("dithered" in name for name in names(linear))


def test_frozen_leaves_still_have_copies() -> None:
    result = tuned(BOOSTING, routing="soft", max_size=4, freeze="*/leaf_values", epochs=2)
    by_name = {c["name"]: c for c in result.report["candidates"]}
    # Without their leaves divided they would be far off.
    for made in ("soft", "softened"):
        assert by_name[f"{made}, dithered x4"]["after"] < 1.2 * by_name[made]["after"]


@pytest.mark.parametrize(
    ("name", "max_size", "kept"),
    [(CLASSES, 0.5, 6), (CLASSES, 0.25, 3), (BOOSTING, 0.9, 27)],
)
def test_a_part_of_the_trees(name: str, max_size: float, kept: int) -> None:
    result = tuned(name, max_size=max_size)
    whole = trees_in(exported(name))
    report = result.report
    best = min(c["after"] if c["name"] == WHOLE else c["before"] for c in report["candidates"])
    for candidate in report["candidates"]:
        if candidate["name"] == WHOLE:
            assert candidate["size"] == 1 and candidate["limit"] is None
            continue
        assert candidate["size"] == pytest.approx(kept / whole)
        assert candidate["size"] <= max_size + 1e-9
        assert candidate["limit"] == pytest.approx(best + 0.02 * abs(best))
        assert candidate["accepted"] == (candidate["limit_z"] > candidate["needed_z"])
        assert (candidate["limit_z"] > 0) == (candidate["after"] < candidate["limit"])
    assert result.hard is not None
    assert report["size"] == pytest.approx(kept / whole)
    assert trees_in(result.model("native")) == kept
    X = data_of(name)[2][0]
    native, hard = (scores(result.model(form), X) for form in ("native", "hard"))  # type: ignore[arg-type]
    np.testing.assert_allclose(native, hard, rtol=1e-4, atol=1e-4)
    if name != BOOSTING:
        np.testing.assert_allclose(native.sum(axis=1), 1, atol=1e-5)
    assert f"{report['size']:.3g} times the trees" in result.text()


def test_a_part_and_copies_of_it() -> None:
    result = tuned(CLASSES, max_size=0.8, routing="soft", epochs=1)
    dithered = [name for name in names(result) if "dithered" in name]
    assert dithered == ["softened, dithered x1", "soft, dithered x1"]
    result = tuned(CLASSES, max_size=0.2, epochs=1)
    parts = [c for c in result.report["candidates"] if c["name"] != WHOLE]
    assert {c["size"] for c in parts} == {0.2}
    with pytest.raises(UnsupportedError, match=r"one for each output is 0\.2 times"):
        tuned(CLASSES, max_size=0.1)
    with pytest.raises(UnsupportedError, match="freeze keeps them all"):
        tuned(BOOSTING, max_size=0.5, freeze="TreeEnsemble*")


def test_too_much_loss_keeps_the_original_bytes(tmp_path: Any) -> None:
    result = tuned(BOOSTING, max_size=0.1, epochs=1)
    assert not result.accepted and result.hard is None and result.tensors == {}
    assert all(c["after"] > 1.02 * c["before"] for c in result.report["candidates"])
    assert result.report["size"] == 1 and result.report["taken"] == {}
    path = tmp_path / "kept.onnx"
    result.save(path)
    assert path.read_bytes() == exported(BOOSTING).SerializeToString()
    assert "the original is kept" in result.text()


def test_the_first_trees_of_every_group_are_kept() -> None:
    groups = np.array([0, 1, 2, 0, 1, 2, 0, 0])
    for share, kept in ((0.5, [0, 1, 2, 3]), (0.1, [0, 1, 2]), (0.75, [0, 1, 2, 3, 6])):
        np.testing.assert_array_equal(_first_of_each(groups, share), kept)


def test_first_trees_without_a_threshold() -> None:
    """A part of the trees may have none."""
    rng = np.random.default_rng(9)
    trees = random_trees(rng, count=6, depth=3, shape="mixed")
    assert np.bincount(trees.tree)[0] == 1
    model = regressor(trees, random_weights(rng, trees, 1), 1)
    X = random_rows(rng, trees, 60, special=False)
    y = run(model, {"x": X})["y"][:, 0] + rng.normal(size=60) / 10
    result = tune(model, X, y, max_size=1 / 6, epochs=1)
    assert {c["size"] for c in result.report["candidates"]} == {1 / 6}


def test_a_model_without_trees_to_leave_out() -> None:
    (X, y), _, _ = data_of("ridge")
    with pytest.raises(UnsupportedError, match=r"max_size=0\.5 wants fewer trees.*has none"):
        tune(exported("ridge"), X, y, max_size=0.5)
    rng = np.random.default_rng(0)
    trees = random_trees(rng, count=4, shape="balanced")
    weights = random_weights(rng, trees, 1)
    least = regressor(trees, weights, 1, aggregate_function="MIN")
    # A leaf without a weight has a number of its own, which would stay as large as it is.
    rest = replace(weights, leaves=weights.leaves[1:], ids=weights.ids[1:],
                   numbers=weights.numbers[1:])  # fmt: skip
    own = regressor(replace(trees, value=np.where(trees.inner, trees.value, 1.5)), rest, 1)
    rows = random_rows(rng, trees, 50, special=False)
    for model in (least, own):
        with pytest.raises(UnsupportedError, match="the model has none"):
            tune(model, rows, rows[:, 0], max_size=0.25)


@pytest.mark.parametrize("wrong", [0, -1, "big", float("nan"), float("inf")])
def test_wrong_sizes_are_named(wrong: Any) -> None:
    (X, y), _, _ = data_of("ridge")
    with pytest.raises(ArgumentError, match="max_size must be a positive number"):
        tune(exported("ridge"), X, y, max_size=wrong)


def test_auto_takes_the_best_of_what_it_tried() -> None:
    result = tuned(CLASSES)
    assert names(result) == [
        "scaled",
        "softened",
        "softened, dithered x1",
        "leaves",
        "soft, thresholds kept",
        "soft",
        "soft, dithered x1",
    ]
    assert {record.routing for record in result.history} == {"hard", "soft"}
    frozen = tuned(CLASSES, freeze="*_values")
    assert "leaves" not in names(frozen) and "soft" in names(frozen)
    assert {record.routing for record in frozen.history} == {"soft"}
    for form in FORMS:
        able = [c for c in result.report["candidates"] if c["form"] == form and c["accepted"]]
        assert result.report["taken"][form] == min(able, key=lambda c: c["after"])["name"]
    assert result.report["size"] == 1


@pytest.mark.parametrize("lr", [None, 0.03])
def test_models_without_trees_are_trained_at_two_speeds(lr: float | None) -> None:
    result = tuned("ridge", lr=lr)
    slow, *fast = result.report["candidates"]
    assert slow["name"] == "trained"
    # Whoever gives a learning rate gets that one.
    assert [c["name"] for c in fast] == ([] if lr else ["trained boldly"])
    assert len(result.history) == (4 if lr else 8)
    first = [record.train for record in result.history if record.epoch == 1]
    assert len(set(first)) == len(first) and first == sorted(first, reverse=True)


def test_the_width_of_gates_is_chosen_on_validation_rows() -> None:
    """The width that softens the original best, if that lets gradients through."""

    def softened(**options: Any) -> tuple[float, float]:
        result = tuned(BOOSTING, routing="soft", epochs=1, **options)
        assert result.report["temperature"] == result.temperature
        (after,) = (c["after"] for c in result.report["candidates"] if c["name"] == "softened")
        return result.temperature, after

    losses = {}
    for width in (0.01, 0.02, 0.05, 0.1, 0.2):
        given, losses[width] = softened(temperature=width)
        assert given == width
    best = max(0.03, min(losses, key=lambda width: losses[width]))
    assert softened() == (best, losses[best])


def test_the_smaller_of_two_that_are_as_good() -> None:
    def judged(size: float, after: float, z: float = 5.0, form: Any = "hard") -> Candidate:
        verdict = Verdict(1.0, after, 1 - after, 0.1, z, 1.0)
        losses = np.empty(0)
        return Candidate(f"{size}", form, size, None, {}, verdict, losses, None, 0.1)  # type: ignore[arg-type]

    one, two, four = judged(1, 0.60), judged(2, 0.54), judged(4, 0.50)
    assert best([one, two, four], "hard") is two  # within half a standard error of the lowest
    assert best([one, four], "hard") is four
    assert best([judged(1, 0.52, z=0.5), four], "hard") is four
    assert best([judged(1, 0.4, form="soft"), four], "hard") is four
    assert best([judged(8, 0.50), four], "hard") is four
    refused = judged(1, 0.9, z=0.1)
    assert best([refused], "hard") is None
    assert best([refused], "hard", accepted=False) is refused
    assert best([], "soft") is None


def settled(name: str, trained: str, routing: Any) -> tuple[Any, Any, list[torch.Tensor]]:
    """A module, its rows run to the border, and the rows."""
    module = onnxtune.to_torch(exported(name), routing)
    inputs = module.to_tensors(module.core_inputs(data_of(name)[0][0]))
    own = [tensor for tensor in module.tensors() if trained in tensor]
    return module, module.settled(inputs, own), inputs


@pytest.mark.parametrize("name", [BOOSTING, CLASSES, "forest of three"])
def test_leaves_alone_keep_the_numbers_of_leaves(name: str) -> None:
    module, held, inputs = settled(name, "leaf_values", "hard")
    assert held.border.caches
    (value,) = held.values
    assert value.dtype == torch.int32
    assert value.shape == (len(inputs[0]), trees_in(exported(name)))
    with torch.no_grad():
        next(t for n, t in module.tensors().items() if "leaf_values" in n).mul_(1.5)
    expected = module.evaluate(inputs, module.tensors())
    found = module.evaluate_settled(held, module.tensors())
    part = module.evaluate_settled(held.take(slice(3, 9)), module.tensors())
    for output, wanted in expected.items():
        torch.testing.assert_close(found[output], wanted)
        torch.testing.assert_close(part[output], wanted[3:9])


def test_a_frozen_scaler_keeps_scaled_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    module, held, inputs = settled(BOOSTING, "TreeEnsemble", "straight-through")
    assert held.border.caches
    (value,) = held.values
    offset, scale = (module.tensors()[f"Scaler/{role}"] for role in ("offset", "scale"))
    torch.testing.assert_close(value, ((inputs[0] - offset) * scale).detach())
    found = module.evaluate_settled(held, module.tensors())
    for output, wanted in module(*inputs).items():
        torch.testing.assert_close(found[output], wanted)
    sum(v.sum() for v in found.values()).backward()
    assert module.tensors()["TreeEnsembleRegressor/thresholds"].grad.any()

    monkeypatch.setattr(caching, "memory_at_hand", lambda: 0)
    _, disk, _ = settled(BOOSTING, "TreeEnsemble", "straight-through")
    torch.testing.assert_close(disk.values, held.values, rtol=0, atol=0)
    assert disk.cost.disk_bytes == disk.cost.bytes == held.cost.bytes > held.cost.disk_bytes == 0
    monkeypatch.setattr(caching, "disk_at_hand", lambda: 0)
    _, plain, inputs = settled(BOOSTING, "TreeEnsemble", "straight-through")
    assert not plain.border.caches
    assert all(one is other for one, other in zip(plain.values, inputs, strict=True))


@pytest.mark.parametrize("routing", ["leaves", "straight-through"])
def test_losses_are_the_same_without_the_cache(
    routing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for memory in (2**40, 0):  # the second one on disk
        monkeypatch.setattr(caching, "memory_at_hand", lambda memory=memory: memory)
        train, valid, _ = data_of(BOOSTING)
        found.append(
            tune(exported(BOOSTING), *train, valid=valid, routing=routing, freeze="Scaler/*",
                 epochs=3)
        )  # fmt: skip
    kept, plain = found
    for one, other in zip(kept.history, plain.history, strict=True):
        assert (one.train, one.valid) == (pytest.approx(other.train), pytest.approx(other.valid))
    rows, width = kept.report["prefix"]["rows"], 30 if routing == "leaves" else 10
    assert kept.report["cache"]["bytes"] == 4 * rows * width
    for name, value in kept.tensors.items():
        np.testing.assert_allclose(value, plain.tensors[name], rtol=1e-5, atol=1e-6)


def test_a_teacher_is_followed_as_a_target_that_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    p = torch.softmax(torch.randn(40, 3, generator=generator, dtype=torch.float64), 1)
    classes = choose_loss("log", Output(Source("softmax", "z"), 3, 3, True))
    expected = -(p * torch.log_softmax(z, 1)).sum(1)
    torch.testing.assert_close(expected_loss(classes, z, p), expected)
    one = choose_loss("log", Output(Source("sigmoid", "z"), 1, 0, True))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        z[:, :1], p[:, :1], reduction="none"
    )
    torch.testing.assert_close(expected_loss(one, z[:, :1], p[:, :1]), expected.mean(1))
    squared = choose_loss("squared", Output(Source("identity", "z"), 3, 0, False))
    torch.testing.assert_close(expected_loss(squared, z, p), (z - p).square().mean(1))
    assert torch.equal(as_target(z, squared, Output(Source("identity", "z"), 3, 0, False)), z)
    raw = Output(Source("identity", "z"), 3, 3, False)
    torch.testing.assert_close(as_target(z, classes, raw), torch.softmax(z, 1))
    assert torch.equal(as_target(p, classes, replace(raw, share=True)), p)


def test_the_command_line_takes_the_size(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (X, y), _, _ = data_of(CLASSES)
    onnx.save(exported(CLASSES), tmp_path / "model.onnx")
    table = np.column_stack([X, y])
    np.savetxt(tmp_path / "rows.csv", table, "%.6g", ",", header="a,b,c,d,kind", comments="")
    arguments = ["tune", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "rows.csv"),
                 "--target", "kind", "-o", str(tmp_path / "small.onnx"), "--epochs=2"]  # fmt: skip
    assert main([*arguments, "--max-size", "0.4", "--json", "--lr", "0.03"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["max_size"] == 0.4
    assert {c["size"] for c in report["candidates"] if c["name"] != WHOLE} == {0.4}
    kept = 6 if report["size"] == 0.4 else 15
    assert trees_in(onnx.load(tmp_path / "small.onnx")) == kept
    assert main([*arguments, "--max-size", "0"]) == 2
    assert "max_size must be a positive number" in capsys.readouterr().err
