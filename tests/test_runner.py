"""`Runner`: onnxruntime's answers, in pieces, from threads, chained; and no silent fallback."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from cards import on_a_card
from onnx import parser
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

import onnxtune
from onnxtune import pieces, profiles, runtime, stages
from onnxtune.captured_graphs import CapturedGraphs
from onnxtune.errors import ArgumentError, DataError, ModelError, ProviderError
from onnxtune.profiles import placement, row_sizes
from onnxtune.runner import Runner

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 4)).astype(np.float32)
FOREST = onnxtune.to_onnx(
    RandomForestClassifier(10, max_depth=4, random_state=0).fit(X, X[:, 0] > 0), X
)
HARD = onnxtune.convert(FOREST, "hard")
ZIPPED = parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
zipped (float[N, 2] X) => (float[N, 2] P, seq(map(int64, float)) Z) {
  P = Softmax(X)
  Z = ai.onnx.ml.ZipMap <classlabels_int64s = [3, 5]> (P)
}
""")


def graph(text: str, domains: str = "") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17{domains}]> {text}')


# A model in three parts: strings to numbers, numbers to numbers, numbers to strings.
WORDS = graph(
    """words (string[N, 1] town) => (float[N, 1] code) {
      code = ai.onnx.ml.LabelEncoder
        <keys_strings = ["a", "b"], values_floats = [1.0, 2.0]> (town)
    }""",
    ', "ai.onnx.ml" : 3',
)
NUMBERS = graph(
    """numbers (float[N, 1] code, float[N, 2] size) => (float[N, 3] both, int64[N, 1] best) {
      both = Concat <axis = 1> (code, size)
      best = ArgMax <axis = 1, keepdims = 1> (both)
    }"""
)
NAMES = graph(
    """names (int64[N, 1] best) => (string[N, 1] label) {
      label = ai.onnx.ml.LabelEncoder
        <keys_int64s = [0, 1, 2], values_strings = ["x", "y", "z"]> (best)
    }""",
    ', "ai.onnx.ml" : 3',
)
TOWNS = np.array([["a"], ["b"], ["a"]], object)
SIZES = np.array([[0.5, 0], [0.5, 3], [7, 0.5]], np.float32)


def equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value))


# --- One call ---


@pytest.mark.parametrize("model", [FOREST, HARD, ZIPPED], ids=["forest", "hard", "zipped"])
def test_the_answers_of_onnxruntime(model: onnx.ModelProto) -> None:
    rows = X[:, : 2 if model is ZIPPED else 4]
    with Runner(model, "cpu") as runner:
        equal(runner.run(rows), runtime.run(model, {"X": rows}))
        equal(runner(rows[:1]), runtime.run(model, {"X": rows[:1]}))
        assert runner.provider == "cpu" and runner.reason is None
        assert runner.outputs == tuple(output.name for output in model.graph.output)


def test_the_forms_of_data(tmp_path: Path) -> None:
    expected = runtime.run(HARD, {"X": X})
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    given = [X, X.astype(np.float64), X.tolist(), {"X": X}, np.asfortranarray(X), frame]
    with Runner(HARD, "cpu") as runner:
        for rows in given:
            equal(runner.run(rows), expected)
        assert runner.run(tmp_path / "rows.csv")["label"].shape == (300,)
        equal(runner.run(X[:0]), runtime.run(HARD, {"X": X[:0]}))


def test_an_estimator() -> None:
    fitted = LogisticRegression().fit(X, X[:, 1] > 0)
    with Runner(fitted, "cpu", sample=X) as runner:
        found = runner.run(X)
    np.testing.assert_array_equal(found["label"], fitted.predict(X))


