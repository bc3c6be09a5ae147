"""Prefix, core and tail."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import parse
from onnx import TensorProto, helper, numpy_helper
from pipelines import exported, mixed

from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.model import load
from onnxtune.partition import Partition, float_outputs, partition
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from onnxtune.sampling import sample
from onnxtune.torch_module import to_torch


def cut(model: onnx.ModelProto, outputs: list[str] | None = None) -> Partition:
    return partition(prepare(load(model)), outputs)


def test_encoders_are_prefix_and_labels_tail() -> None:
    part = cut(mixed()[0])
    operators = {node.name: node.op_type for node in prepare(load(mixed()[0])).proto.graph.node}
    by_operator = {operators[name]: role for name, role in part.roles.items()}
    assert by_operator["OneHotEncoder"] == "prefix"
    assert by_operator["TreeEnsembleRegressor"] == "core"
    assert by_operator["Scaler"] == "core"
    assert part.prefix is not None
    assert all(value.is_float for value in part.inputs)

    part = cut(exported("forest", zipmap=True))
    roles = dict(part.roles)
    assert roles["ZipMap"] == "tail"
    assert roles["Cast"] == "tail"
    assert {roles[name] for name in ("Scaler", "MatMul", "TreeEnsembleClassifier")} == {"core"}
    assert part.prefix is None
    assert part.outputs == {"output_probability": "probabilities"}


def test_prefix_and_core_together_equal_the_model() -> None:
    model, table, _ = mixed()
    module = to_torch(model, routing="hard")
    found = module.predict(table)["variable"].detach().numpy()
    feed = {
        name: table[name].to_numpy(object if table[name].dtype == object else None)[:, None]
        for name in table
    }
    feed = {k: v.astype(object) if v.dtype.kind not in "f" else v for k, v in feed.items()}
    np.testing.assert_allclose(found, run(model, feed)["variable"], rtol=1e-5, atol=1e-5)


def test_every_tensor_that_reaches_an_output_is_found() -> None:
    part = cut(exported("forest"))
    assert set(part.tensors) == {
        "Scaler/offset",
        "Scaler/scale",
        "mean",
        "transform_matrix",
        "TreeEnsembleClassifier/thresholds",
        "TreeEnsembleClassifier/leaf_values",
    }
    assert part.learned == part.tensors


def test_constants_are_not_learned() -> None:
    """Scalars, Clip bounds, shapes and integer tables are no learned numbers."""
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            half = Constant <value = float {0.5}> ()
            scaled = Mul (x, half)
            weighted = MatMul (scaled, w)
            kept = Clip (weighted, low, high)
            y = Reshape (kept, shape)
        }""",
        w=np.eye(2, dtype=np.float32),
        low=np.float32(-1),
        high=np.float32(1),
        shape=np.array([-1, 2]),
    )
    assert cut(model).tensors == ("w",)


def test_a_constant_node_is_a_learned_tensor_too() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            w = Constant <value = float[2] {0.5, 2.0}> ()
            y = Mul (x, w)
        }"""
    )
    assert cut(model).tensors == ("w",)
    module = to_torch(model)
    assert list(module.tensors()) == ["w"]


def test_a_step_in_the_middle_cuts_the_gradient() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            [scaler] scaled = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 3.0]> (x)
            rounded = Round (scaled)
            y = MatMul (rounded, w)
        }""",
        w=np.eye(2, dtype=np.float32),
    )
    part = cut(model)
    assert part.tensors == ("w",)
    assert part.roles["scaler"] == "prefix"
    assert part.roles["rounded"] == "cut"
    assert part.roles["y"] == "core"


def test_a_branch_without_gradient_stays_inside_the_core() -> None:
    """A mask computed from tuned values is recomputed in torch."""
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            scaled = Mul (x, w)
            zero = Constant <value = float {0.0}> ()
            positive = Greater (scaled, zero)
            other = Neg (scaled)
            y = Where (positive, scaled, other)
        }""",
        w=np.array([2, -3], np.float32),
    )
    part = cut(model)
    assert set(part.roles.values()) == {"core"}
    feed = sample(model, 50)
    found = to_torch(model).predict(feed)["y"].detach().numpy()
    np.testing.assert_allclose(found, run(model, feed)["y"], rtol=1e-6)


def test_several_outputs_and_a_shared_initializer() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] a, float[N, 2] b, float[N, 2] c) {
            a = MatMul (x, w)
            shifted = Add (a, v)
            b = MatMul (shifted, w)
            c = Identity (x)
        }""",
        w=np.array([[1, 2], [3, 4]], np.float32),
        v=np.array([1, 2], np.float32),
    )
    part = cut(model)
    assert part.outputs == {"a": "a", "b": "b"}
    assert set(part.tensors) == {"w", "v"}
    only = cut(model, ["a"])
    assert only.tensors == ("w",)
    assert set(only.learned) == {"w", "v"}
    with pytest.raises(ArgumentError, match=r"'missing' is no float output.*'a', 'b', 'c'"):
        cut(model, ["missing"])
    with pytest.raises(UnsupportedError, match="nothing to tune"):
        cut(model, ["c"])


