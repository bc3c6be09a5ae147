"""What users give becomes what onnxruntime takes, or one clear line."""

from __future__ import annotations

import datetime
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune import runtime
from onnxtune.data import check_numbers, encode_labels, load, take
from onnxtune.errors import DataError, MissingDependencyError
from onnxtune.runtime import ValueType

MATRIX = [ValueType("X", "tensor(float)", (None, 3))]
ANY_WIDTH = [ValueType("X", "tensor(float)", (None, None))]
TEXTS = [ValueType("X", "tensor(string)", (None, 2))]
PEOPLE = [
    ValueType("age", "tensor(int64)", (None, 1)),
    ValueType("hours_per_week", "tensor(float)", (None, 1)),
    ValueType("job", "tensor(string)", (None, 1)),
]


def column(kind: str) -> list[ValueType]:
    return [ValueType("x", f"tensor({kind})", (None, 1)), ValueType("other", "tensor(float)")]


def one(values: Any, kind: str) -> np.ndarray:
    """Column `x` of a two-column frame as the array of an input of a kind."""
    frame = pd.DataFrame({"other": np.zeros(len(values)), "x": values})
    return load(frame, column(kind)).feed["x"][:, 0]


def people(**changes: Any) -> pd.DataFrame:
    frame = {"job": ["cook", "nurse"], "age": [30, 40], "hours-per-week": [38.5, 20.0]}
    return pd.DataFrame(frame | changes)


def message(data: Any, inputs: list[ValueType], target: Any = None) -> str:
    """The message of the refusal: one line, which begins with what is wrong."""
    with pytest.raises(DataError) as caught:
        load(data, inputs, target)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


# Kinds of data.


@pytest.mark.parametrize(
    "data",
    [
        np.arange(6).reshape(2, 3),
        np.arange(6, dtype=">f8").reshape(2, 3),
        [[0, 1, 2], [3, 4, 5]],
        [[0, True, 2.0], (3, Decimal(4), 5)],
        pd.DataFrame(np.arange(6).reshape(2, 3)),
        pd.DataFrame({"b": [0.0, 3.0], "a": [1, 4], "c": [2, 5]}),
        scipy.sparse.csr_matrix([[0, 1, 2], [3, 4, 5]]),
        scipy.sparse.coo_array([[0.0, 1, 2], [3, 4, 5]]),
        {"X": [[0, 1, 2], [3, 4, 5]]},
        {"X": pd.DataFrame({"b": [0.0, 3.0], "a": [1, 4], "c": [2, 5]})},
    ],
)
def test_a_table_feeds_one_input_by_the_order_of_its_columns(data: Any) -> None:
    table = load(data, MATRIX)
    assert table.rows == 2 and table.target is None and list(table.feed) == ["X"]
    assert table.feed["X"].dtype == np.float32
    np.testing.assert_array_equal(table.feed["X"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("shape", [(None, None), None, (None, 0), (None, -1)])
def test_an_input_of_unknown_width_takes_any(shape: Any) -> None:
    inputs = [ValueType("X", "tensor(double)", shape)]
    assert load(np.ones((4, 7)), inputs).feed["X"].shape == (4, 7)
    assert load(pd.DataFrame(np.ones((4, 7))), inputs).feed["X"].shape == (4, 7)


def test_several_inputs_take_their_columns_by_name() -> None:
    feed = load(people(), PEOPLE).feed
    assert {name: array.dtype for name, array in feed.items()} == {
        "age": np.int64,
        "hours_per_week": np.float32,
        "job": object,
    }
    assert feed["age"].tolist() == [[30], [40]]
    assert feed["hours_per_week"].tolist() == [[38.5], [20.0]]
    assert feed["job"].tolist() == [["cook"], ["nurse"]]


@settings(deadline=None)
@given(
    st.permutations(["a", "b-c", "d e", "1f", "target"]),
    st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=5),
)
def test_by_name_the_order_of_columns_does_not_matter(order: list[str], rows: list[int]) -> None:
    columns = {name: np.array(rows) + index for index, name in enumerate(sorted(order))}
    inputs = [ValueType(name, "tensor(int64)", (None, 1)) for name in ("d_e", "_1f", "a", "b_c")]
    table = load(pd.DataFrame({name: columns[name] for name in order}), inputs, "target")
    sources = {"d_e": "d e", "_1f": "1f", "a": "a", "b_c": "b-c"}
    assert list(table.feed) == list(sources)
    for name, source in sources.items():
        np.testing.assert_array_equal(table.feed[name][:, 0], columns[source])
    np.testing.assert_array_equal(table.target, columns["target"])


def test_the_names_that_skl2onnx_makes_are_found_and_the_feed_runs() -> None:
    from skl2onnx import to_onnx
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = pd.DataFrame(
        {"hours-per-week": [1.0, 2, 3, 4], "1st score": [1, 0, 2, 5], "job": ["a", "b", "a", "b"]}
    )
    prepare = ColumnTransformer(
        [
            ("n", StandardScaler(), ["hours-per-week", "1st score"]),
            ("s", OneHotEncoder(handle_unknown="ignore"), ["job"]),
        ]
    )
    pipeline = make_pipeline(prepare, LogisticRegression()).fit(frame, [0, 1, 1, 0])
    model = to_onnx(pipeline, frame[:1], options={"zipmap": False})
    table = load(frame, runtime.input_types(model))
    outputs = runtime.run(model, table.feed)
    np.testing.assert_allclose(
        outputs["probabilities"], pipeline.predict_proba(frame), rtol=1e-5, atol=1e-6
    )


def test_an_exact_name_wins_and_an_ambiguous_one_is_refused() -> None:
    inputs = [ValueType(name, "tensor(float)", (None, 1)) for name in ("a_b", "a b", "c_d")]
    feed = load(pd.DataFrame({"a b": [1], "a_b": [2], "c-d": [3]}), inputs).feed
    assert [int(array[0, 0]) for array in feed.values()] == [2, 1, 3]
    doubtful = pd.DataFrame({"a b": [1], "a_b": [2], "c-d": [3], "c d": [4]})
    assert "no column for input 'c_d'" in message(doubtful, inputs)


@pytest.mark.parametrize("shape", [(None, 1), (None,)])
def test_one_input_of_one_column_takes_it_by_name(shape: tuple[int | None, ...]) -> None:
    inputs = [ValueType("text", "tensor(string)", shape)]
    frame = pd.DataFrame({"id": [1, 2], "text": ["a", "b"]})
    assert (
        load(frame, inputs).feed["text"].tolist()
        == np.array(["a", "b"]).reshape((2, 1)[: len(shape)]).tolist()
    )
    renamed = frame[["text"]].rename(columns={"text": "anything"})
    assert load(renamed, inputs).feed["text"].ravel().tolist() == ["a", "b"]


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0], [2.0]], pd.Series([1, 2], index=[7, 7])])
@pytest.mark.parametrize("shape", [(None, 1), (None,)])
def test_a_mapping_takes_the_rank_of_the_input(values: Any, shape: Any) -> None:
    found = load({"x": values}, [ValueType("x", "tensor(float)", shape)]).feed["x"]
    assert found.shape == (2, 1)[: len(shape)] and found.ravel().tolist() == [1.0, 2.0]


