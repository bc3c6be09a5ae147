"""onnxruntime behind a few functions: one provider or an error, and the types of values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, parser
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from onnxtune.errors import ArgumentError, DataError, ModelError, ProviderError
from onnxtune.runtime import (
    PROVIDERS,
    ValueType,
    available_providers,
    input_types,
    one_line,
    output_types,
    run,
    session,
    value_types,
)

LINE = parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17]>
line (float[N, 3] X) => (float[N, 2] Y) <float[3, 2] W = {1, 2, 3, 4, 5, 6}> {
  A = MatMul(X, W)
  B = Shape(A)
  Y = Relu(A)
}
""")
BROKEN = parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17]>
broken (float[N, 3] X) => (float[N, 3] Y) { Y = Add(X, nowhere) }
""")
X = np.ones((4, 3), np.float32)


def classifier() -> onnx.ModelProto:
    fitted = LogisticRegression().fit([[0.0], [1.0], [2.0]], ["a", "b", "a"])
    return to_onnx(fitted, np.zeros((1, 1), np.float32))


# --- Sessions ---


def test_the_cpu() -> None:
    assert "cpu" in available_providers()
    assert session(LINE).get_providers() == ["CPUExecutionProvider"]
    assert session(LINE.SerializeToString(), threads=1).get_providers() == ["CPUExecutionProvider"]


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def start(content: bytes, options: Any, **_: Any) -> Any:
        found.append((options.intra_op_num_threads, options.graph_optimization_level))
        return made

    made = session(LINE)
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    session(LINE)
    session(LINE, threads=3, optimize=False)
    level = onnxruntime.GraphOptimizationLevel
    assert found == [(0, level.ORT_ENABLE_ALL), (3, level.ORT_DISABLE_ALL)]


def test_a_provider_that_does_not_exist() -> None:
    with pytest.raises(ArgumentError, match="'abacus' is none of cpu, cuda"):
        session(LINE, "abacus")


@pytest.mark.parametrize("name", sorted(PROVIDERS.keys() - {"cpu"}))
def test_a_provider_that_was_not_built_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert available_providers() == ["cpu"]
    with pytest.raises(ProviderError, match=rf"'{name}' is not in this onnxruntime \(it has cpu\)"):
        session(LINE, name)


def test_a_provider_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu without a GPU makes a session on the CPU and says nothing of it."""
    on_the_cpu = session(LINE)
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: on_the_cpu)
    with pytest.raises(ProviderError, match="'cuda' is built in, but could not start"):
        session(LINE, "cuda")


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_one_provider_or_an_error(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever this machine has; and nothing on stderr either way."""
    try:
        started = session(LINE, name)
    except ProviderError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert started.get_providers()[0] == PROVIDERS[name]
    assert f"'{name}'" in refusal or not refusal
    assert name != "cpu" or not refusal
    assert capfd.readouterr() == ("", "")


def test_a_model_that_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^onnxruntime refuses the model: .*nowhere") as caught:
        session(BROKEN)
    assert "\n" not in str(caught.value) and "ONNXRuntimeError" not in str(caught.value)
    with pytest.raises(ModelError, match=r"^m\.onnx: onnxruntime refuses the model"):
        session(BROKEN, origin="m.onnx")
    with pytest.raises(ModelError, match="refuses the model"):
        session(b"nonsense")


def test_one_line() -> None:
    signature = "Kind<T>::Kind(const Info&, bool (*)(int)) [with T = float]"
    text = f"[ONNXRuntimeError] : 1 : FAIL : Started: /src/core/a.h:89 {signature} a() was\n false."
    assert one_line(RuntimeError(text)) == "Started: a() was false."
    assert one_line(RuntimeError("/home/me/m.onnx (2) is bad.")) == "/home/me/m.onnx (2) is bad."
    signature = "ort::Norm::Locale::Locale(const std::string&)::<lambda()>"
    locale = (
        f"Started: /a/b.cc:235 {signature} Failed to construct locale with name:xx_YY:not valid"
    )
    assert one_line(RuntimeError(locale)).startswith("Started: the system lacks the locale xx_YY")
    newer = onnx.ModelProto.FromString(LINE.SerializeToString())
    newer.ir_version = 99
    with pytest.raises(ModelError, match=r"^[^/]*refuses the model: Unsupported model IR version"):
        session(newer)


# --- Runs ---


@pytest.mark.parametrize("model", [LINE, LINE.SerializeToString(), session(LINE)])
def test_run(model: Any) -> None:
    found = run(model, {"X": X})
    assert list(found) == ["Y"] and found["Y"].tolist() == [[9, 12]] * 4
    assert run(model, {"X": X[:0]}, ["Y"])["Y"].shape == (0, 2)


@pytest.mark.parametrize(
    "feed",
    [{}, {"X": X[:, :2]}, {"X": X.astype(np.float64)}, {"X": X, "Z": X}, {"X": X.astype(str)}],
)
def test_data_that_do_not_fit(feed: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="onnxruntime cannot run these data: ") as caught:
        run(LINE, feed)
    assert "\n" not in str(caught.value)


# --- Types ---


def test_types_of_a_small_model() -> None:
    assert input_types(LINE) == [ValueType("X", "tensor(float)", (None, 3))]
    assert output_types(LINE) == [ValueType("Y", "tensor(float)", (None, 2))]
    types = value_types(LINE)
    assert set(types) == {"X", "A", "B", "Y"}
    assert types["A"] == ValueType("A", "tensor(float)", (None, 2))
    assert types["B"] == ValueType("B", "tensor(int64)", (2,))
    assert [output.name for output in LINE.graph.output] == ["Y"]  # as it was


def test_initializers_are_no_inputs() -> None:
    model = onnx.ModelProto.FromString(LINE.SerializeToString())
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [3, 2]))
    assert [value.name for value in input_types(model)] == ["X"]


def test_types_of_maps_and_strings() -> None:
    types = {value.name: value for value in output_types(classifier())}
    assert types["output_label"].is_string and types["output_label"].dtype == np.dtype(object)
    maps = types["output_probability"]
    assert maps.kind == "seq(map(string,tensor(float)))" and maps.shape is None
    with pytest.raises(DataError, match="'output_probability' is a seq"):
        _ = maps.dtype


def test_a_label_encoder_of_unknown_type() -> None:
    """`onnx.shape_inference` ends the process on this one."""
    encode = helper.make_node(
        *("LabelEncoder", ["A"], ["Y"]),
        domain="ai.onnx.ml",
        keys_strings=["a", "b"],
        values_floats=[1.0, 2.0],
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", ["X"], ["A"]), encode],
        "encode",
        [helper.make_tensor_value_info("X", TensorProto.STRING, [None, 1])],
        [helper.make_empty_tensor_value_info("Y")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    types = value_types(helper.make_model(graph, ir_version=8, opset_imports=imports))
    assert types["A"].is_string and types["Y"].kind == "tensor(float)"


@pytest.mark.parametrize(
    ("kind", "dtype", "is_float"),
    [
        ("float", "float32", True),
        ("double", "float64", True),
        ("float16", "float16", True),
        ("int64", "int64", False),
        ("uint8", "uint8", False),
        ("bool", "bool", False),
        ("string", "object", False),
    ],
)
def test_dtypes(kind: str, dtype: str, is_float: bool) -> None:
    value = ValueType("v", f"tensor({kind})")
    assert value.dtype == np.dtype(dtype)
    assert (value.is_float, value.is_string) == (is_float, kind == "string")


@pytest.mark.parametrize("kind", ["tensor(float8e4m3)", "map(int64,tensor(float))", "", "optional"])
def test_types_without_a_dtype(kind: str) -> None:
    with pytest.raises(DataError, match="'v'"):
        _ = ValueType("v", kind).dtype


def test_inputs_of_unknown_shape_and_kind() -> None:
    declared = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("b", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.STRING, ["rows", None, 2]),
        helper.make_tensor_sequence_value_info("d", TensorProto.FLOAT, None),
    ]
    model = onnx.ModelProto(graph=onnx.GraphProto(input=declared))
    assert input_types(model) == [
        ValueType("a", "tensor(float)", None),
        ValueType("b", "tensor(int64)", ()),
        ValueType("c", "tensor(string)", (None, None, 2)),
        ValueType("d", "sequence", None),
    ]
