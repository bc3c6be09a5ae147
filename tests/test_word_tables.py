"""Tables of floats behind words: looked up before the core, tuned in it, and written back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxtune
from onnxtune.export import native
from onnxtune.learned import node_tensors
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from onnxtune.torch_module import to_torch
from onnxtune.tuning import tune

WORDS = np.array([["a", "no"], ["é", "a"], ["unknown", ""], ["no", "no"]] * 25, object)
TABLE = 'keys_strings = ["a", "no", "é"], values_floats = [0.5, -1.5, 2.0]'
TENSORS = """keys_tensor = string[3] {"a", "no", "é"}, values_tensor = KIND[3] {0.5, -1.5, 2.0},
    default_tensor = KIND[1] {0.25}"""


def parse(attributes: str = TABLE, version: int = 2) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : {version}]>
        g (string[N, 2] x) => (float[N, 1] y) {{
            [means] m = ai.onnx.ml.LabelEncoder <{attributes}> (x)
            [linear] y = ai.onnx.ml.LinearRegressor <coefficients = [0.5, 2.0]> (m)
        }}"""
    )
    return model


EVERY = pytest.mark.parametrize(
    "model",
    [
        parse(),
        parse(f"{TABLE}, default_float = 0.25"),
        parse(f"{TABLE}, default_float = 0.25", 4),
        parse('keys_strings = ["a", "no", "a"], values_floats = [0.5, -1.5, 2.0]'),
        parse(TENSORS.replace("KIND", "float"), 4),
    ],
    ids=["plain", "default", "version 4", "a word twice", "tensors"],
)


@EVERY
def test_every_form_equals_onnxruntime(model: onnx.ModelProto) -> None:
    wanted = run(model, {"x": WORDS})["y"]
    for form in ("hard", "soft"):
        found = run(onnxtune.convert(model, form=form), {"x": WORDS})["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(to_torch(model).predict(WORDS)["y"].detach(), wanted, rtol=1e-6)


@EVERY
def test_the_table_has_a_gradient(model: onnx.ModelProto) -> None:
    module = to_torch(model)
    assert set(module.tensors()) >= {"means/values", "means/default"}
    module.predict(WORDS)["y"].sum().backward()
    # What a word weighs in a row is the coefficient of its column.
    known = np.isin(WORDS, [key.decode() for key in keys_of(model)]).sum(axis=0)
    tensors = module.tensors()
    assert tensors["means/values"].grad.sum() == known @ [0.5, 2.0]
    assert tensors["means/default"].grad.sum() == (len(WORDS) - known) @ [0.5, 2.0]


def keys_of(model: onnx.ModelProto) -> list[bytes]:
    held = next(a for a in model.graph.node[0].attribute if a.name.startswith("keys_"))
    return [*held.strings, *held.t.string_data]


@EVERY
@pytest.mark.parametrize("order", ["source first", "prepared first"])
def test_numbers_go_back(model: onnx.ModelProto, order: str) -> None:
    module = to_torch(model)
    values = {name: tensor.detach().numpy().copy() for name, tensor in module.tensors().items()}
    prepared = prepare(load(model))
    if order == "prepared first":
        assert any(node_tensors(prepared, node) for node in prepared.proto.graph.node)
    assert native(prepared, values).proto == prepared.source.proto
    values["means/values"] += 0.25
    values["means/default"] -= 1
    written = native(prepared, values)
    assert set(written.changed) == {"means/values", "means/default"} and not written.replaced
    assert [n.op_type for n in written.proto.graph.node] == ["LabelEncoder", "LinearRegressor"]
    module.load_tensors(values)
    found = run(written.proto, {"x": WORDS})["y"]
    np.testing.assert_allclose(found, module.predict(WORDS)["y"].detach(), rtol=1e-6)
    np.testing.assert_allclose(found, run(module.model("hard"), {"x": WORDS})["y"], rtol=1e-6)


def test_a_table_of_doubles() -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 4]>
        g (string[N, 2] x) => (double[N, 2] y) {{
            [means] y = ai.onnx.ml.LabelEncoder <{TENSORS.replace("KIND", "double")}> (x)
        }}"""
    )
    module = to_torch(model)
    assert module.model("native") == model
    values = {name: tensor.value + 1 / 3 for name, tensor in module.learned.items()}
    module.load_tensors(values)
    tuned = run(module.model("native"), {"x": WORDS})["y"]
    np.testing.assert_array_equal(tuned, run(model, {"x": WORDS})["y"] + 1 / 3)
    np.testing.assert_array_equal(module.predict(WORDS)["y"].detach(), tuned)


def test_the_table_is_counted() -> None:
    report = onnxtune.inspect(parse())
    assert (report.tunable, report.learned) == (6, 6)
    assert [node.role for node in report.nodes] == ["prefix", "core", "core"]


def test_the_table_is_tuned() -> None:
    model = parse()
    rng = np.random.default_rng(0)
    rows = rng.choice(np.array(["a", "no", "é"], object), (400, 2))
    means = {"a": 1.0, "no": 0.0, "é": -1.0}
    table = np.vectorize(means.get)(rows)
    result = tune(model, rows, table @ [0.5, 2.0], seed=0, lr=0.05)
    assert result.accepted
    found = run(result.model("native"), {"x": rows})["y"].ravel()
    before = run(model, {"x": rows})["y"].ravel()
    wanted = table @ [0.5, 2.0]
    assert np.mean((found - wanted) ** 2) < 0.2 * np.mean((before - wanted) ** 2)