def test_a_mapping_feeds_wide_inputs_and_tensors() -> None:
    inputs = [
        ValueType("numbers", "tensor(float)", (None, 2)),
        ValueType("the_job", "tensor(string)", (None, 1)),
        ValueType("image", "tensor(double)", (None, 2, None)),
    ]
    data = {"the job": ["a", None], "image": np.zeros((2, 2, 5)), "numbers": [[1, 2], [3, 4]]}
    table = load(data, inputs)
    assert [array.shape for array in table.feed.values()] == [(2, 2), (2, 1), (2, 2, 5)]
    assert table.feed["the_job"].tolist() == [["a"], [""]]


def test_an_array_feeds_one_column_to_each_of_several_inputs() -> None:
    feed = load([[30, 38.5, "cook"], [40, 20, None]], PEOPLE).feed
    assert feed["age"].tolist() == [[30], [40]]
    assert feed["hours_per_week"].tolist() == [[38.5], [20.0]]
    assert feed["job"].tolist() == [["cook"], [""]]


def test_arrays_of_other_ranks_go_to_inputs_of_the_same_rank() -> None:
    images = np.ones((2, 3, 4, 4))
    inputs = [ValueType("X", "tensor(float)", (None, 3, None, None))]
    assert load(images, inputs).feed["X"].shape == images.shape
    line = [ValueType("X", "tensor(int64)", (None,))]
    assert load([1, 2], line).feed["X"].tolist() == [1, 2]
    assert load([[1], [2]], line).feed["X"].tolist() == [1, 2]