def test_outputs_may_be_called_by_the_value_behind_them() -> None:
    assert cut(exported("forest", zipmap=True), ["probabilities"]).outputs == {
        "output_probability": "probabilities"
    }


def test_labels_only_are_refused_by_name() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported("forest"))
    label = next(o for o in model.graph.output if "label" in o.name)
    kept = [onnx.ValueInfoProto.FromString(label.SerializeToString())]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    assert float_outputs(prepare(load(model))) == {}
    with pytest.raises(UnsupportedError, match=f"'{label.name}'.*labels only"):
        cut(model)


def test_the_operator_in_the_way_is_named() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1, "com.microsoft" : 1]>
        g (float[N, 2] x) => (float[N, 2] y) {
            scaled = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 3.0]> (x)
            [curve] y = com.microsoft.QuickGelu (scaled)
        }"""
    )
    with pytest.raises(UnsupportedError, match="QuickGelu 'curve' has no rewrite"):
        cut(model)


def test_an_encoder_in_the_way_is_named() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2, 2] y) {
            scaled = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 3.0]> (x)
            [codes] y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1]> (scaled)
        }"""
    )
    with pytest.raises(UnsupportedError, match="no gradient passes OneHotEncoder 'codes'"):
        cut(model)


def test_a_table_behind_learned_numbers_is_tuned_alone() -> None:
    """Keys are found or not: what makes them is cut off, the values behind it are tuned."""
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            [scaler] scaled = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 3.0]> (x)
            whole = Cast <to = 7> (scaled)
            [steps] y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_floats = [0.5, 7.0]>
                (whole)
        }"""
    )
    model.opset_import[1].version = 2
    found = cut(model)
    assert found.tensors == ("steps/values", "steps/default")
    assert found.roles["steps"] == "core"


def test_a_model_without_learned_numbers_says_so() -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y) { y = Exp (x) }")
    with pytest.raises(UnsupportedError, match="no learned tensors"):
        cut(model)


def test_values_that_a_subgraph_captures_enter_the_core() -> None:
    branch = helper.make_graph(
        [helper.make_node("Mul", ["scaled", "w"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["scaled"]),
        helper.make_node(
            "If", ["yes"], ["picked"], then_branch=branch, else_branch=branch, name="if"
        ),
        helper.make_node("MatMul", ["picked", "v"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.ones(2, np.float32), "w"),
            numpy_helper.from_array(np.eye(2, dtype=np.float32), "v"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    part = cut(model)
    assert part.tensors == ("w", "v")
    assert part.roles["if"] == "core"
    assert [value.name for value in part.inputs] == ["scaled"]
    feed = {"x": np.ones((3, 2), np.float32)}
    found = to_torch(model).predict(feed)["y"].detach().numpy()
    np.testing.assert_array_equal(found, run(model, feed)["y"])


def test_a_graph_inside_a_node_with_other_operators_has_no_gradient() -> None:
    """Only the main graph is rewritten; what stands behind the node is still tuned."""
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            scaled = Mul (x, w)
            picked = If <
                then_branch = a () => (float[N, 2] one) {
                    one = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (scaled)
                },
                else_branch = b () => (float[N, 2] other) { other = Neg (scaled) }
            > (yes)
            y = Mul (picked, v)
        }""",
        w=np.array([1.0, 2.0], np.float32),
        v=np.array([3.0, 4.0], np.float32),
        yes=np.array(True),
    )
    assert cut(model).tensors == ("v",)
    feed = {"x": np.ones((3, 2), np.float32)}
    found = to_torch(model).predict(feed)["y"].detach().numpy()
    np.testing.assert_array_equal(found, run(model, feed)["y"])


def test_a_tensor_whose_shape_is_read_before_the_core_is_tuned() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 3] y) {
            sizes = Shape (w)
            shape = Slice (sizes, zero, one)
            ones = ConstantOfShape (shape)
            scaled = Mul (x, ones)
            y = MatMul (scaled, w)
        }""",
        w=np.ones((2, 3), np.float32),
        zero=np.array([0]),
        one=np.array([1]),
    )
    assert cut(model).tensors == ("w",)
