"""Random nodes of the encoders and their like: standard operators answer as onnxruntime does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from repeatable import examples

import onnxtune
from onnxtune.export import native
from onnxtune.learned import node_tensors
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from rewrites.errors import DataError

Array = np.ndarray[Any, Any]
Drawn = tuple[onnx.ModelProto, dict[str, Array]]

KEYS: dict[str, Any] = {"int64": np.int64, "float": np.float32, "double": np.float64}
BIG = 2**62
WORDS = st.sampled_from(["", "a", "no", "yes", "é"])
SHAPES = st.sampled_from([(5,), (3, 2), (1, 1), (0, 2), (2, 2, 3)])


def numbers(dtype: Any) -> st.SearchStrategy[Any]:
    """Few, so that they repeat, and the odd ones of the type."""
    whole = st.integers(-3, 4)
    if np.dtype(dtype).kind == "i":
        return whole | st.sampled_from([BIG, -BIG, 2**53 + 1])
    odd = [np.nan, np.inf, -np.inf, -0.0, 1e-40, 3.4e38, 0.1]
    return whole.map(float) | st.sampled_from(odd) | st.floats(-9, 9, width=16)


def model(
    operator: str,
    inputs: dict[str, Array],
    shapes: dict[str, list[Any]],
    output: int,
    version: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node of ai.onnx.ml. A shape without sizes declares as many axes, an empty one none."""
    made = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), shapes[name] or None
        )
        for name, array in inputs.items()
    ]
    held = {name: value for name, value in attributes.items() if value is not None}
    node = helper.make_node(operator, list(inputs), ["y"], "node", domain="ai.onnx.ml", **held)
    outputs = [helper.make_tensor_value_info("y", output, None)]
    graph = helper.make_graph([node], "g", made, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def declared(array: Array, known: bool) -> list[Any]:
    """The shape to declare: rows vary, columns are told or not."""
    first, *rest = (f"axis_{number}" for number in range(array.ndim))
    return [first, *(array.shape[1:] if known else rest)]


def assert_same(source: onnx.ModelProto, feed: dict[str, Array]) -> None:
    hard = onnxtune.convert(source, form="hard")
    assert {node.domain for node in hard.graph.node} == {""}
    try:
        expected = run(source, feed)["y"]
    except DataError:
        with pytest.raises(DataError):
            run(hard, feed)
        return
    found = run(hard, feed)["y"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@st.composite
def label_encoders(draw: Any, floats: bool = False) -> Drawn:
    version = draw(st.sampled_from([2, 3, 4, 5]))
    plain = [(k, v) for k in ("int64", "float") for v in ("int64", "float", "string")]
    newer = [("int64", "double"), ("double", "double"), ("double", "int64"), ("double", "string")]
    pairs = plain + newer * (version >= 4)
    wanted = ("float", "double") if floats else ("int64", "float", "double", "string")
    kind, to = draw(st.sampled_from([pair for pair in pairs if pair[1] in wanted]))
    size = draw(st.sampled_from([1, 2, 3, 9, 70, 200]))
    some = numbers(KEYS[kind])
    if size > 9:
        spread = np.random.default_rng(draw(st.integers(0, 99))).integers(-150, 150, size)
        keys = spread.astype(KEYS[kind])
        keys[:2] = draw(some), draw(some)
    else:
        keys = np.array(draw(st.lists(some, min_size=size, max_size=size)), KEYS[kind])
    attributes: dict[str, Any] = {}
    tensors = st.just(version >= 4) if "double" in (kind, to) else st.booleans()

    def hold(role: str, values: list[Any], dtype: Any, word: str) -> None:
        wide = word == "double" or (version >= 4 and draw(tensors))
        if wide and dtype is not None:
            tensor = numpy_helper.from_array(np.array(values, dtype), role)
        elif wide:
            tensor = helper.make_tensor(role, onnx.TensorProto.STRING, [len(values)], values)
        single = role == "default"
        plural = values[0] if single else [*values]
        attributes[f"{role}_tensor" if wide else f"{role}_{word}{'' if single else 's'}"] = (
            tensor if wide else plural
        )

    hold("keys", keys.tolist(), KEYS[kind], kind)
    value = WORDS if to == "string" else numbers(KEYS[to])
    values = draw(st.lists(value, min_size=size, max_size=size))
    hold("values", values, KEYS.get(to), to)
    if draw(st.booleans()):
        hold("default", [draw(value)], KEYS.get(to), to)
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    near = st.sampled_from(keys.tolist()) | some
    x = np.array(draw(st.lists(near, min_size=count, max_size=count)), KEYS[kind]).reshape(shape)
    output = helper.np_dtype_to_tensor_dtype(np.dtype(KEYS.get(to, object)))
    shapes = {"x": declared(x, draw(st.booleans()))}
    return model("LabelEncoder", {"x": x}, shapes, output, version, **attributes), {"x": x}


@examples(120)
@given(label_encoders())
def test_label_encoder(drawn: Drawn) -> None:
    assert_same(*drawn)


@examples(60)
@given(label_encoders(floats=True), st.integers(0, 9))
def test_the_table_of_a_label_encoder_goes_back(drawn: Drawn, seed: int) -> None:
    """Of any table: untouched it stays as it is; moved, native and hard form answer alike."""
    source, feed = drawn
    prepared = prepare(load(source))
    held = node_tensors(prepared, prepared.proto.graph.node[0])
    untouched = native(prepared, {name: tensor.value for name, tensor in held.items()})
    assert untouched.proto.SerializeToString() == source.SerializeToString()
    random = np.random.default_rng(seed)
    moved = {
        name: random.standard_normal(tensor.value.shape).astype(tensor.value.dtype)
        for name, tensor in held.items()
    }
    written = native(prepared, moved)
    assert not written.replaced
    assert_same(written.proto, feed)
    found = run(written.proto, feed)["y"].ravel()
    known = np.concatenate([tensor.ravel() for tensor in moved.values()])
    usual = [] if "node/default" in held else [0.0]
    assert np.isin(found, [*known.tolist(), *usual]).all()


@st.composite
def one_hot_encoders(draw: Any) -> Drawn:
    dtype = draw(st.sampled_from([np.int64, np.float32, np.float64]))
    odd = st.sampled_from([BIG, -(2**63), 2**63 - 1])
    categories = draw(st.lists(st.integers(-3, 4) | odd, min_size=1, max_size=6))
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    if draw(st.booleans()):
        known = [c for c in categories if abs(c) < 9] or [0]
        some: st.SearchStrategy[Any] = st.sampled_from(known)
    else:
        some = numbers(dtype)
    x = np.array(draw(st.lists(some, min_size=count, max_size=count)), dtype).reshape(shape)
    zeros = draw(st.sampled_from([None, 0, 1]))
    shapes = {"x": declared(x, draw(st.booleans()))}
    encoder = model(
        "OneHotEncoder", {"x": x}, shapes, onnx.TensorProto.FLOAT,
        cats_int64s=categories, zeros=zeros,
    )  # fmt: skip
    return encoder, {"x": x}


@examples(80)
@given(one_hot_encoders())
def test_one_hot_encoder(drawn: Drawn) -> None:
    """Where an unknown category is refused, the hard form refuses it too."""
    assert_same(*drawn)


@examples(40)
@given(st.data())
def test_category_mapper(data: Any) -> None:
    keys = data.draw(st.lists(numbers(np.int64), min_size=1, max_size=8))
    words = data.draw(st.lists(WORDS, min_size=len(keys), max_size=len(keys)))
    default = data.draw(st.none() | WORDS)
    found = data.draw(st.lists(st.sampled_from(keys) | numbers(np.int64), max_size=9))
    x = np.array(found, np.int64)
    mapper = model(
        "CategoryMapper", {"x": x}, {"x": ["N"]}, onnx.TensorProto.STRING,
        cats_int64s=keys, cats_strings=words, default_string=default,
    )  # fmt: skip
    assert_same(mapper, {"x": x})


@examples(80)
@given(st.data())
def test_imputer(data: Any) -> None:
    whole = data.draw(st.booleans())
    dtype = np.int64 if whole else np.float32
    shape = data.draw(st.sampled_from([(3,), (4, 3), (0, 3), (2, 1), (3, 2)]))
    fill = data.draw(st.lists(numbers(dtype), min_size=1, max_size=3))
    replaced = data.draw(numbers(dtype))
    count = int(np.prod(shape))
    near = st.just(replaced) | numbers(dtype)
    drawn = data.draw(st.lists(near, min_size=count, max_size=count))
    x = np.array(drawn, dtype).reshape(shape)
    held: dict[str, Any] = {"imputed_value_floats": np.array(fill, "f").tolist()}
    held["replaced_value_float"] = float(np.float32(replaced))
    if whole:
        held = {"imputed_value_int64s": fill, "replaced_value_int64": replaced}
    shapes = {"x": declared(x, data.draw(st.booleans()))}
    output = helper.np_dtype_to_tensor_dtype(x.dtype)
    assert_same(model("Imputer", {"x": x}, shapes, output, **held), {"x": x})


@examples(40)
@given(st.data())
def test_binarizer(data: Any) -> None:
    threshold = data.draw(st.none() | numbers(np.float32))
    shape = data.draw(SHAPES)
    count = int(np.prod(shape))
    # The kernel refuses NaN in the data; by the standard it is not above the threshold.
    some = numbers(np.float32).filter(lambda number: number == number)
    near = some | st.just(0.0 if threshold is None or np.isnan(threshold) else threshold)
    drawn = data.draw(st.lists(near, min_size=count, max_size=count))
    x = np.array(drawn, np.float32).reshape(shape)
    binarizer = model(
        "Binarizer", {"x": x}, {"x": declared(x, False)}, onnx.TensorProto.FLOAT,
        threshold=None if threshold is None else float(np.float32(threshold)),
    )  # fmt: skip
    assert_same(binarizer, {"x": x})


@examples(80)
@given(st.data())
def test_feature_vectorizer(data: Any) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.int64, np.int32]))
    feed, shapes, widths = {}, {}, []
    rows = data.draw(st.integers(1, 4))
    for number in range(data.draw(st.integers(1, 3))):
        one = rows == 1 and data.draw(st.booleans())
        shape = (3,) if one else data.draw(st.sampled_from([(rows, 1), (rows, 3), (rows, 2, 2)]))
        array = np.random.default_rng(number).integers(-9, 9, shape).astype(dtype)
        feed[f"x{number}"] = array
        shapes[f"x{number}"] = declared(array, data.draw(st.booleans()))
        widths.append(data.draw(st.integers(1, 5)))
    output = onnx.TensorProto.FLOAT
    assert_same(model("FeatureVectorizer", feed, shapes, output, inputdimensions=widths), feed)