@pytest.mark.parametrize("rows", [0, 1, 300])
def test_tensors_in_tensors_out(rows: int) -> None:
    expected = runtime.run(HARD, {"X": X[:rows]})
    tensor = torch.from_numpy(X[:rows].copy())
    with Runner(HARD, "cpu") as runner:
        for given in (tensor, {"X": tensor}, tensor.double(), tensor.t().contiguous().t()):
            found = runner.run(given)
            assert all(isinstance(value, torch.Tensor) for value in found.values())
            equal(found, expected)
        assert not runner.run(tensor.clone().requires_grad_())["probabilities"].requires_grad


def test_tensors_outlive_the_runner() -> None:
    runner = Runner(HARD, "cpu")
    found = runner.run(torch.from_numpy(X))
    runner.close()
    gc.collect()
    np.zeros(10**6)  # what is freed is soon written over
    equal(found, runtime.run(HARD, {"X": X}))


def test_tensors_beside_strings() -> None:
    with Runner([WORDS, NUMBERS], "cpu") as runner:
        found = runner.run({"town": TOWNS, "size": torch.from_numpy(SIZES)})
    assert isinstance(found["both"], torch.Tensor)
    np.testing.assert_array_equal(found["both"][:, 0], [1, 2, 1])


def test_tensors_of_another_dtype() -> None:
    labels = graph(
        'labels (float[N, 2] X) => (string[N] Y) <string[2] names = {"a", "b"}> '
        "{ K = ArgMax <axis = 1, keepdims = 0> (X) Y = Gather (names, K) }"
    )
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for dtype in (torch.float64, torch.bfloat16, torch.int32):
        with Runner(labels, "cpu") as runner:
            assert runner.run(rows.to(dtype))["Y"].tolist() == ["b", "a"]
        with Runner(NUMBERS, "cpu") as runner:
            found = runner.run({"code": rows[:, :1].to(dtype), "size": rows.to(dtype)})
            assert found["best"].tolist() == [[2], [0]]


@pytest.mark.parametrize(
    "bad",
    [
        X[:, :3],
        {"Z": X},
        torch.zeros(3, 5),
        torch.zeros(4),
        {"Z": torch.zeros(2, 4)},
        "no.csv",
        [["a", "b", "c", "d"]],
    ],
)
def test_data_that_do_not_fit(bad: Any) -> None:
    with Runner(HARD, "cpu") as runner:
        with pytest.raises(DataError) as caught:
            runner.run(bad)
        assert "\n" not in str(caught.value)
        assert runner.run(X[:1])["label"].shape == (1,)  # it goes on


# --- Pieces ---


@pytest.mark.parametrize("chunk", [1, 7, 150, 299, 300, 1000])
def test_pieces_equal_the_whole(chunk: int) -> None:
    for model, rows in ((HARD, X), (ZIPPED, X[:, :2])):
        expected = runtime.run(model, {"X": rows})
        with Runner(model, "cpu", chunk=chunk) as runner:
            assert runner.chunk == chunk
            equal(runner.run(rows), expected)
            if model is HARD:
                equal(runner.run(torch.from_numpy(rows)), expected)


def test_the_forecast_bounds_a_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.tile(X, (100, 1))
    zero = [stages.zeros(runtime.input_types(HARD), n) for n in (256, 512)]
    each = row_sizes(HARD.SerializeToString(), "cpu", zero, (256, 512)).bytes
    assert 16 < each < 100_000  # four floats in, and what ten trees need
    monkeypatch.setattr(pieces, "memory_at_hand", lambda: int(4 * each * 10_000))
    sizes = watched(monkeypatch)
    with Runner(HARD, "cpu") as runner:
        runner.run(X)
        assert runner.chunk is None  # too few rows to ask
        equal(runner.run(rows), runtime.run(HARD, {"X": rows}))
        assert runner.chunk is not None and abs(runner.chunk - 10_000) < 200
    assert sum(sizes) == 300 + 30_000
    assert sizes[:3] == [300, runner.chunk, runner.chunk] and max(sizes) == runner.chunk


