"""What `inspect` says of a model."""

from __future__ import annotations

import json

import onnx
from pipelines import exported, mixed

from onnxtune.inspection import inspect
from onnxtune.output import as_json


def test_every_node_has_a_role_and_a_handling() -> None:
    report = inspect(exported("forest", zipmap=True))
    nodes = {node.operator: node for node in report.nodes}
    assert nodes["ai.onnx.ml:Scaler"].handling == "rewritten"
    assert nodes["ai.onnx.ml:Scaler"].tensors == {"Scaler/offset": (30,), "Scaler/scale": (30,)}
    assert nodes["ai.onnx.ml:Scaler"].parameters == 60
    assert nodes["MatMul"].tensors == {"transform_matrix": (30, 6)}
    assert nodes["ai.onnx.ml:ZipMap"].role == "tail"
    assert nodes["ai.onnx.ml:ZipMap"].handling == "stays: no standard form"
    assert report.learned == report.tunable > 300
    assert report.note is None


def test_encoders_of_words_are_named_as_prefix() -> None:
    report = inspect(mixed()[0])
    encoder = next(node for node in report.nodes if node.operator.endswith("OneHotEncoder"))
    assert (encoder.role, encoder.handling) == ("prefix", "stays: no standard form")
    assert set(report.inputs) == {"colour", "shape", "size", "weight"}
    assert report.inputs["colour"] == "string[N, 1]"


def test_what_a_rewrite_does_not_cover_is_said() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported("regression forest"))
    node = next(n for n in model.graph.node if n.op_type == "TreeEnsembleRegressor")
    modes = next(a for a in node.attribute if a.name == "nodes_modes")
    modes.strings[0] = b"BRANCH_MEMBER"  # only TreeEnsemble has it
    report = inspect(model)
    assert report.tunable == 0
    assert report.note is not None
    assert "node mode BRANCH_MEMBER" in report.note
    assert any("node mode BRANCH_MEMBER" in node.handling for node in report.nodes)


def test_text_and_json() -> None:
    report = inspect(exported("forest"))
    text = report.text()
    assert "TreeEnsembleClassifier" in text
    assert "learned numbers can be tuned" in text
    plain = json.loads(as_json(report))
    assert plain["tunable"] == report.tunable
    assert plain["nodes"][0]["tensors"]
