"""Models of an unusual make: each is converted, computed in torch, tuned and written back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxtune.conversion import convert
from onnxtune.runtime import run
from onnxtune.torch_module import to_torch
from onnxtune.verification import verify

RNG = np.random.default_rng(5)
WEIGHTS = RNG.normal(size=(3, 2)).astype(np.float32)
BIAS = np.array([0.5, -0.25], np.float32)
ROWS = RNG.normal(size=(30, 3)).astype(np.float32)
NEWEST = 25

Change = Callable[[onnx.ModelProto], None]


def plain(opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """sigmoid(scaled x @ weights + bias), and a label."""
    broadcast = {"broadcast": 1} if opset < 7 else {}
    nodes = [
        helper.make_node(
            "Scaler", ["x"], ["scaled"], "s", domain="ai.onnx.ml",
            offset=[0.5, 0.0, -1.0], scale=[2.0, 0.5, 1.0],
        ),
        helper.make_node("MatMul", ["scaled", "weights"], ["product"], "m"),
        helper.make_node("Add", ["product", "bias"], ["sum"], "a", **broadcast),
        helper.make_node("Sigmoid", ["sum"], ["y"], "g"),
        helper.make_node("ArgMax", ["y"], ["label"], "l", axis=1, keepdims=0),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        ],
        [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(BIAS, "bias")],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def holds(model: onnx.ModelProto | str, least: int = 2) -> None:
    """Hard, torch and native forms give the model's answers, and a tuned number arrives."""
    assert verify(model, convert(model, form="hard"), ROWS, rtol=1e-4).agrees
    module = to_torch(model, "hard")
    proto = onnx.load(model) if isinstance(model, str) else model
    expected = run(proto, {"x": ROWS})
    for name, value in module.predict(ROWS).items():
        np.testing.assert_allclose(value.detach().numpy(), expected[name], rtol=1e-4, atol=1e-5)
    assert len(module.tensors()) >= least
    assert module.model("native").SerializeToString() == proto.SerializeToString()
    for name, tensor in module.tensors().items():
        moved = to_torch(model, "hard")
        moved.load_tensors({name: tensor.detach().numpy() * np.float32(1.5)})
        wanted = {out: value.detach().numpy() for out, value in moved.predict(ROWS).items()}
        for form in ("native", "hard"):
            found = run(moved.model(form), {"x": ROWS})
            for out, value in wanted.items():
                np.testing.assert_allclose(found[out], value, rtol=1e-4, atol=1e-5)
        assert any(not np.allclose(value, expected[out]) for out, value in wanted.items()), name


def test_plain() -> None:
    holds(plain(), 4)


@pytest.mark.parametrize("opset", [*range(1, NEWEST + 1)])
def test_every_opset(opset: int) -> None:
    model = plain(opset)
    if opset < 7:  # onnxruntime has no Add and Sigmoid of these any more
        model.graph.node[3].CopyFrom(helper.make_node("Softmax", ["sum"], ["y"], "g", axis=1))
        model.graph.node[3].input[0] = "product"
        del model.graph.node[2]
        del model.graph.initializer[1]
    holds(model, 3 if opset < 7 else 4)


def test_one_name_for_all_nodes() -> None:
    """onnxruntime refuses such a model, and takes what it is converted to."""
    model = plain()
    for node in model.graph.node:
        node.name = "weights"
    assert verify(plain(), convert(model, form="hard"), ROWS).agrees
    assert len(to_torch(model).tensors()) == 4


@pytest.mark.parametrize("ir", range(3, 14))
def test_every_ir_version(ir: int) -> None:
    model = plain(ir=ir)
    if ir == 3:  # it knows no initializers that are not inputs
        _initializers_are_inputs(model)
    holds(model, 4)


def _spelled_out(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node[1:]:
        node.domain = "ai.onnx"


def _spelled_out_in_the_import(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"


def _spelled_out_in_nodes(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "ai.onnx"


def _imported_twice(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("", 17))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))


def _imported_by_both_names(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))


def _imports_what_it_does_not_use(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(helper.make_opsetid("somewhere", 3))


def _initializers_are_inputs(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )


def _weights_in_a_constant(model: onnx.ModelProto) -> None:
    held = model.graph.initializer.pop(0)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weights"], value=held))


def _without_names(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def _sparse(dense: np.ndarray) -> onnx.SparseTensorProto:
    places = np.flatnonzero(dense)
    values = numpy_helper.from_array(dense.ravel()[places], "weights")
    return helper.make_sparse_tensor(
        values, numpy_helper.from_array(places.astype(np.int64)), dense.shape
    )


def _sparse_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.pop(0)
    dense = WEIGHTS.copy()
    dense[1] = 0
    model.graph.sparse_initializer.append(_sparse(dense))


def _sparse_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.pop(0)
    node = helper.make_node("Constant", [], ["weights"], sparse_value=_sparse(WEIGHTS))
    model.graph.node.insert(0, node)


def _optional_inputs_left_out(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.9, np.float32), "high"))
    model.graph.node[3].output[0] = "p"
    model.graph.node.insert(4, helper.make_node("Clip", ["p", "", "high"], ["y"], "c"))
    model.graph.node[1].CopyFrom(helper.make_node("Gemm", ["scaled", "weights"], ["product"]))


def _outputs_left_out(model: onnx.ModelProto) -> None:
    model.graph.node[3].output[0] = "p"
    model.graph.node.insert(4, helper.make_node("Dropout", ["p"], ["y", ""], "d"))


def _a_function_in_the_tail(model: onnx.ModelProto) -> None:
    _add_function(model)
    model.graph.node.append(helper.make_node("Twice", ["y"], ["y2"], "t", domain="local"))
    model.graph.output.append(helper.make_tensor_value_info("y2", TensorProto.FLOAT, None))