@examples(80)
@given(st.data())
def test_array_feature_extractor(data: Any) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.int64, np.int32]))
    shape = data.draw(st.sampled_from([(3,), (4, 3), (0, 3), (2, 2, 3)]))
    x = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    picked = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))
    index = np.array(picked).reshape(data.draw(st.sampled_from([(-1,), (1, -1), (-1, 1)])))
    feed = {"x": x, "i": index}
    # Without a declared shape nothing tells how many axes there are.
    shapes = {"x": declared(x, False) * data.draw(st.booleans()), "i": declared(index, False)}
    output = helper.np_dtype_to_tensor_dtype(x.dtype)
    source = model("ArrayFeatureExtractor", feed, shapes, output)
    if data.draw(st.booleans()):
        source.graph.initializer.append(numpy_helper.from_array(index, "i"))
        del source.graph.input[1]
        feed = {"x": x}
    assert_same(source, feed)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_imputer_whose_columns_nothing_counts(width: int) -> None:
    """As many as the values take one each, others all the first."""
    source = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
        g (float[N, M] x) => (float[N, M] y) {
            y = ai.onnx.ml.Imputer <imputed_value_floats = [0.5, 1.5]> (x)
        }"""
    )
    feed = {"x": np.repeat(np.array([[0], [2]], np.float32), width, 1)}
    found = onnxtune.to_torch(source).predict(feed)["y"].detach().numpy()
    np.testing.assert_array_equal(found, run(source, feed)["y"])


@pytest.mark.parametrize(
    "node",
    [
        "CategoryMapper <cats_int64s : ints = [], cats_strings : strings = []>",
        "LabelEncoder <keys_int64s : ints = [], values_strings : strings = []>",
        "LabelEncoder <keys_int64s : ints = [], values_floats : floats = []>",
    ],
)
def test_a_table_without_keys(node: str) -> None:
    result = "float" if "floats" in node else "string"
    source = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        g (int64[N] x) => ({result}[N] y) {{ y = ai.onnx.ml.{node} (x) }}"""
    )
    hard = onnxtune.convert(source, form="hard")
    if node.startswith("CategoryMapper"):
        assert {"ai.onnx.ml"}.isdisjoint(made.domain for made in hard.graph.node)
        np.testing.assert_array_equal(run(hard, {"x": np.arange(3)})["y"], ["_Unused"] * 3)
    else:
        assert [made.op_type for made in hard.graph.node] == ["LabelEncoder"]


