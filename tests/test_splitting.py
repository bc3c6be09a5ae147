"""A split model: its parts do together what the whole one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

import onnxtune
from onnxtune import cli
from onnxtune.cuda_kernels import gaps
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.runtime import run
from onnxtune.sampling import sample
from onnxtune.splitting import SplitModel

WORDS_AND_NUMBERS = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
g (string[N, 1] colour, float[N, 1] size, int64[N, 1] age, float[N, 2] place)
    => (string[N] label, seq(map(string, float)) p)
<float[7, 2] w = {0.5, -0.5, 1.0, 0.0, 0.0, 2.0, -1.0, 1.0, 0.5, 0.5, 0.25, -1.0, 2.0, 1.5}> {
    onehot3 = ai.onnx.ml.OneHotEncoder <cats_strings = ["red", "green", "blue"], zeros = 1> (colour)
    flat = Constant <value_ints = [-1, 3]> ()
    onehot = Reshape (onehot3, flat)
    years = Cast <to = 1> (age)
    numbers = Concat <axis = 1> (size, years, place)
    scaled = ai.onnx.ml.Scaler <offset = [0.5, 40.0, 0.0, 1.0], scale = [2.0, 0.1, 1.0, 1.0]>
        (numbers)
    x = Concat <axis = 1> (onehot, scaled)
    label, scores = ai.onnx.ml.LinearClassifier <classlabels_strings = ["no", "yes"],
        coefficients = [0.5, 1.0, -0.5, 1.0, 0.5, -1.0, 0.25, -0.5, 1.5, -0.5, -1.0, 0.5, 1.0, 0.0],
        intercepts = [0.25, -0.25], post_transform = "SOFTMAX"> (x)
    p = ai.onnx.ml.ZipMap <classlabels_strings = ["no", "yes"]> (scores)
}"""

NUMBERS = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
g (float[N, 2] x) => (float[N, 1] y) {
    z = ai.onnx.ml.Scaler <offset = [0.5, -1.0], scale = [2.0, 0.5]> (x)
    y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, -2.0], intercepts = [0.5]> (z)
}"""

WORDS_WITHIN = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
g (float[N, 8] x) => (float[N, 4] y, string[N] word)
<string[2] names = {"low", "high"}> {
    hidden = MatMul (x, first)
    y = MatMul (hidden, second)
    place = ArgMax <axis = 1, keepdims = 0> (y)
    two = Constant <value_int = 2> ()
    half = Div (place, two)
    word = Gather (names, half)
}"""


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def words_behind_weights() -> onnx.ModelProto:
    model = parsed(WORDS_WITHIN)
    random = np.random.default_rng(0)
    for name, shape in {"first": (8, 64), "second": (64, 4)}.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def rows(count: int = 200) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "colour": random.choice(["red", "green", "blue", "?"], (count, 1)).astype(object),
        "size": random.normal(size=(count, 1)).astype(np.float32),
        "age": random.integers(20, 60, (count, 1)),
        "place": random.normal(size=(count, 2)).astype(np.float32),
    }


def plain(output: Any) -> np.ndarray:
    if isinstance(output, list):
        return np.array([list(row.values()) for row in output])
    return np.asarray(output)


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        expected, found = plain(value), plain(got[name])
        assert found.dtype == expected.dtype and found.shape == expected.shape
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        else:
            assert (found == expected).all()


def test_words_numbers_and_words() -> None:
    model = parsed(WORDS_AND_NUMBERS)
    cut = onnxtune.split(model)
    assert list(cut.parts) == ["cpu", "gpu", "tail"]
    assert cut.outputs == ("label", "p")
    for count in (1, 200):
        assert_same(cut.run(rows(count)), run(model, rows(count)))


def test_one_tensor_goes_to_the_gpu() -> None:
    cut = onnxtune.split(parsed(WORDS_AND_NUMBERS))
    assert len(cut.between) == 1
    (only,) = cut.gpu.graph.input
    assert only.name == cut.between[0]
    assert only.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert only.type.tensor_type.shape.dim[1].dim_value == 7
    assert cut.cpu is not None
    assert [value.name for value in cut.cpu.graph.output] == [only.name]
    assert {value.name for value in cut.cpu.graph.input} == {"colour", "size", "age", "place"}


def test_the_gpu_part_has_kernels_only() -> None:
    for model in (parsed(WORDS_AND_NUMBERS), parsed(NUMBERS), words_behind_weights()):
        cut = onnxtune.split(model)
        assert not gaps(cut.gpu)
        assert not any(node.domain for node in cut.gpu.graph.node)


def test_columns_that_stay_apart_become_one() -> None:
    """The GPU needs them one by one: the tensor is cut there."""
    model = parsed("""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
    g (string[N, 1] word, float[N, 3] x) => (float[N, 2] y)
    <float[3, 2] w = {0.5, -0.5, 1.0, 0.0, 0.0, 2.0}> {
        code = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [0, 1],
            default_int64 = -1> (word)
        number = Cast <to = 1> (code)
        products = MatMul (x, w)
        y = Mul (products, number)
    }""")
    cut = onnxtune.split(model)
    assert len(cut.between) == 1 and len(cut.gpu.graph.input) == 1
    feed = {
        "word": np.array([["a"], ["b"], ["c"]], object),
        "x": np.arange(9, dtype=np.float32).reshape(3, 3),
    }
    assert_same(cut.run(feed), run(model, feed))
    assert cut.cpu is not None
    onnx.checker.check_model(cut.gpu)