class Foreign:
    """A polars DataFrame, as far as this library looks."""

    columns = ("job", "age", "hours-per-week")

    def __init__(self, frame: pd.DataFrame, arrow: bool) -> None:
        self.frame, self.arrow = frame, arrow

    def to_pandas(self) -> pd.DataFrame:
        if not self.arrow:
            raise ModuleNotFoundError("pyarrow")
        return self.frame

    def to_dict(self, *, as_series: bool) -> dict[str, list[Any]]:
        assert not as_series
        return {str(name): list(values) for name, values in self.frame.items()}


@pytest.mark.parametrize("arrow", [True, False])
def test_foreign_frames_are_read_through_their_own_conversions(arrow: bool) -> None:
    expected = load(people(), PEOPLE).feed
    found = load(Foreign(people(), arrow), PEOPLE).feed
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("data", "inputs"),
    [
        (pd.DataFrame(np.ones((4, 3), np.float32)), MATRIX),
        (np.asfortranarray(np.ones((4, 3), np.float32)), MATRIX),
        ({"X": np.broadcast_to(np.float32(1), (4, 3))}, MATRIX),
        (np.ones((4, 2), np.float32), [ValueType(name, "tensor(float)") for name in "ab"]),
        (pd.DataFrame({"x": np.ones(4, np.float32)}), [ValueType("x", "tensor(float)", (None,))]),
    ],
)
def test_arrays_are_contiguous_and_can_be_written(data: Any, inputs: list[ValueType]) -> None:
    table = load(data, inputs, pd.Series([0.0, 1, 2, 3]))
    assert table.target is not None
    for array in (*table.feed.values(), table.target):
        assert array.flags.c_contiguous and array.flags.writeable


# Values.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([True, False, True], [1, 0, 1]),
        ([1.5, None, np.inf], [1.5, np.nan, np.inf]),
        (pd.Series([1.5, pd.NA, 2], dtype=object), [1.5, np.nan, 2]),
        (pd.Series([True, None, 2.5], dtype=object), [1, np.nan, 2.5]),
        ([None, None, None], [np.nan] * 3),
        ([Decimal("0.5"), None, Decimal(2)], [0.5, np.nan, 2]),
        (pd.array([1, None, 3], dtype="Int64"), [1, np.nan, 3]),
        (pd.array([True, None, False], dtype="boolean"), [1, np.nan, 0]),
        (pd.array([1, 2, 3], dtype="UInt8"), [1, 2, 3]),
        (pd.Categorical([10, None, 20]), [10, np.nan, 20]),
        (pd.Series([0.0, 1.0, 0.0], dtype="Sparse[float]"), [0, 1, 0]),
    ],
)
@pytest.mark.parametrize("kind", ["float", "double"])
def test_numbers_of_every_dtype_are_floats(values: Any, expected: Any, kind: str) -> None:
    found = one(values, kind)
    assert found.dtype == ("float32" if kind == "float" else "float64")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "double[pyarrow]", "bool[pyarrow]"])
def test_pyarrow_numbers_are_numbers(dtype: str) -> None:
    pytest.importorskip("pyarrow")
    np.testing.assert_array_equal(one(pd.array([1, None, 0], dtype=dtype), "float"), [1, np.nan, 0])
    assert one(pd.array([1, 0], dtype=dtype), "int64").tolist() == [1, 0]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["a", None, "1"], dtype="str"),
        pd.Series(["a", pd.NA, "1"], dtype="string"),
        pd.Series(["a", np.nan, "1"], dtype=object),
        pd.Categorical(["a", None, "1"]),
    ],
)
def test_strings_of_every_dtype_are_objects_and_missing_ones_empty(values: Any) -> None:
    found = one(values, "string")
    assert found.dtype == object and found.tolist() == ["a", "", "1"]


@pytest.mark.parametrize("values", [[None, None], [np.nan, np.nan]])
def test_a_column_of_strings_may_be_missing_whole(values: Any) -> None:
    assert one(values, "string").tolist() == ["", ""]


def test_fixed_width_strings_become_objects() -> None:
    found = load(np.array([["a", "bc"]]), TEXTS).feed["X"]
    assert found.dtype == object and found.tolist() == [["a", "bc"]]
    assert type(found[0, 1]) is str


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1.0, -2.0], "int64", [1, -2]),
        ([True, False], "int32", [1, 0]),
        ([2**62 + 1, 0], "int64", [2**62 + 1, 0]),
        (pd.Series([2**62 + 1, 0], dtype=object), "int64", [2**62 + 1, 0]),
        (pd.array([2**62 + 1, 0], dtype="Int64"), "int64", [2**62 + 1, 0]),
        ([-128.0, 127.0], "int8", [-128, 127]),
        ([0, 255], "uint8", [0, 255]),
        ([0, 1], "bool", [False, True]),
        ([0.0, 1.0], "bool", [False, True]),
    ],
)
def test_whole_numbers_go_exactly_to_integers(values: Any, kind: str, expected: Any) -> None:
    found = one(values, kind)
    assert found.dtype == np.dtype(kind) and found.tolist() == expected