# What has no numeric form


@pytest.mark.parametrize(
    "text",
    [
        """g (string[N] x) => (float[N] y) {
            y = ai.onnx.ml.LabelEncoder <keys_strings = ["a"], values_floats = [0.5]> (x) }""",
        """g (string[N] x) => (float[N, K] y) {
            y = ai.onnx.ml.OneHotEncoder <cats_strings = ["a", "b"]> (x) }""",
        """g (string[N] x) => (int64[N] y) {
            y = ai.onnx.ml.CategoryMapper <cats_int64s = [4], cats_strings = ["a"]> (x) }""",
    ],
)
def test_words_stay(text: str) -> None:
    source = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["ai.onnx.ml" : 2]> {text}')
    hard = onnxtune.convert(source, form="hard")
    assert hard.graph.node[0].SerializeToString() != b""
    assert [node.op_type for node in hard.graph.node] == [n.op_type for n in source.graph.node]
    feed = {"x": np.array(["a", "b", ""], object)}
    np.testing.assert_array_equal(run(hard, feed)["y"], run(source, feed)["y"])
    (node,) = onnxtune.inspect(source).nodes
    assert node.handling == "stays: no standard form"
    assert node.role == "tail"


def test_maps_stay() -> None:
    """DictVectorizer takes maps, and has no rewrite."""
    source = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["ai.onnx.ml" : 1]>
        g (map(string, float) x) => (float[N, 2] y) {
            y = ai.onnx.ml.DictVectorizer <string_vocabulary = ["a", "b"]> (x)
        }"""
    )
    hard = onnxtune.convert(source, form="hard")
    assert [node.op_type for node in hard.graph.node] == ["DictVectorizer"]
    feed: Any = {"x": {"a": 2.0, "c": 5.0}}
    np.testing.assert_array_equal(run(hard, feed)["y"], run(source, feed)["y"])


def test_words_before_the_tuned_part_cut_nothing() -> None:
    """An encoder of words is run once, and is not what stops a gradient."""
    source = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        g (string[N, 2] x) => (float[N, 1] y) {
            [codes] c = ai.onnx.ml.LabelEncoder <keys_strings = ["a"], values_floats = [0.5]> (x)
            [model] y = ai.onnx.ml.LinearRegressor <coefficients = [0.5, 2.0]> (c)
        }"""
    )
    report = onnxtune.inspect(source)
    assert {node.name: node.role for node in report.nodes} == {"codes": "prefix", "model": "core"}


@pytest.mark.parametrize("first", [0, 2**40])
def test_whole_numbers_of_any_size(first: int) -> None:
    """onnxruntime's Clip of int64 lets numbers between 2**31 and 2**32 through."""
    keys = [first, first + 1, first + 2]
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (int64[N, 1] x) => (float[N, 1] y) {{
            y = ai.onnx.ml.LabelEncoder <keys_int64s = {keys}, values_floats = [1.0, 2.0, 3.0]> (x)
        }}"""
    )
    ends = [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 1, 2**63 - 1, first + 2, first + 3]
    x = np.array([*ends, *(-end for end in ends), -(2**63)])[:, None]
    expected = run(proto, {"x": x})["y"]
    np.testing.assert_array_equal(run(onnxtune.convert(proto, "hard"), {"x": x})["y"], expected)