def test_what_cannot_be_joined_goes_beside_it() -> None:
    model = parsed("""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
    g (string[N] word, float[N, 3] x) => (float[N, 3] y)
    <float[2, 3] w = {0.5, -0.5, 1.0, 0.0, 0.0, 2.0}> {
        code = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [0, 1],
            default_int64 = 0> (word)
        weights = Gather (w, code)
        y = Mul (x, weights)
    }""")
    cut = onnxtune.split(model)
    assert cut.between == ("code",)
    assert {value.name for value in cut.gpu.graph.input} == {"code", "x"}
    feed = {"word": np.array(["a", "b", "c"], object), "x": np.ones((3, 3), np.float32)}
    assert_same(cut.run(feed), run(model, feed))


def test_numbers_alone_are_one_part() -> None:
    model = parsed(NUMBERS)
    cut = onnxtune.split(model)
    assert cut.cpu is None and cut.tail is None and cut.between == ()
    feed = sample(model, 50)
    assert_same(cut.run(feed), run(model, feed))


def test_words_at_the_end_are_the_tail() -> None:
    model = words_behind_weights()
    cut = onnxtune.split(model)
    assert cut.cpu is None and cut.tail is not None
    assert len(cut.tail.graph.node) == 1
    feed = sample(model, 50)
    assert_same(cut.run(feed), run(model, feed))