def test_masked_values_are_missing() -> None:
    masked = np.ma.MaskedArray([[1.0, 2.0, 3.0]], mask=[[False, True, False]])
    np.testing.assert_array_equal(load(masked, MATRIX).feed["X"], [[1, np.nan, 3]])


@pytest.mark.parametrize(
    ("values", "kind", "parts"),
    [
        (["1", "two", "3"], "float", ["'two' in row 1", "wants numbers"]),
        (["1", "2", "3"], "float", ["'1' in row 0", "wants numbers"]),
        (pd.Series([1, "a\nb", 3], dtype=object), "float", ["'a\\nb' in row 1"]),
        (pd.Categorical(["1", "b", "3"]), "int64", ["'b' in row 1", "wants numbers"]),
        (pd.to_datetime(["2024-05-06"] * 3), "float", ["2024-05-06", "row 0", "wants numbers"]),
        (pd.to_datetime(["2024-05-06"] * 3).tz_localize("UTC"), "double", ["2024-05-06", "row 0"]),
        ([None, datetime.date(2024, 5, 6), None], "float", ["2024-05-06 in row 1"]),
        ([1, 2j, 3], "float", ["0j", "row 0", "wants numbers"]),
        ([1.0, 1.5, 2.0], "int64", ["1.5 in row 1", "whole numbers (int64)"]),
        ([1.0, np.nan, 2.0], "int64", ["nan in row 1", "no missing value"]),
        (pd.array([1, 2, None], dtype="Int64"), "int32", ["row 2", "no missing value"]),
        ([1, 2, 2**31], "int32", ["2147483648 in row 2", "int32"]),
        ([1.0, 2.0, 2.0**63], "int64", ["row 2", "int64"]),
        ([1.0, -np.inf, 2.0], "int64", ["-inf in row 1", "int64"]),
        ([1, -1, 2], "uint64", ["-1 in row 1", "uint64"]),
        ([0, 1, 2], "bool", ["2 in row 2", "true or false"]),
        ([1.0, 2.0, 1e300], "float", ["1e+300 in row 2", "float32", "scale"]),
        ([10**400, 2, 3], "double", ["too large for float64"]),
        ([1, 2, 3], "string", ["1 in row 0", "wants strings", "convert"]),
        ([np.nan, 2.5, 3], "string", ["2.5 in row 1", "wants strings"]),
        ([True, False, True], "string", ["True in row 0", "wants strings"]),
        (pd.Series(["a", None, 3], dtype=object), "string", ["3 in row 2", "wants strings"]),
        (pd.to_datetime(["2024-05-06"] * 3), "string", ["2024-05-06", "row 0", "wants strings"]),
    ],
)
def test_values_of_another_type_are_refused(values: Any, kind: str, parts: list[str]) -> None:
    frame = pd.DataFrame({"other": np.zeros(3), "x": values})
    text = message(frame, column(kind))
    assert text.startswith("the data: column 'x' holds ")
    assert [part for part in parts if part not in text] == []


def test_a_fault_in_a_table_of_one_dtype_names_its_column() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 1e300], "c": [0.0, 0.0]})
    assert "column 'b' holds 1e+300 in row 1" in message(frame, MATRIX)
    assert "input 'X', column 1, holds 1e+300 in row 1" in message(frame.to_numpy(), MATRIX)
    mixed = frame.astype(object).to_numpy(copy=True)
    mixed[1, 2] = "?"
    assert "input 'X', column 2, holds '?' in row 1" in message(mixed, MATRIX)