def _a_function_in_the_prefix(model: onnx.ModelProto) -> None:
    _add_function(model)
    model.graph.node.insert(0, helper.make_node("Twice", ["x"], ["x2"], "t", domain="local"))
    model.graph.node[1].input[0] = "x2"


def _a_cut_by_a_function(model: onnx.ModelProto) -> None:
    _add_function(model)
    model.graph.node.insert(2, helper.make_node("Twice", ["product"], ["p2"], "t", domain="local"))
    model.graph.node[3].input[0] = "p2"


def _add_function(model: onnx.ModelProto) -> None:
    body = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["v", "two"], ["w"]),
    ]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Twice", ["v"], ["w"], body, imports))
    model.opset_import.append(helper.make_opsetid("local", 1))


def _a_custom_operator_in_the_tail(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node = helper.make_node("Gelu", ["y"], ["y2"], "t", domain="com.microsoft")
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("y2", TensorProto.FLOAT, None))


def _an_encoder_that_kills_shape_inference(model: onnx.ModelProto) -> None:
    """Behind a Scaler, whose type onnx's own inference does not know."""
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    probe.graph.output.add().name = "scaled"
    key = float(run(probe, {"x": ROWS}, ["scaled"])["scaled"].flat[0])
    model.graph.node.append(
        helper.make_node(
            "LabelEncoder", ["scaled"], ["code"], "e", domain="ai.onnx.ml",
            keys_floats=[key], values_floats=[2.0], default_float=0.5,
        )
    )  # fmt: skip
    model.opset_import[1].version = 2
    model.graph.output.append(helper.make_tensor_value_info("code", TensorProto.FLOAT, None))


def _values_inferred_in_a_graph_inside(model: onnx.ModelProto) -> None:
    """The branches of an If read a weight from around them."""
    branches = {}
    for name, operator in (("then_branch", "Relu"), ("else_branch", "Abs")):
        out = helper.make_tensor_value_info(f"{operator}_out", TensorProto.FLOAT, None)
        nodes = [
            helper.make_node("Add", ["product", "bias"], [f"{operator}_in"]),
            helper.make_node(operator, [f"{operator}_in"], [f"{operator}_out"]),
        ]
        branches[name] = helper.make_graph(nodes, operator, [], [out])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node[2].CopyFrom(helper.make_node("If", ["yes"], ["sum"], "a", **branches))


def _an_output_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["y"], ["again"], "i"))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, None))


def _an_input_as_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


def _weights_as_output(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["weights"], ["held"], "i"))
    model.graph.output.append(helper.make_tensor_value_info("held", TensorProto.FLOAT, None))


def _nodes_that_nothing_reads(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Exp", ["sum"], ["unused"], "u"))


def _doubles(model: onnx.ModelProto) -> None:
    """A cast to double and back around the sum."""
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(BIAS.astype(np.float64), "bias"))
    model.graph.node[2].CopyFrom(helper.make_node("Add", ["wide", "bias"], ["wide_sum"], "a"))
    cast = helper.make_node("Cast", ["product"], ["wide"], "c", to=TensorProto.DOUBLE)
    back = helper.make_node("Cast", ["wide_sum"], ["sum"], "b", to=TensorProto.FLOAT)
    model.graph.node.insert(2, cast)
    model.graph.node.insert(4, back)


def _names_of_torch(model: onnx.ModelProto) -> None:
    """Names that Python, torch.fx or a path would stumble over."""
    names = {"weights": "self.weight/0:0", "bias": "lambda", "product": "input_1", "sum": "a b"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = f"class.{node.name}/é"
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]


CHANGES: list[tuple[Change, int]] = [
    (_spelled_out, 4),
    (_spelled_out_in_the_import, 4),
    (_spelled_out_in_nodes, 4),
    (_imported_twice, 4),
    (_imported_by_both_names, 4),
    (_imports_what_it_does_not_use, 4),
    (_initializers_are_inputs, 4),
    (_weights_in_a_constant, 4),
    (_without_names, 4),
    (_sparse_initializer, 4),
    (_sparse_constant, 4),
    (_optional_inputs_left_out, 4),
    (_outputs_left_out, 4),
    (_a_function_in_the_tail, 4),
    (_a_function_in_the_prefix, 4),
    (_a_cut_by_a_function, 1),
    (_a_custom_operator_in_the_tail, 4),
    (_an_encoder_that_kills_shape_inference, 1),
    (_values_inferred_in_a_graph_inside, 4),
    (_an_output_twice, 4),
    (_an_input_as_output, 4),
    (_weights_as_output, 3),
    (_nodes_that_nothing_reads, 4),
    (_doubles, 4),
    (_names_of_torch, 4),
]


@pytest.mark.parametrize(("change", "least"), CHANGES, ids=lambda v: getattr(v, "__name__", ""))
def test_it_holds(change: Change, least: int) -> None:
    model = plain()
    change(model)
    holds(model, least)


def test_no_default_import() -> None:
    """Where all nodes are of ai.onnx.ml."""
    model = plain()
    del model.opset_import[0]
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    del model.graph.output[1:]
    del model.graph.initializer[:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    holds(model)


def test_external_data(tmp_path: Path) -> None:
    path = str(tmp_path / "model.onnx")
    onnx.save(plain(), path, save_as_external_data=True, size_threshold=0)
    module = to_torch(path, "hard")
    assert len(module.tensors()) == 4
    assert verify(plain(), module.model("native"), ROWS).agrees
    assert verify(plain(), convert(path, form="hard"), ROWS).agrees