def test_no_value_has_more_elements_than_cuda_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.tile(X, (40, 1))
    expected = runtime.run(HARD, {"X": rows})
    zero = [stages.zeros(runtime.input_types(HARD), n) for n in (256, 512)]
    each = row_sizes(HARD.SerializeToString(), "cpu", zero, (256, 512)).elements
    assert 10 <= each <= 200  # a place in each tree at least, in each node at most
    monkeypatch.setattr(profiles, "MOST_ELEMENTS", int(5000.9 * each))
    on_a_card(monkeypatch)
    sizes = watched(monkeypatch)
    for chunk in ("auto", 8000):
        sizes.clear()
        with Runner(HARD, "cuda", chunk=chunk) as runner:
            equal(runner.run(rows), expected)
            assert runner.chunk == 5000 and sizes == [5000, 5000, 2000]
    with Runner(HARD, "cuda", chunk=100) as runner:
        equal(runner.run(rows), expected)
        assert runner.chunk == 100
    with Runner(HARD, "cuda", chunk=None) as runner:
        equal(runner.run(rows[:5000]), {name: each[:5000] for name, each in expected.items()})
        with pytest.raises(DataError, match=r"12,000 rows at once .* give 5,000 at most"):
            runner.run(rows)
    with Runner(HARD, "cpu", chunk=None) as runner:
        equal(runner.run(rows), expected)


def test_a_model_whose_tensors_are_empty() -> None:
    model = graph("""total (float[N, 3] X) => (float T) <int64[0] shape = {}> {
        sum = ReduceSum <keepdims = 0> (X) T = Reshape (sum, shape) }""")
    with Runner(model, "cpu", chunk=None) as runner:
        assert runner.run(np.ones((4, 3), np.float32))["T"] == 12


def test_elements_are_counted_value_by_value() -> None:
    """A large value of every call does not hide what grows with the rows."""
    held = ", ".join(["1.0"] * 3000)
    model = graph(f"""wide (float[N, 3] X, float[100, 3] Z) => (float[N, 30] Y, float[100, 1000] W)
        <float[3, 1000] w = {{{held}}}> {{
            W = MatMul (Z, w) Y = Concat <axis = 1> (X, X, X, X, X, X, X, X, X, X) }}""")
    rows = (256, 512)
    feeds = [stages.zeros(runtime.input_types(model), count) for count in rows]
    found = row_sizes(model.SerializeToString(), "cpu", feeds, rows)
    assert found.elements == 30 and found.bytes < 4 * 300
    assert found.bytes >= 4 * (3 + 30)  # what Concat reads and makes


def test_few_rows_are_fewer_where_the_model_holds_much(monkeypatch: pytest.MonkeyPatch) -> None:
    near = graph(
        """near (float[N, 4] X) => (float[N, 1] Y) <float[300, 4] held = {%s}> {
          axis = Constant <value_ints = [1]> ()
          one = Unsqueeze (X, axis)
          away = Sub (one, held)
          square = ReduceSumSquare <axes = [2], keepdims = 0> (away)
          Y = ReduceMin <axes = [1]> (square)
        }""".replace("%s", ", ".join(["0.5"] * 1200))
    )
    rows = np.tile(X, (2, 1))
    expected = runtime.run(near, {"X": rows})
    monkeypatch.setattr(pieces, "_FEW_ELEMENTS", 1200 * 50)
    sizes = watched(monkeypatch)
    with Runner(near, "cpu") as runner:
        runner.run(rows[:50])
        assert runner.chunk is None
        monkeypatch.setattr(pieces, "memory_at_hand", lambda: 4 * 100 * 1200 * 4)
        equal(runner.run(rows), expected)
        assert runner.chunk is not None and 50 <= runner.chunk < 120
    assert sizes[0] == 50 and sum(sizes) == 650