# Shapes and names.


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (np.ones((2, 5)), ["has 5 columns", "'X' takes 3", "in their order"]),
        (np.ones((2, 4)), ["has 4 columns", "give it as the target"]),
        (np.ones((2, 2)), ["has 2 columns", "'X' takes 3", "in their order"]),
        (pd.DataFrame({"a": [1], "b": [2]}), ["2 columns ('a', 'b')", "in their order"]),
        (pd.DataFrame(1, [0], list("abcd")), ["4 columns", "name it as the target"]),
        (np.ones(3), ["1 dimension,", "reshape(-1, 1)", "X.iloc[[0]]"]),
        (np.ones((2, 3, 1)), ["[rows, 3]", "[2, 3, 1]"]),
        ({"X": np.ones((2, 4))}, ["'X'", "[rows, 3]", "[2, 4]"]),
        ({"X": np.ones(3)}, ["'X'", "[rows, 3]", "[3]"]),
        ({"X": 3}, ["'X' is one value"]),
        ({"Z": np.ones((2, 3))}, ["no array for input 'X'", "'Z'"]),
        ([[1, 2, 3], [4, 5]], ["different lengths"]),
        (3, ["of type int", "2-D array"]),
        (None, ["of type NoneType", "2-D array"]),
    ],
)
def test_other_shapes_than_the_input_takes_are_refused(data: Any, parts: list[str]) -> None:
    text = message(data, MATRIX)
    assert [part for part in parts if part not in text] == []


def test_a_surplus_column_is_not_called_the_target_when_there_is_one() -> None:
    assert "as the target" not in message(np.ones((2, 4)), MATRIX, [0, 1])
    frame = people(extra=[0, 0], y=[1, 0])
    text = message(frame, PEOPLE, "y")
    assert "surplus column 'extra'" in text and "remove it" in text and "target" not in text
    assert "name it as the target" in message(people(y=[1, 0]), PEOPLE)


def test_missing_and_surplus_columns_are_named() -> None:
    text = message(people().drop(columns=["age", "job"]), PEOPLE)
    assert "no column for input 'age', 'job'; the columns are 'hours-per-week'" in text
    assert "surplus column 'p', 'q'" in message(people(p=1, q=2), PEOPLE)
    arrays = {"age": [1], "hours_per_week": [1.0], "job": ["a"], "more": [0]}
    assert "surplus array 'more'" in message(arrays, PEOPLE)
    doubled = pd.concat([people(), people()[["age"]]], axis=1)
    assert "'age' is there 2 times" in message(doubled, PEOPLE)


def test_long_lists_of_names_are_cut() -> None:
    frame = pd.DataFrame(0.0, [0], [f"c{index}" for index in range(500)])
    text = message(frame, MATRIX)
    assert "'c19', ... (500 in all)" in text and len(text) < 400


def test_what_a_table_cannot_feed_says_how_to() -> None:
    wide = [ValueType("a", "tensor(float)", (None, 2)), ValueType("b", "tensor(float)", (None, 1))]
    frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
    for data in (frame, frame.to_numpy()):
        assert "pass a mapping of input name to array" in message(data, wide)
    assert "pass a mapping" in message(np.ones((1, 4)), PEOPLE)
    image = [ValueType("a", "tensor(float)", (None, 3, 8, 8))]
    assert "4 dimensions; pass a mapping" in message(frame, image)
    assert "4 dimensions; pass a mapping" in message(frame.to_numpy(), image)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("map", None),
        ("sequence", None),
        ("tensor(complex64)", (None, 1)),
        ("tensor(bfloat16)", (None, 1)),
        ("tensor(undefined)", None),
        ("tensor(float)", ()),
    ],
)
def test_inputs_that_no_data_can_feed_are_named(kind: str, shape: Any) -> None:
    assert "input 'x'" in message({"x": [1.0]}, [ValueType("x", kind, shape)])


def test_a_model_without_inputs_is_refused() -> None:
    assert "no inputs" in message(np.ones((1, 1)), [])


def test_arrays_of_a_mapping_have_the_same_rows() -> None:
    arrays = {"age": [1, 2], "hours_per_week": [1.0], "job": ["a", "b"]}
    assert "'age' has 2 rows, but 'hours_per_week' has 1" in message(arrays, PEOPLE)


@pytest.mark.parametrize("data", [np.ones((0, 3)), [], pd.DataFrame(columns=list("abc"))])
def test_empty_data_are_refused(data: Any) -> None:
    assert "is empty" in message(data, MATRIX)


def test_empty_data_are_taken_where_asked_for() -> None:
    empty: Any
    for empty in (np.ones((0, 3)), pd.DataFrame(columns=list("abc")), {"X": np.ones((0, 3))}):
        table = load(empty, MATRIX, allow_empty=True)
        assert table.rows == 0
        assert table.feed["X"].shape == (0, 3) and table.feed["X"].dtype == np.float32
    frame = load(people()[:0], PEOPLE, allow_empty=True)
    assert [array.shape for array in frame.feed.values()] == [(0, 1)] * 3
    assert frame.feed["age"].dtype == np.int64


# The target.


