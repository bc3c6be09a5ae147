"""What `inspect` says of a model."""

from __future__ import annotations

import json

import onnx
import pytest
from graphs import parse
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
    # Thresholds and leaves of the operator as it is, and not how often its nodes were hit.
    held = {name.rpartition("/")[2] for each in report.nodes for name in each.tensors}
    assert {"nodes_values", "target_weights"} <= held and "nodes_hitrates" not in held
    assert report.learned > 300
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


def model_of(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (float[N, 2] x) => (float[N, 2] y, int64[N] label)
        <float[2] shift = {1, 2}, float[2, 3] scores = {1, 2, 3, 4, 5, 6}> {"""
        + body
        + "}"
    )


def test_learned_is_what_reaches_a_float_output() -> None:
    report = inspect(
        model_of(
            """[whole] whole = Cast <to = 7> (x)
               [counts] counted = TfIdfVectorizer <max_gram_length = 1, max_skip_count = 0,
                   min_gram_length = 1, mode = "TFIDF", ngram_counts = [0], ngram_indexes = [0, 1],
                   pool_int64s = [2, 3], weights = [0.5, -1.0]> (whole)
               [add] y = Add (counted, shift)
               [classes] s = MatMul (y, scores)
               [label] label = ArgMax <axis = 1, keepdims = 0> (s)"""
        )
    )
    # The scores reach the label alone.
    assert (report.tunable, report.learned) == (2, 4)
    nodes = {node.name: node for node in report.nodes}
    assert nodes["counts"].tensors == {"counts/weights": (2,)}
    assert nodes["counts"].tunable == () and nodes["add"].tunable == ("shift",)
    assert nodes["classes"].tensors == {}
    text = report.text()
    assert "(weights 2)" in text and " shift 2 " in text
    assert "2 of 4 learned numbers can be tuned.\nIn brackets: learned, but not tuned." in text


def test_what_stops_the_gradient_is_named() -> None:
    report = inspect(
        model_of(
            """[offsets] c = Constant <value_floats = [3.0, 4.0]> ()
               [first] a = Mul (x, c)
               [rounded] b = Round (a)
               [add] y = Add (b, shift)
               [label] label = ArgMax <axis = 1, keepdims = 0> (y)"""
        )
    )
    assert (report.tunable, report.learned) == (2, 4)
    assert "No gradient passes Round 'rounded'." in report.text()
    plain = json.loads(as_json(report))
    assert plain["nodes"][0]["tunable"] == [] and plain["packages"] == []


@pytest.mark.parametrize(("mode", "learned"), [("TF", 0), ("TFIDF", 2)])
def test_numbers_that_no_answer_depends_on_are_not_learned(mode: str, learned: int) -> None:
    model = parse(
        f"""g (int64[N, 3] x) => (float[N, 2] y) {{
            y = TfIdfVectorizer <mode = "{mode}", max_gram_length = 1, min_gram_length = 1,
                max_skip_count = 0, ngram_counts = [0], ngram_indexes = [0, 1],
                pool_int64s = [5, 6], weights = [2.0, 3.0]> (x)
        }}"""
    )
    assert inspect(model).learned == learned