def test_where_there_is_no_forecast_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = graph(
        "scaled (float[N, 4] X, float[1, 4] scale) => (float[N, 4] Y) { Y = Mul(X, scale) }"
    )
    open_ = graph("open (float[N, M] X) => (float[N, M] Y) { Y = Neg(X) }")
    rows = np.zeros((5000, 4), np.float32)
    sizes = watched(monkeypatch)
    with Runner(open_, "cpu") as runner:
        runner.run(torch.from_numpy(rows))
        assert runner.chunk is None
    with Runner(scaled, "cpu") as runner:  # a fixed input beside the rows
        runner.run({"X": torch.from_numpy(rows), "scale": torch.ones(1, 4)})
        assert runner.chunk is not None and runner.chunk > 5000
    assert sizes == [5000, 5000]


def watched(monkeypatch: pytest.MonkeyPatch, most: int | None = None) -> list[int]:
    """The rows of every run; with `most`, memory runs out where there are more."""
    sizes: list[int] = []
    real = stages.Stage.run

    def run(self: stages.Stage, values: Any) -> Any:
        sizes.append(len(next(iter(values.values()))))
        if most is not None and sizes[-1] > most:
            raise MemoryError("Failed to allocate memory")
        return real(self, values)

    monkeypatch.setattr(stages.Stage, "run", run)
    return sizes


def test_where_memory_runs_out_the_batch_is_halved(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = watched(monkeypatch, most=100)
    with Runner(HARD, "cpu", chunk=None) as runner:
        equal(runner.run(X), runtime.run(HARD, {"X": X}))
    assert sizes == [300, 150, 75, 75, 75, 75]
    assert "Memory ran out with 300 rows" in caplog.text


def test_memory_for_no_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, most=0)
    with Runner(HARD, "cpu") as runner, pytest.raises(DataError, match="a single row"):
        runner.run(X)


def test_memory_for_less_than_a_fixed_batch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = graph("fixed (float[3, 4] X) => (float[3, 4] Y) { Y = Neg(X) }")
    watched(monkeypatch, most=2)
    with Runner(fixed, "cpu") as runner, pytest.raises(DataError, match="3 rows, which the model"):
        runner.run(X)


def test_onnxruntime_out_of_memory_is_known() -> None:
    """Two to the power of N numbers: onnxruntime itself cannot get them for 44 rows."""
    steep = graph(
        """steep (float[N, 1] X) => (float[N, 1] Y) {
          n = Shape <end = 1> (X)
          two = Constant <value_ints = [2]> ()
          count = Pow (two, n)
          zeros = ConstantOfShape (count)
          nothing = ReduceMax <axes = [0]> (zeros)
          Y = Add (X, nothing)
        }"""
    )
    rows = np.ones((44, 1), np.float32)
    with Runner(steep, "cpu", chunk=None) as runner:
        np.testing.assert_array_equal(runner.run(rows)["Y"], rows)


def test_outputs_without_rows_are_not_cut() -> None:
    total = graph("total (float[N, 1] X) => (float T) { T = ReduceSum <keepdims = 0> (X) }")
    ones = np.ones((10, 1), np.float32)
    with Runner(total, "cpu") as runner:
        assert runner.run(ones)["T"] == 10
    with Runner(total, "cpu", chunk=5) as runner, pytest.raises(DataError, match="'T' has not one"):
        runner.run(ones)


def test_sequences_are_not_cut() -> None:
    listed = graph(
        "listed (float[N, 2] X) => (seq(float[N, 2]) S) { S = SequenceConstruct (X, X) }"
    )
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    with Runner(listed, "cpu") as runner:
        assert [len(each) for each in runner.run(rows)["S"]] == [4, 4]
    # Two tensors, and pieces of two rows.
    with Runner(listed, "cpu", chunk=2) as runner, pytest.raises(DataError, match="'S' has not"):
        runner.run(rows)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_a_fixed_batch_is_filled_up(rows: int) -> None:
    fixed = graph("fixed (float[3, 4] X) => (float[3, 4] Y) { Y = Neg(X) }")
    with Runner(fixed, "cpu") as runner:
        np.testing.assert_array_equal(runner.run(X[:rows])["Y"], -X[:rows])
        found = runner.run(torch.from_numpy(X[:rows]))
        np.testing.assert_array_equal(found["Y"], -X[:rows])