def test_a_named_target_is_taken_out_of_the_table() -> None:
    frame = pd.DataFrame({"a": [1.0, 2], "y": ["no", "yes"], "b": [3.0, 4], "c": [5.0, 6]})
    table = load(frame, MATRIX, "y")
    assert table.feed["X"].tolist() == [[1, 3, 5], [2, 4, 6]]
    assert table.target is not None and table.target.tolist() == ["no", "yes"]
    arrays = {"X": frame[["a", "b", "c"]], "y": frame["y"]}
    from_mapping = load(arrays, MATRIX, "y").target
    assert from_mapping is not None and from_mapping.tolist() == ["no", "yes"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([1, 2], [1, 2]),
        (["a", "b"], ["a", "b"]),
        (["a", 1], ["a", 1]),
        (pd.Series([1.5, 2.5], index=[5, 9]), [1.5, 2.5]),
        (pd.array([1, 0], dtype="Int64"), [1, 0]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (np.array([[1], [2]]), [[1], [2]]),
        (pd.DataFrame({"u": [1, 2], "v": [3, 4]}), [[1, 3], [2, 4]]),
    ],
)
def test_a_target_may_be_an_array(target: Any, expected: list[Any]) -> None:
    found = load(np.ones((2, 3)), MATRIX, target).target
    assert found is not None and found.tolist() == expected


def test_a_torch_tensor_is_an_array() -> None:
    torch = pytest.importorskip("torch")
    values = torch.ones((2, 3), requires_grad=True)
    table = load(values, MATRIX, torch.tensor([0, 1]))
    assert table.feed["X"].tolist() == np.ones((2, 3)).tolist()
    assert table.target is not None and table.target.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("data", "target", "parts"),
    [
        (np.ones((2, 3)), "y", ["no column named 'y'", "as an array"]),
        (pd.DataFrame(1.0, [0, 1], list("abc")), "y", ["target 'y' is not there", "'a', 'b', 'c'"]),
        (pd.DataFrame(1.0, [0, 1], [*"aby", "y"]), "y", ["target 'y' is there 2 times"]),
        ({"X": np.ones((2, 3))}, "y", ["target 'y' is not there", "'X'"]),
        (np.ones((2, 3)), [1, 2, 3], ["target has 3 rows", "the data has 2"]),
        (np.ones((2, 3)), 1, ["target has 0 dimensions", "name of a column"]),
        (np.ones((2, 3)), np.ones((2, 1, 1)), ["target has 3 dimensions"]),
    ],
)
def test_targets_that_do_not_fit_are_refused(data: Any, target: Any, parts: list[str]) -> None:
    text = message(data, MATRIX, target)
    assert [part for part in parts if part not in text] == []


@settings(deadline=None)
@given(st.data())
def test_encoded_labels_point_back_at_the_target(data: st.DataObject) -> None:
    kinds = st.one_of(
        st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6, unique=True),
        st.lists(st.text(max_size=4), min_size=1, max_size=6, unique=True),
    )
    labels: list[Any] = data.draw(kinds)
    target = data.draw(st.lists(st.sampled_from(labels), max_size=9))
    as_objects = np.array(target, dtype=object)
    codes = encode_labels(as_objects, labels)
    assert codes.dtype == np.int64 and [labels[code] for code in codes] == target
    plain = np.array(target, dtype=type(labels[0]))
    # Fixed-width strings lose trailing zero characters, in numpy itself.
    if plain.tolist() == target:
        np.testing.assert_array_equal(encode_labels(plain, labels), codes)


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (np.array([2.0, 5.0, 2.0]), [5, 2]),
        (np.array([[2], [5], [2]]), [5, 2]),
        (np.array(["2", "5", "2"]), [5, 2]),
        (np.array([2, 5, 2]), ["5", "2"]),
        (np.array([True, False, True]), [0, 1]),
        (np.array([True, False, True]), ["False", "True"]),
    ],
)
def test_labels_meet_by_value_or_by_their_written_form(target: Any, labels: Any) -> None:
    assert encode_labels(target, labels).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("target", "labels", "parts"),
    [
        (["a", "x", "b", "x"], ["a", "b"], ["'x'", "2 rows", "row 1 (", "labels are 'a', 'b'"]),
        ([0, 1, 7], [0, 1], ["7", "in row 2 (", "labels are 0, 1"]),
        ([0.0, 0.5], [0, 1], ["0.5", "in row 1 ("]),
        ([1.0, 0.0], ["0", "1"], ["1.0, 0.0", "2 rows"]),
        (list("abcdefgh"), ["a"], ["'b', 'c', 'd', 'e', 'f', ... (7 in all)", "7 rows"]),
        ([0.0, np.nan, np.nan], [0, 1], ["missing in 2 rows", "row 1 ("]),
        (np.array(["a", None], object), ["a"], ["missing in row 1 ("]),
        (np.zeros((3, 2)), [0], ["[3, 2]", "one label a row"]),
        (np.array([[], {}, 1, 2], object)[:2], [0], ["no labels"]),
    ],
)
def test_labels_that_the_model_does_not_know_are_named(
    target: Any, labels: Any, parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        encode_labels(np.asarray(target), labels)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    "target",
    [[1, 2], [1.5, 2.5], [[1.0, 2.0], [3.0, 4.0]], [True, False], [Decimal("1.5"), Decimal(2)]],
)
def test_numbers_stay_what_they_are(target: Any) -> None:
    found = check_numbers(np.asarray(target))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.asarray(target, dtype=float))


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ([1.0, np.nan, np.inf], ["missing or infinite in 2 rows", "row 1 ("]),
        ([[1.0, 2.0], [3.0, -np.inf]], ["missing or infinite in row 1 ("]),
        (np.array([1, None], object), ["missing or infinite in row 1 ("]),
        (["1", "x"], ["'x' in row 1", "wants numbers"]),
        (np.array(["2024-01-02"], "M8[ns]"), ["2024-01-02", "wants numbers"]),
    ],
)
def test_targets_that_are_no_numbers_are_refused(target: Any, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        check_numbers(np.asarray(target))
    assert [part for part in parts if part not in str(caught.value)] == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=8))