@pytest.mark.parametrize("word", ["", "string[N, 1] word, "], ids=["numbers", "words"])
def test_rows_of_the_model_are_rows_of_its_parts(word: str) -> None:
    """With a column that no node reads, as where a ColumnTransformer drops it."""
    code = """code = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_floats = [0.5, 2.0]>
        (word)
        z = Mul (x, code)"""
    model = parsed(f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
    g ({word}float[N, 1] dropped, float[N, 3] x) => (float[N, 3] y)
    <float[3] w = {{0.5, -0.5, 1.0}}> {{
        {code if word else "z = Identity (x)"}
        y = Mul (z, w)
    }}""")
    feed = sample(model, 20)
    cut = onnxtune.split(model)
    assert {value.name for value in next(iter(cut.parts.values())).graph.input} == {*feed}
    assert_same(onnxtune.Runner(cut, "cpu")(feed), run(model, feed))
    assert_same(onnxtune.Runner([*cut.parts.values()], "cpu", outputs=["y"])(feed), cut.run(feed))


def test_the_soft_form_too() -> None:
    model = parsed(WORDS_AND_NUMBERS)
    cut = onnxtune.split(model, form="soft")
    assert_same(cut.run(rows()), run(model, rows()))


def test_a_converted_model_is_only_cut() -> None:
    hard = onnxtune.convert(parsed(WORDS_AND_NUMBERS), "hard", provider="cuda")
    cut = onnxtune.split(hard)
    assert sum(len(part.graph.node) for part in cut.parts.values()) >= len(hard.graph.node)
    assert_same(cut.run(rows()), run(hard, rows()))


def test_words_alone_are_refused() -> None:
    model = parsed("""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
    g (string[N] word) => (int64[N] y) {
        [encoder] y = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"],
            values_int64s = [0, 1], default_int64 = 0> (word)
    }""")
    with pytest.raises(UnsupportedError, match=r"LabelEncoder 'encoder': no kernel for"):
        onnxtune.split(model)
    with pytest.raises(UnsupportedError, match="nothing of it can run on a GPU"):
        onnxtune.convert(model, "hard", provider="cuda")


def test_files(tmp_path: Path) -> None:
    cut = onnxtune.split(parsed(WORDS_AND_NUMBERS))
    cut.save(tmp_path / "model")
    again = SplitModel(
        *(onnx.load(tmp_path / f"model.{side}.onnx") for side in ("cpu", "gpu", "tail")),
        cut.outputs,
    )
    assert again == cut
    facts = {entry.key: entry.value for entry in again.gpu.metadata_props}
    assert facts["onnxtune.part"] == "gpu" and facts["onnxtune.form"] == "hard"
    with pytest.raises(ArgumentError, match="input file"):
        cut.save(tmp_path / "model", [tmp_path / "model.tail.onnx"])


def test_parts_of_an_earlier_model_do_not_stay(tmp_path: Path) -> None:
    onnxtune.split(parsed(WORDS_AND_NUMBERS)).save(tmp_path / "model")
    onnx.save(parsed(NUMBERS), tmp_path / "other.cpu.onnx")  # no part of anything
    (tmp_path / "other.tail.onnx").write_bytes(b"?")
    for stem in ("model", "other"):
        onnxtune.split(parsed(NUMBERS)).save(tmp_path / stem)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["model.gpu.onnx", "other.cpu.onnx", "other.gpu.onnx", "other.tail.onnx"]


def test_the_file_that_was_split_stays(tmp_path: Path) -> None:
    onnxtune.split(parsed(WORDS_AND_NUMBERS)).save(tmp_path / "model")
    tail = tmp_path / "model.tail.onnx"
    onnxtune.split(parsed(NUMBERS)).save(tmp_path / "model", [None, tail])
    assert tail.exists() and not (tmp_path / "model.cpu.onnx").exists()


def test_shapes_of_words_are_computed_where_they_are() -> None:
    """A Reshape on the GPU reads its shape on the CPU: none goes there and back."""
    model = parsed("""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
    g (string[N, M] words, float[N, 12] x) => (float[N, M, 4] y) 
    <int64[1] zero = {0}, int64[1] two = {2}, int64[1] last = {4}> {
        code = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_floats = [1.0, 2.0]>
            (words)
        size = Shape (words)
        both = Slice (size, zero, two)
        shape = Concat <axis = 0> (both, last)
        wide = Reshape (x, shape)
        column = Constant <value_ints = [0, 0, 1]> ()
        high = Reshape (code, column)
        y = Add (wide, high)
    }""")
    cut = onnxtune.split(model)
    assert cut.cpu is not None
    assert {"Slice", "Concat"} <= {node.op_type for node in cut.cpu.graph.node}
    assert "size" not in cut.between
    feed = {
        "words": np.array([["a", "b", "c"]] * 5, object),
        "x": np.arange(60, dtype=np.float32).reshape(5, 12),
    }
    assert_same(cut.run(feed), run(model, feed))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(parsed(WORDS_AND_NUMBERS), path)
    assert cli.main(["split", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [file["part"] for file in said["files"]] == ["cpu", "gpu", "tail"]
    assert all(Path(file["file"]).exists() for file in said["files"])
    assert said["between"] == said["files"][1]["inputs"] == said["files"][0]["outputs"]
    assert cli.main(["split", str(path), "-o", str(tmp_path / "other")]) == 0
    assert "From the CPU to the GPU: " in capsys.readouterr().out
    assert (tmp_path / "other.tail.onnx").exists()


def test_codes_of_words_go_as_floats() -> None:
    """They are whole numbers that float32 holds; others stay what they are."""
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
    g (string[N, 1] word, string[N, 1] other) => (float[N, 1] y)
    <float[3, 1] w = {0.5, -0.5, 1.0}, int64[1] axis = {1}> {
        code = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [0, LARGEST],
            default_int64 = 1> (word)
        second = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [1, 2],
            default_int64 = 0> (other)
        row = Squeeze (second, axis)
        weights = Gather (w, row)
        factor = Cast <to = 1> (code)
        whole = Mod (code, code)
        rest = Cast <to = 1> (whole)
        products = Mul (weights, factor)
        y = Add (products, rest)
    }"""
    feed = {
        "word": np.array([["b"], ["b"], ["c"]], object),
        "other": np.array([["a"], ["b"], ["c"]], object),
    }
    for largest, between in (("16777216", 1), ("16777217", 2)):
        model = parsed(text.replace("LARGEST", largest))
        cut = onnxtune.split(model)
        assert len(cut.between) == between
        assert_same(cut.run(feed), run(model, feed))


UNMADE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 2] x, string[N] word) => (float[N, 2] y, float[2] edges, string[N] word, string[N] same)
<float[2] edges = {1.0, 2.0}> {
    y = Exp (x)
    same = Identity (word)
}"""


def test_outputs_that_no_node_makes() -> None:
    model, cut = parsed(UNMADE), onnxtune.split(parsed(UNMADE))
    feed = {
        "x": np.ones((3, 2), np.float32),
        "word": np.array(["a", "b", "c"], object),
    }
    assert_same(cut.run(feed), run(model, feed))
    with onnxtune.Runner(cut, "cpu") as runner:
        assert_same(runner(feed), run(model, feed))


@pytest.mark.parametrize("words", [True, False])
def test_inputs_that_nothing_reads_are_taken(words: bool) -> None:
    used = 'code = ai.onnx.ml.LabelEncoder <keys_strings = ["a"], values_floats = [1.0]> (word)'
    model = parsed(
        f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (float[N, 1] x, float[N, 1] spare, string[N, 1] word, string[N, 1] city)
            => (float[N, 1] y) {{
            {used if words else "code = Identity (x)"}
            z = Exp (x)
            y = Add (z, code)
        }}"""
    )
    cut = onnxtune.split(model)
    assert ("cpu" in cut.parts) is words
    feed = {
        "x": np.ones((2, 1), np.float32),
        "spare": np.zeros((2, 1), np.float32),
        "word": np.array([["a"], ["b"]], object),
        "city": np.array([["c"], ["d"]], object),
    }
    frame = pd.DataFrame({name: column[:, 0] for name, column in feed.items()})
    for chain in (cut, list(cut.parts.values())):
        with onnxtune.Runner(chain, "cpu") as runner:
            assert_same(runner(frame), run(model, feed))
            assert_same(runner(feed), run(model, feed))