def test_an_input_of_fixed_length_beside_the_rows() -> None:
    scaled = graph(
        "scaled (float[N, 4] X, float[1, 4] scale) => (float[N, 4] Y) { Y = Mul(X, scale) }"
    )
    feed = {"X": X, "scale": np.full((1, 4), 2, np.float32)}
    with Runner(scaled, "cpu", chunk=100) as runner:
        np.testing.assert_array_equal(runner.run(feed)["Y"], 2 * X)
        tensors = {name: torch.from_numpy(array) for name, array in feed.items()}
        np.testing.assert_array_equal(runner.run(tensors)["Y"], 2 * X)


def test_inputs_that_fix_different_lengths() -> None:
    scaled = graph(
        "scaled (float[1, 4] scale, float[3, 4] X) => (float[3, 4] Y) { Y = Mul(X, scale) }"
    )
    feed = {"X": X[:3], "scale": np.full((1, 4), 2, np.float32)}
    with Runner(scaled, "cpu") as runner:
        np.testing.assert_array_equal(runner.run(feed)["Y"], 2 * X[:3])
        with pytest.raises(DataError, match="invalid dimensions"):
            runner.run(feed | {"X": X[:6]})


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_inputs_of_different_lengths_are_refused(kind: Any) -> None:
    summed = graph("summed (float[N, 4] A, float[M, 4] B) => (float[N, 4] Y) { Y = Add(A, B) }")
    with Runner(summed, "cpu") as runner, pytest.raises(DataError, match="'A' has 3 rows, but 'B'"):
        runner.run({"B": kind(X[:1]), "A": kind(X[:3])})


# --- Chains ---


def test_a_chain() -> None:
    with Runner([WORDS, NUMBERS, NAMES], "cpu") as runner:
        assert [value.name for value in runner.inputs] == ["town", "size"]
        assert runner.outputs == ("both", "label")
        found = runner.run({"town": TOWNS, "size": SIZES})
    np.testing.assert_array_equal(found["both"], [[1, 0.5, 0], [2, 0.5, 3], [1, 7, 0.5]])
    assert found["label"].tolist() == [["x"], ["z"], ["y"]]


def test_outputs_by_name() -> None:
    with Runner([WORDS, NUMBERS], "cpu", outputs=["best", "code"]) as runner:
        found = runner.run({"town": TOWNS, "size": SIZES})
    assert list(found) == ["best", "code"]
    for wanted in (["none"], "none"):
        with pytest.raises(ArgumentError, match="'none' is none of code, both, best"):
            Runner([WORDS, NUMBERS], "cpu", outputs=wanted)
    with Runner([WORDS, NUMBERS], "cpu", outputs="best") as runner:
        assert runner.outputs == ("best",)


WHOLE = graph(
    """whole (string[N, 1] town, float[N, 2] size)
        => (seq(map(int64, float)) z, float[N, 3] p, string[N] label)
    <string[3] names = {"x", "y", "z"}> {
      code = ai.onnx.ml.LabelEncoder
        <keys_strings = ["a", "b"], values_floats = [1.0, 2.0]> (town)
      both = Concat <axis = 1> (code, size)
      p = Softmax (both)
      best = ArgMax <axis = 1, keepdims = 0> (both)
      label = Gather (names, best)
      z = ai.onnx.ml.ZipMap <classlabels_int64s = [3, 5, 7]> (p)
    }""",
    ', "ai.onnx.ml" : 3',
)