def test_taken_rows_are_the_same_in_every_array(rows: list[int]) -> None:
    feed = {"a": np.arange(10).reshape(5, 2), "b": np.array(list("vwxyz"), dtype=object)}
    taken = take(feed, np.array(rows, dtype=int))
    assert taken["a"].tolist() == [[2 * row, 2 * row + 1] for row in rows]
    assert taken["b"].tolist() == ["vwxyz"[row] for row in rows]
    assert take(feed, slice(1, 3))["b"].tolist() == ["w", "x"]


# Files.


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_csv_keeps_strings_and_reads_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "people.csv",
        "job, hours-per-week, label, age\n"
        "cook, 38.5, None, 30\n"
        "NA, NA, yes, 40\n"
        ", , NA, 50\n"
        "01.50, nan, no, 60\n",
    )
    table = load(str(path), PEOPLE, "label")
    assert table.feed["job"].ravel().tolist() == ["cook", "NA", "", "01.50"]
    np.testing.assert_array_equal(table.feed["hours_per_week"][:, 0], [38.5, *[np.nan] * 3])
    assert table.feed["age"].ravel().tolist() == [30, 40, 50, 60]
    assert table.target is not None and table.target.tolist() == ["None", "yes", "NA", "no"]


def test_csv_feeds_one_input_of_strings(tmp_path: Path) -> None:
    path = write(tmp_path / "words.CSV", "a,b,y\n1,NA,0\n,nan,1\n")
    table = load(path, TEXTS, "y")
    assert table.feed["X"].tolist() == [["1", "NA"], ["", "nan"]]
    assert table.target is not None and table.target.tolist() == [0, 1]


def test_csv_target_that_is_missing_stays_missing(tmp_path: Path) -> None:
    table = load(write(tmp_path / "t.csv", "a,b,c,y\n1,2,3,0\n1,2,3,\n"), MATRIX, "y")
    assert table.target is not None
    with pytest.raises(DataError, match="missing in row 1"):
        encode_labels(table.target, [0, 1])


@pytest.mark.parametrize(
    ("text", "inputs", "part"),
    [
        ("", MATRIX, "is empty"),
        ("a,b,c\n", MATRIX, "is empty"),
        ("a,b,c\n1,2,3,4\n5,6,7,8\n", MATRIX, "one header row"),
        ("a,b,c\n1,2,3\n4,5,6,7\n", MATRIX, "one header row"),
        ('a,b,c\n1,"2,3\n', MATRIX, "one header row"),
        ("a;b;c\n1;2;3\n", MATRIX, "has 1 column ('a;b;c')"),
        ("a,b,c\n1,2,3\n4,?,6\n", MATRIX, "column 'b' holds '?' in row 1"),
        ("age,job\n1,a\n", PEOPLE, "no column for input 'hours_per_week'"),
    ],
)
def test_damaged_or_unfit_csv_is_refused(
    tmp_path: Path, text: str, inputs: list[ValueType], part: str
) -> None:
    path = write(tmp_path / "table.csv", text)
    found = message(path, inputs)
    assert found.startswith(f"{path}: ") and part in found


