"""Every case of every rewrite goes through the same eight checks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from onnxtune.conversion import convert
from onnxtune.export import native
from onnxtune.learned import node_tensors
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import input_types, run, value_types
from onnxtune.sampling import sample
from onnxtune.torch_module import to_torch
from rewrites.core.naming import node_names
from rewrites.core.registry import all_rewrites
from rewrites.core.rewrite import Case, Rewrite
from rewrites.errors import OnnxTuneError

CASES = [
    pytest.param(rewrite, case, id=f"{rewrite.operator}: {case.name}")
    for rewrite in all_rewrites().values()
    for case in rewrite.cases
]
CHECKS = (
    "hard form equals onnxruntime",
    "standard operators only",
    "interface unchanged",
    "torch module equals onnxruntime",
    "gradients finite and nonzero",
    "harden is the identity",
    "two instances do not collide",
    "soft converges to hard",
    "no rows",
)


def model_of(case: Case, check: str) -> onnx.ModelProto:
    """The case's model; skips where the case says that the check cannot apply."""
    assert set(case.skips) <= set(CHECKS)
    if check in case.skips:
        pytest.skip(case.skips[check])
    return onnx.parser.parse_model(case.text)


def rows_of(model: onnx.ModelProto, count: int = 400) -> dict[str, np.ndarray]:
    return sample(model, count, seed=1)


def columns(value: object) -> np.ndarray:
    """An output as an array, the maps of a ZipMap as rows."""
    if isinstance(value, list):
        return np.array([list(row.values()) for row in value], np.float32)
    return np.asarray(value)


def assert_equal(expected: object, found: object) -> None:
    wanted, got = columns(expected), columns(found)
    assert wanted.shape == got.shape
    if wanted.dtype.kind == "f":
        size = np.sqrt(np.mean(np.square(wanted, dtype=np.float64))) if wanted.size else 0.0
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * size)
    else:
        np.testing.assert_array_equal(got, wanted)


def test_every_rewrite_has_cases() -> None:
    assert len(all_rewrites()) >= 7
    for rewrite in all_rewrites().values():
        assert rewrite.cases, rewrite.operator
        assert len({case.name for case in rewrite.cases}) == len(rewrite.cases)


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_hard_form_equals_onnxruntime(rewrite: Rewrite, case: Case) -> None:
    model = model_of(case, CHECKS[0])
    hard = convert(model, form="hard")
    feed = rows_of(model)
    for count in (None, 1) if "no rows" in case.skips else (None, 1, 0):
        part = {name: array[:count] for name, array in feed.items()}
        expected, found = run(model, part), run(hard, part)
        assert list(expected) == list(found)
        for name in expected:
            assert_equal(expected[name], found[name])


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_standard_operators_only(rewrite: Rewrite, case: Case) -> None:
    model = model_of(case, CHECKS[1])
    for form in ("hard", "soft"):
        proto = convert(model, form=form)
        assert {node.domain for node in proto.graph.node} == {""}
        assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 17)]
        assert proto.ir_version == 8
        onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_hard_form_is_valid_from_opset_13(rewrite: Rewrite, case: Case) -> None:
    """A model that cannot be brought to opset 17 is rewritten at its own."""
    model = model_of(case, CHECKS[1])
    hard = convert(model, form="hard")
    hard.opset_import[0].version = 13
    feed = rows_of(model)
    expected, found = run(model, feed), run(hard, feed)
    for name in expected:
        assert_equal(expected[name], found[name])


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_interface_unchanged(rewrite: Rewrite, case: Case) -> None:
    model = model_of(case, CHECKS[2])
    for form in ("hard", "soft"):
        proto = convert(model, form=form)
        for before, after in (
            (model.graph.input, proto.graph.input),
            (model.graph.output, proto.graph.output),
        ):
            assert [value.name for value in before] == [value.name for value in after]
            assert [value.type for value in before] == [value.type for value in after]
        types, original = value_types(proto), value_types(model)
        for value in model.graph.output:
            assert types[value.name].kind == original[value.name].kind