@pytest.mark.parametrize("files", [False, True])
def test_the_gpu_part_of_a_split_model_goes_where_it_is_sent(
    files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = onnxtune.split(WHOLE)
    cut.save(tmp_path / "whole")
    model = list(map(str, cut.paths(tmp_path / "whole").values())) if files else cut
    sides = {proto.SerializeToString(): side for side, proto in cut.parts.items()}
    asked = []
    real = runtime.session

    def session(model: Any, provider: str = "cpu", threads: Any = None, **rest: Any) -> Any:
        asked.append((sides[model], provider))
        return real(model, "cpu", threads, origin=rest.get("origin", ""))

    monkeypatch.setattr(runtime, "session", session)
    monkeypatch.setattr(runtime, "nodes_elsewhere", lambda *_: {})
    with Runner(model, "cuda", chunk=2) as runner:
        assert runner.provider == "cuda"
        assert runner.outputs == ("z", "p", "label")  # the tail takes p, too
        found = runner.run({"town": TOWNS, "size": SIZES})
    assert asked == [("cpu", "cpu"), ("gpu", "cuda"), ("tail", "cpu")]
    monkeypatch.undo()
    with Runner(WHOLE, "cpu") as runner:
        equal(found, runner.run({"town": TOWNS, "size": SIZES}))


def test_a_part_alone_goes_where_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = runtime.session

    def session(model: Any, provider: str = "cpu", threads: Any = None, **rest: Any) -> Any:
        asked.append(provider)
        return real(model, "cpu", threads, origin=rest.get("origin", ""))

    cut = onnxtune.split(WHOLE)
    monkeypatch.setattr(runtime, "session", session)
    monkeypatch.setattr(runtime, "nodes_elsewhere", lambda *_: {})
    Runner(cut.tail, "cuda").close()
    assert asked == ["cuda"]


def test_an_empty_chain() -> None:
    with pytest.raises(ArgumentError, match="no model"):
        Runner([])


# --- No silent fallback ---


def broken(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A machine where CUDA fails so."""
    real = onnxruntime.InferenceSession
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if how == "not in the wheel":
        built = built[1:]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)

    def start(content: bytes, options: Any, providers: Any, **rest: Any) -> Any:
        if providers[0][0] == "CPUExecutionProvider":
            return real(content, options, providers=providers, **rest)
        if how == "raises":
            raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient")
        return real(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)


REASONS = {
    "not in the wheel": r"'cuda' is not in this onnxruntime \(it has cpu\); install",
    "raises": r"'cuda' is built in, but could not start on this machine: .+",
    "falls back": r"'cuda' is built in, but could not start on this machine: .+",
}


@pytest.mark.parametrize("how", REASONS)
def test_cuda_that_fails_is_an_error_that_says_why(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, how)
    with pytest.raises(ProviderError, match=REASONS[how]):
        Runner(HARD, "cuda")
    with pytest.raises(ProviderError, match=REASONS[how]):
        Runner([WORDS, NUMBERS], "cuda")


@pytest.mark.parametrize("how", REASONS)
def test_auto_says_that_it_took_the_cpu_and_why(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, how)
    with Runner(HARD, cuda_graph=[1, 8]) as runner:
        assert runner.provider == "cpu"
        assert runner.reason
        equal(runner.run(X), runtime.run(HARD, {"X": X}))


def test_auto_takes_cuda_where_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession
    given = []

    def start(content: bytes, options: Any, providers: Any, **rest: Any) -> Any:
        given.append(providers)
        made = real(content, options, providers=["CPUExecutionProvider"])
        return SimpleNamespace(
            get_providers=lambda: [name for name, _ in providers],
            get_inputs=made.get_inputs,
            get_outputs=made.get_outputs,
            run=made.run,
        )

    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    with Runner(HARD) as runner:
        assert (runner.provider, runner.reason) == ("cuda", None)
    Runner(HARD, "cuda", tf32=True).close()
    chosen = [providers[0][1]["use_tf32"] for providers in given]
    assert chosen == ["0", "1"]


def test_nodes_that_run_elsewhere_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_card(monkeypatch)
    Runner(FOREST, "cuda").close()
    assert "between copies" in caplog.text and "1 x TreeEnsembleClassifier" in caplog.text
    caplog.clear()
    Runner(FOREST, "cpu").close()
    assert not caplog.text


def test_a_run_that_fails_is_not_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with Runner(HARD, "cpu") as runner:
        (stage,) = runner._chain

        def run(*_: Any) -> None:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

        calls = SimpleNamespace(run=run)
        monkeypatch.setattr(stage, "session", calls)
        with pytest.raises(DataError, match="CUDA failure 700"):
            runner.run(X)


def test_memory_that_runs_out_at_the_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    with pytest.raises(ProviderError, match=r"could not start .*: CUDA failure 2: out of memory"):
        Runner(HARD, "cuda")


def test_the_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise OSError("libcufft.so.12: cannot open shared object file: No such file or directory")

    broken(monkeypatch, "falls back")
    monkeypatch.setattr(runtime.ctypes, "CDLL", refuse)
    with pytest.raises(
        ProviderError, match=r"libcufft\.so\.12 was not found; PyTorch for the same"
    ):
        Runner(HARD, "cuda")


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (OSError("libcuda.so.1"), "no NVIDIA driver"),
        (100, r"finds no device \(status 100\)"),
        (0, "finds no device"),
    ],
)
def test_the_driver_is_asked(driver: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        if "cuda.so.1" not in name:
            return None
        if isinstance(driver, OSError):
            raise driver
        return SimpleNamespace(cuInit=lambda _: driver, cuDeviceGetCount=lambda _: 0)

    broken(monkeypatch, "falls back")
    monkeypatch.setattr(runtime.ctypes, "CDLL", load)
    with pytest.raises(ProviderError, match=words):
        Runner(HARD, "cuda")


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "abacus"},
        {"provider": "cpu", "cuda_graph": True},
        {"cuda_graph": [0]},
        {"cuda_graph": 0},
        {"cuda_graph": 1.5},
        {"outputs": "none"},
        {"chunk": 0},
        {"chunk": "many"},
        {"chunk": 1.5},
        {"threads": 0},
        {"threads": "two"},
    ],
)
def test_bad_arguments_are_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        Runner(HARD, **change)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_refused() -> None:
    with pytest.raises(ModelError, match="refuses"):
        Runner(graph("bad (float[N] X) => (float[N] Y) { Y = NoSuchOperator(X) }"), "cpu")


# --- Closing ---


def test_a_closed_runner_says_so() -> None:
    with Runner(HARD, "cpu") as runner:
        pass
    with pytest.raises(ArgumentError, match="closed; make a new one"):
        runner.run(X)
    runner.close()  # once more does no harm


def test_closing_frees_the_session() -> None:
    runner = Runner(HARD, "cpu")
    runner.run(X)
    session = weakref.ref(runner._chain[0].session)
    runner.close()
    gc.collect()
    assert session() is None


def test_closing_waits_for_the_calls_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    real = stages.Stage.run

    def run(self: stages.Stage, values: Any) -> Any:
        started.set()
        assert go_on.wait(30)
        return real(self, values)

    monkeypatch.setattr(stages.Stage, "run", run)
    runner = Runner(HARD, "cpu")
    with ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(runner.run, X)
        assert started.wait(30)
        closing = pool.submit(runner.close)
        while not runner._closed:
            time.sleep(0.001)
        with pytest.raises(ArgumentError, match="closed"):
            runner.run(X)
        assert not closing.done()
        go_on.set()
        equal(under_way.result(30), runtime.run(HARD, {"X": X}))
        closing.result(30)


# --- Threads ---


def resident() -> int:
    """Bytes of this process in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def hammer(runner: Runner, seconds: float, at_half: Callable[[], None]) -> int:
    """Eight threads with batches of their own, each answer held against that of one thread."""
    batches = [X[i : i + 1 + 37 * i] for i in range(8)]
    answers = [runner.run(batch) for batch in batches]
    counts = [0] * 8
    half = time.monotonic() + seconds / 2

    def work(number: int) -> None:
        end = half + seconds / 2
        while time.monotonic() < end or counts[number] < 5:
            place = (number + counts[number]) % 8
            given: Any = batches[place]
            if counts[number] % 3 == 2:
                given = torch.from_numpy(given)
            equal(runner.run(given), answers[place])
            counts[number] += 1

    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(work, number) for number in range(8)]
        time.sleep(seconds / 2)
        at_half()
        for thread in threads:
            thread.result()
    return sum(counts)


def check_threads(seconds: float, growth: int) -> None:
    held = []
    with Runner(HARD, "cpu", chunk=100, threads=1) as runner:
        count = hammer(runner, seconds, lambda: held.append(resident()))
    assert count >= 40
    assert resident() - held[0] < growth


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_eight_threads() -> None:
    check_threads(1.0, 64 * 2**20)


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_eight_threads_for_a_minute() -> None:
    check_threads(60.0, 8 * 2**20)


# --- Captured graphs, their copies and their filling; on the CPU nothing is captured ---


def test_batches_in_fixed_memory() -> None:
    made = CapturedGraphs(
        lambda _: runtime.session(HARD),
        runtime.session(HARD),
        runtime.input_types(HARD),
        [8, 2],
        "cpu",
    )
    assert [made.takes({"X": X[:rows]}) for rows in (0, 1, 8, 9)] == [False, True, True, False]
    assert not made.takes({"X": torch.zeros(2, 4)})
    first = made.run({"X": X[:2]})
    for rows in (1, 2, 3, 8):
        equal(made.run({"X": X[10 : 10 + rows]}), runtime.run(HARD, {"X": X[10 : 10 + rows]}))
    equal(first, runtime.run(HARD, {"X": X[:2]}))  # not written over
    made.close()


@pytest.mark.parametrize(
    "model",
    [
        graph("a (float[N, M] X) => (float[N, M] Y) { Y = Neg(X) }"),
        graph("f (float[5, 1] X) => (float[5, 1] Y) { Y = Neg(X) }"),
        graph("b (string[N, 1] X) => (string[N, 1] Y) { Y = Identity(X) }"),
        graph("c (float[N, 1] X) => (float Y) { Y = ReduceSum <keepdims = 0> (X) }"),
        ZIPPED,
    ],
)
def test_what_no_graph_takes(model: onnx.ModelProto) -> None:
    with pytest.raises(ArgumentError, match="no graph takes it"):
        CapturedGraphs(
            lambda _: runtime.session(model),
            runtime.session(model),
            runtime.input_types(model),
            [2],
            "cpu",
        )


def test_graphs_have_a_session_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between is written by every replay: no other run may hold it."""
    given = on_a_card(monkeypatch)
    kept: list[Any] = []
    real = CapturedGraphs.__init__

    def init(
        self: CapturedGraphs, opened: Any, plain: Any, inputs: Any, sizes: Any, _: str
    ) -> None:
        real(self, opened, plain, inputs, sizes, "cpu")
        kept.append((self._session, plain))

    monkeypatch.setattr(CapturedGraphs, "__init__", init)
    with Runner(HARD, "cuda", cuda_graph=[2]) as runner:
        ((session, plain),) = kept
        assert session is not plain
        assert ["enable_cuda_graph" in options for options in given] == [False, True]
        monkeypatch.setattr(plain, "run", None)
        equal(runner.run(X[:1]), runtime.run(HARD, {"X": X[:1]}))


# --- Placement ---


def test_placement() -> None:
    found = placement(FOREST.SerializeToString(), "cpu", {"X": X[:3]})
    assert found.copies == 0
    assert found.operators["cpu"]["TreeEnsembleClassifier"] == 1
    assert found.nodes == {"cpu": sum(found.operators["cpu"].values())}