def test_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\né,ü\n", "latin-1")
    assert "UTF-8" in message(path, TEXTS)


def test_csv_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "age,hours_per_week,job\n1,2,é\n", "utf-8-sig")
    assert load(path, PEOPLE).feed["job"].tolist() == [["é"]]


def test_paths_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.csv"
    assert message(missing, MATRIX) == f"{missing}: no such file."
    other = write(tmp_path / "data.txt", "a b c")
    assert "none of .csv, .parquet, .npz" in message(other, MATRIX)
    assert "folder without .parquet files" in message(tmp_path, MATRIX)


def test_npz_is_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, age=[1, 2], hours_per_week=[1.0, 2.0], job=["a", "b"], y=[0, 1])
    table = load(path, PEOPLE, "y")
    assert table.feed["job"].tolist() == [["a"], ["b"]] and table.feed["age"].dtype == np.int64
    assert table.target is not None and table.target.tolist() == [0, 1]
    assert "surplus array 'y'" in message(path, PEOPLE)


def test_the_only_array_of_an_npz_feeds_the_only_input(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, features=np.ones((2, 3)), y=["a", "b"])
    table = load(path, MATRIX, "y")
    assert table.feed["X"].shape == (2, 3)
    assert table.target is not None and table.target.tolist() == ["a", "b"]


def test_unreadable_npz_is_refused(tmp_path: Path) -> None:
    objects = tmp_path / "objects.npz"
    np.savez(objects, X=np.array([["a", 1]], dtype=object))
    text = message(objects, TEXTS)
    assert "array 'X' holds Python objects" in text and "astype(str)" in text
    whole = tmp_path / "whole.npz"
    np.savez(whole, X=np.ones((50, 3)))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:300])
    assert "cut short" in message(cut, MATRIX)
    empty = write(tmp_path / "empty.npz", "")
    assert "not an .npz archive" in message(empty, MATRIX)
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.ones((2, 3)))
    assert "one bare array" in message(tmp_path / "bare.npz", MATRIX)


def test_npz_with_damaged_contents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).normal(size=(200, 3)))
    content = bytearray(path.read_bytes())
    content[600:700] = bytes(100)
    path.write_bytes(content)
    assert "array 'X' is damaged" in message(path, MATRIX)


def test_parquet_file_and_folder(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    single, folder = tmp_path / "people.parquet", tmp_path / "parts"
    (folder / "more").mkdir(parents=True)
    frame = people(y=["no", "yes"])
    frame.to_parquet(single)
    # The first file alone does not know that the column holds strings.
    frame[:1].assign(job=None).to_parquet(folder / "0.parquet")
    frame[1:].to_parquet(folder / "more" / "1.parquet")
    write(folder / "README.txt", "not data")
    for path, jobs in ((single, ["cook", "nurse"]), (folder, ["", "nurse"])):
        table = load(path, PEOPLE, "y")
        assert table.feed["job"].ravel().tolist() == jobs
        assert table.feed["age"].ravel().tolist() == [30, 40]
        assert table.target is not None and table.target.tolist() == ["no", "yes"]


def test_folder_of_partitions_has_their_column(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    people()[:1].drop(columns="age").to_parquet(_folder(tmp_path / "age=30") / "a.parquet")
    people()[1:].drop(columns="age").to_parquet(_folder(tmp_path / "age=40") / "a.parquet")
    assert load(tmp_path, PEOPLE).feed["age"].ravel().tolist() == [30, 40]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_unreadable_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    broken = write(tmp_path / "broken.parquet", "not parquet")
    assert "not a readable parquet file" in message(broken, PEOPLE)
    folder = _folder(tmp_path / "parts")
    people().to_parquet(folder / "0.parquet")
    people().drop(columns="age").to_parquet(folder / "1.parquet")
    text = message(folder, PEOPLE)
    assert "1.parquet: has other columns than" in text and "'age'" in text


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = write(tmp_path / "t.parquet", "")
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxtune\[parquet\]'"):
        load(path, MATRIX)


def test_an_array_of_numbers_needs_neither_pandas_nor_torch() -> None:
    import subprocess

    code = (
        "import sys, numpy as np\n"
        "from onnxtune.data import load\n"
        "from onnxtune.runtime import ValueType\n"
        "load(np.ones((2, 3)), [ValueType('X', 'tensor(float)', (None, 3))], [0, 1])\n"
        "print([name for name in ('pandas', 'torch', 'onnxruntime') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
