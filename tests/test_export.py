"""The native form: only the numbers that changed, on the same nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import parse
from onnx import numpy_helper
from pipelines import PIPELINES, exported

from onnxtune.conversion import convert
from onnxtune.export import Native, as_held, native
from onnxtune.model import load
from onnxtune.partition import partition
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from onnxtune.sampling import sample
from onnxtune.torch_module import learned_tensors, to_torch


def write(model: onnx.ModelProto, **tensors: np.ndarray) -> Native:
    return native(prepare(load(model)), tensors)


@pytest.mark.parametrize("name", PIPELINES)
def test_untouched_tensors_leave_the_bytes(name: str) -> None:
    model = exported(name, zipmap=True)
    prepared = prepare(load(model))
    tensors = learned_tensors(prepared, partition(prepared), {})
    written = native(prepared, {key: tensor.value for key, tensor in tensors.items()})
    assert written.proto.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("name", PIPELINES)
def test_only_numbers_change(name: str) -> None:
    """Nodes, names, inputs, outputs and metadata stay; so does every untouched number."""
    model = exported(name, zipmap=True)
    prepared = prepare(load(model))
    tensors = learned_tensors(prepared, partition(prepared), {})
    moved = {key: tensor.value * np.float32(1.01) for key, tensor in tensors.items()}
    written = native(prepared, moved)
    assert set(written.changed) == {key for key in moved if moved[key].any()}
    for before, after in zip(model.graph.node, written.proto.graph.node, strict=True):
        assert (before.name, before.op_type) == (after.name, after.op_type)
        assert list(before.input) == list(after.input)
        assert list(before.output) == list(after.output)
        for old, new in zip(before.attribute, after.attribute, strict=True):
            if not old.floats:
                assert old == new
    assert model.graph.input == written.proto.graph.input
    assert model.graph.output == written.proto.graph.output
    assert model.opset_import == written.proto.opset_import


def test_doubles_keep_their_bits() -> None:
    weights = np.array([[1 / 3, 2 / 3], [np.pi, np.e]])
    model = parse("g (double[N, 2] x) => (double[N, 2] y) { y = MatMul (x, w) }", w=weights)
    moved = weights.copy()
    moved[0, 1] = 0.1
    written = write(model, w=moved)
    assert written.changed == {"w": 1}
    held = numpy_helper.to_array(written.proto.graph.initializer[0])
    assert held.dtype == np.float64
    np.testing.assert_array_equal(held, moved)


def test_a_constant_node_takes_its_number() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            w = Constant <value = float[2] {0.5, 2.0}> ()
            y = Mul (x, w)
        }"""
    )
    written = write(model, w=np.array([0.5, 4.0], np.float32))
    assert [node.op_type for node in written.proto.graph.node] == ["Constant", "Mul"]
    feed = {"x": np.ones((1, 2), np.float32)}
    np.testing.assert_array_equal(run(written.proto, feed)["y"], [[0.5, 4.0]])


def test_numbers_that_are_missing_are_no_change() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        g (int64[N, 2] x) => (float[N, 2] z) {
            w = Constant <value_floats = [nan, 1.0]> ()
            [e] y = ai.onnx.ml.LabelEncoder <keys_int64s = [1, 2], values_floats = [0.5, nan]> (x)
            z = Mul (y, w)
        }"""
    )
    tensors = {
        "e/values": np.array([0.5, np.nan], np.float32),
        "w": np.array([np.nan, 1.0], np.float32),
    }
    prepared = prepare(load(model))
    written = native(prepared, tensors)
    assert written.changed == {} and as_held(prepared, tensors) == {}
    assert written.proto.SerializeToString() == model.SerializeToString()
    tensors["e/values"] = np.array([0.75, np.nan], np.float32)
    assert native(prepared, tensors).changed == {"e/values": 1}


VOTES = """g (float[N, 1] x) => (int64[N] label, float[N, 2] p) {{
    [trees] label, scores = ai.onnx.ml.TreeEnsembleClassifier <
        nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [0, 0, 0],
        nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.5, 0.0, 0.0],
        nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0],
        class_treeids = [0, 0], class_nodeids = [1, 2], class_ids = [0, 0],
        class_weights = [{first}, {second}], classlabels_int64s = [3, 5],
        post_transform = "{link}"> (x)
    p = Identity (scores)
}}"""


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("link", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize(
    ("first", "second", "tuned"), [(-1.0, 0.75, [0.25, 0.75]), (0.25, 0.75, [-0.25, 0.75])]
)
def test_votes_that_change_their_meaning_replace_the_node(
    first: float, second: float, tuned: list[float], link: str, opset: int
) -> None:
    """The kernel reads votes without a negative one as shares; tuned votes keep their meaning."""
    model = parse(VOTES.format(first=first, second=second, link=link), opset)
    values = np.array(tuned, np.float32)[:, None]
    written = write(model, **{"trees/leaf_values": values})
    assert set(written.replaced) == {"trees"}
    operators = [node.op_type for node in written.proto.graph.node]
    assert "TreeEnsembleRegressor" in operators
    assert "TreeEnsembleClassifier" not in operators
    assert [o.name for o in written.proto.graph.output] == ["label", "p"]
    onnx.checker.check_model(written.proto)

    # What the torch module, built on the original's meaning, says of the tuned votes.
    module = to_torch(model, routing="hard")
    module.load_tensors({"trees/leaf_values": values})
    feed = {"x": np.array([[0.0], [1.0], [0.5], [np.nan]], np.float32)}
    expected = module.predict(feed)["p"].detach().numpy()
    found = run(written.proto, feed)
    np.testing.assert_allclose(found["p"], expected, rtol=1e-6)
    limit = 0.5 if min(first, second) >= 0 else 0.0
    # Leaves stand by level, the false child first.
    score = np.where(feed["x"][:, 0] <= 0.5, tuned[1], tuned[0])
    np.testing.assert_array_equal(found["label"], np.where(score > limit, 5, 3))
    hard = run(convert(written.proto, form="hard"), feed)
    np.testing.assert_allclose(hard["p"], expected, rtol=1e-6)
    np.testing.assert_array_equal(hard["label"], found["label"])


@pytest.mark.parametrize("name", PIPELINES)
def test_perturbed_tensors_agree_in_every_form(name: str) -> None:
    model = exported(name)
    prepared = prepare(load(model))
    tensors = learned_tensors(prepared, partition(prepared), {})
    generator = np.random.default_rng(0)
    moved = {
        key: (t.value + np.asarray(t.unit) * 0.1 * generator.normal(size=t.value.shape)).astype("f")
        for key, t in tensors.items()
    }
    written = native(prepared, moved)
    feed = sample(written.proto, 500, seed=1)
    expected = run(written.proto, feed)
    hard = run(convert(written.proto, form="hard"), feed)
    module = to_torch(model, routing="hard")
    module.load_tensors(moved)
    torch_found = module.predict(feed)
    for output, value in expected.items():
        wanted = np.asarray(value)
        if wanted.dtype.kind == "f":
            size = np.sqrt(np.nanmean(np.square(wanted)))
            for got in (hard[output], torch_found[output].detach().numpy()):
                close = np.isclose(got, wanted, rtol=1e-4, atol=1e-4 * size, equal_nan=True)
                assert (~close.all(axis=1)).mean() <= 0.01