@pytest.mark.parametrize("routing", ["hard", "straight-through"])
@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_torch_module_equals_onnxruntime(rewrite: Rewrite, case: Case, routing: str) -> None:
    model = model_of(case, CHECKS[3])
    module = to_torch(model, routing=routing)
    feed = rows_of(model)
    expected, found = run(model, feed), module.predict(feed)
    for name, value in found.items():
        assert_equal(expected[name], value.detach().numpy())


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_gradients_finite_and_nonzero(rewrite: Rewrite, case: Case) -> None:
    model = model_of(case, CHECKS[4])
    module = to_torch(model, routing="soft", temperature=0.5)
    found = module.predict(rows_of(model))
    weights = torch.Generator().manual_seed(0)
    loss = sum((v * torch.randn(v.shape, generator=weights)).sum() for v in found.values())
    loss.backward()
    assert module.tensors()
    for name, tensor in module.tensors().items():
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name
        assert (tensor.grad != 0).any(), name


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_harden_is_the_identity(rewrite: Rewrite, case: Case) -> None:
    model = model_of(case, CHECKS[5])
    prepared = prepare(load(model))
    tensors = {
        name: tensor.value
        for node in prepared.proto.graph.node
        for name, tensor in node_tensors(prepared, node).items()
    }
    written = native(prepared, tensors)
    assert written.proto.SerializeToString() == model.SerializeToString()
    assert written.changed == {}
    assert written.replaced == {}


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_harden_carries_every_number(rewrite: Rewrite, case: Case) -> None:
    """A number that is tuned arrives in the native form, and nothing else moves."""
    model = model_of(case, CHECKS[5])
    prepared = prepare(load(model))
    for node in prepared.proto.graph.node:
        for name, tensor in node_tensors(prepared, node).items():
            moved = tensor.value.copy()
            moved.ravel()[-1] = np.float32(moved.ravel()[-1] * 1.25 + 0.1)
            written = native(prepared, {name: moved})
            assert written.changed == {name: 1}
            again = prepare(load(written.proto))
            if written.replaced:
                continue
            found = {
                key: value.value
                for other in again.proto.graph.node
                for key, value in node_tensors(again, other).items()
            }
            # The attribute holds floats, also where the operator compares doubles.
            np.testing.assert_array_equal(found[name].astype("f"), moved.astype("f"))


def twice(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph beside itself, without node names: the same inputs, other outputs."""
    both = onnx.ModelProto()
    both.CopyFrom(model)
    kept = {value.name for value in model.graph.input}
    copied = onnx.GraphProto()
    copied.CopyFrom(model.graph)
    for node in copied.node:
        node.name = ""
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name and name not in kept:
                    names[place] = f"{name}_again"
    for value in (*copied.output, *copied.initializer):
        value.name += "_again"
    both.graph.node.extend(copied.node)
    both.graph.initializer.extend(copied.initializer)
    both.graph.output.extend(copied.output)
    return both


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_two_instances_do_not_collide(rewrite: Rewrite, case: Case) -> None:
    model = twice(model_of(case, CHECKS[6]))
    names = node_names(model.graph)
    assert len(set(names)) == len(names)
    hard = convert(model, form="hard")
    feed = rows_of(model)
    expected, found = run(model, feed), run(hard, feed)
    for name in expected:
        assert_equal(expected[name], found[name])
    module = to_torch(model, routing="hard")
    assert len(module.tensors()) == 2 * len(to_torch(onnx.parser.parse_model(case.text)).tensors())


@pytest.mark.parametrize(("rewrite", "case"), CASES)
def test_soft_converges_to_hard(rewrite: Rewrite, case: Case) -> None:
    model = model_of(case, CHECKS[7])
    kind = input_types(model)[0]
    # Away from every threshold; on one, a soft gate is halfway.
    generator = np.random.default_rng(0)
    rows = (generator.normal(size=(300, kind.shape[1])) * 3).round(2) + 0.003
    feed = {kind.name: rows.astype(kind.dtype) + (np.asarray(0.0037).astype(kind.dtype))}
    expected = run(model, feed)
    distances = []
    for temperature in (1.0, 0.1, 1e-3, 1e-7):
        found = run(convert(model, form="soft", temperature=temperature), feed)
        floats = [name for name in expected if columns(expected[name]).dtype.kind == "f"]
        distances.append(
            max(np.abs(columns(expected[n]) - columns(found[n])).max() for n in floats)
        )
    assert distances[-1] <= 1e-5
    assert distances[0] >= distances[-1]
    for name in expected:
        assert_equal(expected[name], found[name])


def test_a_rewrite_that_does_not_cover_a_node_names_it() -> None:
    case = next(
        case
        for case in all_rewrites()["ai.onnx.ml", "TreeEnsembleRegressor"].cases
        if case.name == "one target"
    )
    model = onnx.parser.parse_model(case.text.replace("BRANCH_LEQ", "BRANCH_MEMBER"))
    prepared = prepare(load(model))
    with pytest.raises(OnnxTuneError, match=r"TreeEnsembleRegressor 'trees'.*BRANCH_MEMBER"):
        node_tensors(prepared, prepared.proto.graph.node[0])
    # It stays as it is, and the model keeps its answers.
    hard = convert(model, form="hard")
    assert [node.op_type for node in hard.graph.node] == ["TreeEnsembleRegressor"]
    feed = rows_of(model)
    np.testing.assert_array_equal(run(model, feed)["y"], run(hard, feed)["y"])
