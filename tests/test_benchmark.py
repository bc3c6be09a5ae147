"""`bench`: what it runs, in which order, and what it says of that which could not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from cards import on_a_card
from matplotlib.figure import Figure
from onnx import TensorProto, helper, parser

import onnxtune
from onnxtune import bench_group, bench_report, bench_turns, machine, output, profiles, runtime
from onnxtune.bench_comparison import compare
from onnxtune.bench_report import BenchReport, Placed, Timing
from onnxtune.benchmark import bench
from onnxtune.errors import ArgumentError, DataError, ModelError, ProviderError

QUICK: dict[str, Any] = {"repeats": 3, "seconds": 5.0}
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def model(
    body: str = "y = Neg(x)", types: str = "float[N, 2] x", out: str = "y"
) -> onnx.ModelProto:
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({types}) => (float[N, M] {out}) {{ {body} }}'
    )


def greedy() -> onnx.ModelProto:
    """Makes [N, N, N] numbers: one for N = 1, four petabytes of them for N = 100,000."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], end=1),
        helper.make_node("Concat", ["n", "n", "n"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


class Stage:
    """Sessions and a clock that do what a test says, and remember what ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[tuple[str, dict[str, Any]]] = []
        self.act: Callable[[str, int], float] = lambda name, size: 1.0

    def session(self, content: bytes, provider: str, threads: int | None) -> tuple[Any, float]:
        name = onnx.load_from_string(content).graph.output[0].name

        def run(names: None, feed: dict[str, Any]) -> None:
            self.runs.append((name, feed))
            self.now += self.act(name, max((len(a) for a in feed.values()), default=0))

        return SimpleNamespace(run=run), 0.25

    @property
    def order(self) -> str:
        return "".join(name for name, _ in self.runs)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(bench_group, "_session", made.session)
    monkeypatch.setattr(bench_turns, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


A = model("a = Neg(x)", out="a")
B = model("b = Abs(x)", out="b")


def timing(model: str, provider: str, size: int, median: float, **rest: Any) -> Timing:
    return Timing(model, provider, size, median, median, median, size / median, **rest)


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """A machine without these providers, whatever this one has."""
    real = runtime.session

    def session(
        content: Any, provider: str = "cpu", threads: int | None = None, **rest: Any
    ) -> Any:
        if provider in missing:
            raise ProviderError(f"Provider '{provider}' is not there.")
        return real(content, provider, threads)

    monkeypatch.setattr(runtime, "session", session)


def test_a_row_for_every_provider_batch_size_and_model() -> None:
    report = bench({"first": A, "second": B}, ROWS, batch_sizes=[1, 7], **QUICK)
    assert [(row.model, row.provider, row.batch_size) for row in report.rows] == [
        ("first", "cpu", 1),
        ("second", "cpu", 1),
        ("first", "cpu", 7),
        ("second", "cpu", 7),
    ]
    for row in report.rows:
        assert row.error is None
        assert row.runs == 3
        assert row.median_s and row.low_s and row.high_s and row.load_s
        assert 0 < row.low_s <= row.median_s <= row.high_s
        assert row.rows_per_s == row.batch_size / row.median_s
        assert (row.ratio is None) == (row.model == "first")
    assert report.environment["models"]["first"]["bytes"] == A.ByteSize()
    assert report.environment["threads"] is None
    assert report.environment["versions"]["onnxruntime"]
    assert report.environment["cpu"] and report.environment["cpus"] >= 1
    assert report.environment["date"]


def test_models_take_turns(stage: Stage) -> None:
    report = bench([A, B], ROWS, batch_sizes=[1], repeats=4, seconds=100)
    warm_up = stage.order.removesuffix("abababab")
    assert warm_up == "ab" * (len(warm_up) // 2) != ""
    assert [row.runs for row in report.rows] == [4, 4]


def test_ratio_is_that_of_the_turns_whatever_the_drift(stage: Stage) -> None:
    stage.act = lambda name, size: {"a": 2.0, "b": 1.0}[name] * 1.5 ** (len(stage.runs) // 2)
    report = bench([A, B], ROWS, batch_sizes=[1], repeats=5, seconds=1e9)
    assert report.rows[0].ratio is None
    # The second of a pair runs one step of the drift later.
    assert report.rows[1].ratio == pytest.approx(0.75)


def test_figures_of_known_times(stage: Stage) -> None:
    times = iter([9.0] * 3 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    stage.act = lambda name, size: next(times)
    row = bench(A, ROWS, batch_sizes=12, repeats=11, seconds=1e9).rows[0]
    assert (row.low_s, row.median_s, row.high_s) == pytest.approx((2, 6, 10))
    assert row.rows_per_s == pytest.approx(2)
    assert row.load_s == 0.25


def test_time_is_bounded_for_each_cell(stage: Stage) -> None:
    bench([A, B], ROWS, batch_sizes=[1, 2], repeats=10**9, seconds=50)
    # 2 batch sizes x 2 models x 50 s, beside the warm-up and the turn under way.
    assert 200 <= stage.now <= 200 + 2 * (2 * 50 / 4 + 4)


def test_a_run_beyond_the_time_is_still_timed_once(stage: Stage) -> None:
    stage.act = lambda name, size: 1000.0
    report = bench([A, B], ROWS, batch_sizes=[1], seconds=0.1)
    assert stage.order == "abab"
    assert [row.runs for row in report.rows] == [1, 1]
    assert [row.median_s for row in report.rows] == [1000.0, 1000.0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 1000])
def test_batches_have_their_size_and_go_through_the_rows(stage: Stage, size: int) -> None:
    mixed = model("y = Neg(x)", "float[N, 2] x, string[N, 1] s")
    words = np.array([["p"], ["q"], ["r"]], object)
    bench(mixed, {"x": ROWS, "s": words}, batch_sizes=size, repeats=5, seconds=1e9)
    pieces = 3 // size or 1
    for turn, (_, feed) in enumerate(stage.runs[-5:]):
        picked = (turn % pieces * size + np.arange(size)) % 3
        np.testing.assert_array_equal(feed["x"], ROWS[picked])
        np.testing.assert_array_equal(feed["s"], words[picked])
        assert feed["x"].dtype == np.float32
        assert feed["x"].flags.c_contiguous


def test_models_of_the_same_inputs_get_the_same_sampled_rows(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def sample(proto: onnx.ModelProto, rows: int, seed: int) -> dict[str, Any]:
        asked.append((rows, seed))
        width = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        return {"x": np.zeros((rows, width), np.float32)}

    monkeypatch.setattr("onnxtune.sampling.sample", sample)
    wide = model("w = Neg(x)", "float[N, 3] x", out="w")
    report = bench([A, B, wide], batch_sizes=[4, 20], seed=5, **QUICK)
    assert asked == [(20, 5), (20, 5)]
    assert {feed["x"].shape for name, feed in stage.runs if name == "w"} == {(4, 3), (20, 3)}
    assert report.environment["seed"] == 5


def test_rows_are_sampled_without_data() -> None:
    report = bench(A, batch_sizes=[1, 5], **QUICK)
    assert [row.error for row in report.rows] == [None, None]


def test_a_missing_provider_is_reported_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "cuda")
    report = bench([A, B], ROWS, ["cuda", "cpu"], [1, 2], **QUICK)
    assert [row.provider for row in report.rows] == ["cuda"] * 4 + ["cpu"] * 4
    for row in report.rows[:4]:
        assert row.error == "Provider 'cuda' is not there."
        assert (row.median_s, row.rows_per_s, row.ratio, row.runs) == (None, None, None, 0)
    assert all(row.error is None and row.median_s for row in report.rows[4:])
    assert report.text().count("Provider 'cuda' is not there.") == 1


def test_batches_of_more_elements_than_cuda_counts_are_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_card(monkeypatch)
    monkeypatch.setattr(profiles, "MOST_ELEMENTS", 1000)  # 500 rows of two columns
    settings = {**QUICK, "placement": False}
    report = bench([A, A], ROWS, ["cuda", "cpu"], [500, 501], **settings)
    assert [row.error is None for row in report.rows] == [True, True, False, False, *[True] * 4]
    assert report.rows[2].error and "a chunk of 500 rows at most" in report.rows[2].error
    report = bench(A, ROWS, ["cuda"], [1200], chunk=500, **settings)
    assert report.rows[0].error is None


def test_nothing_is_converted_for_a_missing_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cuda")
    monkeypatch.setattr("onnxtune.conversion.convert", None)
    report = bench(A, ROWS, ["cuda", "cpu"], [2], forms=["original"], **QUICK)
    assert report.rows[1].error is None
    with pytest.raises(ProviderError, match="'cuda' is not there"):
        bench(A, ROWS, ["cuda"], [2], forms=["hard", "soft"], **QUICK)


def test_no_provider_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cuda", "rocm")
    with pytest.raises(ProviderError, match=r"'cuda' is not there.*'rocm' is not there"):
        bench(A, ROWS, ["cuda", "rocm"], **QUICK)


def test_sessions_rest_between_runs_and_have_no_fallback() -> None:
    session, load_s = bench_group._session(A.SerializeToString(), "cpu", 2)
    options = session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.intra_op_num_threads == 2
    assert not session._enable_fallback
    assert load_s > 0


def test_running_out_of_memory_is_a_row() -> None:
    report = bench({"greedy": greedy(), "b": B}, ROWS, batch_sizes=[1, 100_000], **QUICK)
    small, _, large, other = report.rows
    assert small.error is None
    assert large.error and large.error.startswith("out of memory (Failed to allocate")
    assert (large.median_s, large.runs) == (None, 0)
    assert large.load_s is not None
    assert other.error is None and other.runs == 3
    assert other.ratio is None  # nothing to compare with


def test_memory_gone_in_the_midst_of_the_runs_is_a_row(stage: Stage) -> None:
    def act(name: str, size: int) -> float:
        if name == "b" and len(stage.runs) > 9:
            raise MemoryError
        return 1.0

    stage.act = act
    first, second = bench([A, B], ROWS, batch_sizes=[1], repeats=6, seconds=1e9).rows
    assert (first.error, first.runs) == (None, 6)
    assert (second.error, second.runs, second.median_s) == ("out of memory", 0, None)
    assert stage.order.endswith("ab" + "a" * 4)  # what failed is not tried again


def test_a_batch_beyond_all_memory_is_a_row() -> None:
    row = bench(A, ROWS, batch_sizes=[10**17], **QUICK).rows[0]
    assert row.error and row.error.startswith("out of memory")


def test_a_failure_after_a_success_is_a_row_and_before_it_an_error(stage: Stage) -> None:
    def act(name: str, size: int) -> float:
        if size == 2:
            raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : no kernel")
        return 1.0

    stage.act = act
    rows = bench(A, ROWS, batch_sizes=[1, 2], **QUICK).rows
    assert [row.error for row in rows] == [None, "no kernel"]
    with pytest.raises(DataError, match="no kernel"):
        bench(A, ROWS, batch_sizes=[2], **QUICK)


def test_a_fixed_batch_takes_its_own_size_only() -> None:
    fixed = model("y = Neg(x)", "float[3, 2] x")
    one, three = bench(fixed, ROWS, batch_sizes=[1, 3], **QUICK).rows
    assert one.error == "the model takes batches of 3 only"
    assert three.error is None


def test_an_input_of_fixed_length_beside_the_rows_keeps_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = {"x": ROWS, "scale": np.ones((1, 2), np.float32)}
    monkeypatch.setattr("onnxtune.sampling.sample", lambda proto, rows, seed: feed)
    scaled = model("y = Mul(x, scale)", "float[N, 2] x, float[1, 2] scale")
    bench(scaled, batch_sizes=[2, 5], **QUICK)
    assert {(len(fed["x"]), len(fed["scale"])) for _, fed in stage.runs} == {(2, 1), (5, 1)}


def test_data_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError):
        bench([A, B], np.zeros((3, 5), np.float32), **QUICK)


def test_a_model_that_onnxruntime_refuses_is_an_error() -> None:
    with pytest.raises(ModelError, match="refuses"):
        bench([A, model("y = NoSuchOperator(x)")], ROWS, **QUICK)


@pytest.mark.parametrize(
    "change",
    [
        {"models": []},
        {"models": {}},
        {"models": 5},
        {"batch_sizes": []},
        {"batch_sizes": [0]},
        {"batch_sizes": [10, -1]},
        {"batch_sizes": [1.5]},
        {"batch_sizes": ["many"]},
        {"providers": []},
        {"providers": ["cpu", "abacus"]},
        {"threads": 0},
        {"threads": "two"},
        {"chunk": 0},
        {"chunk": 1.5},
        {"native": 3},
        {"native": {"m": None}},
        {"forms": ["firm"]},
        {"transfers": []},
        {"repeats": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
    ],
)
def test_bad_arguments_are_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        bench(**({"models": [A], "data": ROWS} | QUICK | change))
    assert "\n" not in str(caught.value)


def test_models_are_named_after_their_files(stage: Stage, tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "new" / "a.onnx", tmp_path / "b.onnx"]
    (tmp_path / "new").mkdir()
    for path in paths:
        onnx.save(A, path)

    def names(models: Any) -> list[str]:
        return [row.model for row in bench(models, ROWS, batch_sizes=1, **QUICK).rows]

    assert names(str(paths[0])) == ["a.onnx"]
    assert names(paths) == [str(paths[0]), str(paths[1]), "b.onnx"]
    assert names([A, B]) == ["model (1)", "model (2)"]
    assert names({"before": paths[0], "after": A}) == ["before", "after"]


def test_the_report_is_valid_json(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cuda")
    report = bench([A, B], ROWS, ["cpu", "cuda"], [1], **QUICK)
    loaded = json.loads(output.as_json(report))
    assert loaded == json.loads(json.dumps(report.to_dict()))
    assert loaded["rows"][0]["runs"] == 3
    assert loaded["rows"][3]["error"]


# --- Forms, transfers, pieces, libraries, placement ---


def boosted() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    return GradientBoostingClassifier(n_estimators=3, max_depth=3).fit(X, X[:, 0] > 0), X


def test_forms_and_transfers() -> None:
    fitted, X = boosted()
    ways = ["with", "without"]
    forms = ["original", "hard", "soft"]
    report = bench(
        {"m": onnxtune.to_onnx(fitted, X)}, X, "cpu", [1, 50], forms=forms, transfers=ways, **QUICK
    )
    assert [(row.model, row.transfers, row.batch_size) for row in report.rows] == [
        (shown, way == "with", size)
        for size in (1, 50)
        for shown in ("m", "m, hard", "m, soft")
        for way in ways
    ]
    assert all(row.error is None and row.median_s for row in report.rows)
    assert report.rows[0].ratio is None and all(row.ratio for row in report.rows[1:6])
    assert "without" in report.text() and "ratio: time over that of m;" in report.text()


def test_what_stays_on_no_device_is_not_timed_there() -> None:
    words = model("y = Identity(x)", "string[N, 2] x", "y").SerializeToString()
    proto = onnx.load_from_string(words)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    rows = np.array([["a", "b"]], object)
    report = bench(proto, rows, "cpu", 1, transfers=["with", "without"], **QUICK)
    assert report.rows[0].error is None
    assert report.rows[1].error and "'x' is a tensor(string)" in report.rows[1].error


def test_a_form_that_there_is_not_is_a_row() -> None:
    report = bench(model("y = Neg(x)"), ROWS, "cpu", 1, forms=["original", "soft"], **QUICK)
    assert report.rows[0].error is None
    assert report.rows[1].error and report.rows[1].median_s is None


def test_batches_in_pieces(stage: Stage) -> None:
    bench(A, ROWS, batch_sizes=[5, 2], chunk=2, repeats=1, seconds=1e9)
    sizes = [len(feed["x"]) for _, feed in stage.runs]
    assert sizes == [2, 2, 1] * (3 + 1) + [2] * (3 + 1)


def test_a_fixed_batch_is_in_one_piece() -> None:
    fixed = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "fixed (float[4, 2] x) => (float[4, 2] y) { y = Neg(x) }"
    )
    assert bench(fixed, batch_sizes=4, chunk=2, **QUICK).rows[0].error is None


def test_data_with_an_input_beside_the_rows() -> None:
    scaled = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "scaled (float[N, 2] x, float[1, 2] s) => (float[N, 2] y) { y = Mul(x, s) }"
    )
    feed = {"x": np.ones((5, 2), np.float32), "s": np.ones((1, 2), np.float32)}
    assert bench(scaled, feed, batch_sizes=3, **QUICK).rows[0].error is None


def test_first_calls_and_the_slowest_are_told(stage: Stage) -> None:
    stage.act = lambda name, size: 7.0 if len(stage.runs) == 1 else float(len(stage.runs))
    row = bench(A, ROWS, batch_sizes=1, repeats=100, seconds=1e9).rows[0]
    assert row.first_s == 7.0
    assert row.p99_s == pytest.approx(np.quantile(np.arange(4, 104), 0.99))


def test_an_estimators_own_library() -> None:
    fitted, X = boosted()
    name = "GradientBoostingClassifier"
    for report in (
        bench(fitted, X, batch_sizes=[3], **QUICK),
        bench({name: onnxtune.to_onnx(fitted, X)}, X, batch_sizes=[3], native=fitted, **QUICK),
    ):
        assert [row.model for row in report.rows] == [name, f"{name}.predict_proba"]
        assert report.rows[1].median_s and report.rows[1].ratio and report.rows[1].error is None


def test_what_an_estimator_refuses_is_its_row() -> None:
    fitted, _ = boosted()
    other = bench(model("y = Neg(x)", "float[N, 2] x"), ROWS, native=fitted, batch_sizes=1, **QUICK)
    assert other.rows[0].error is None
    assert other.rows[1].error and "features" in other.rows[1].error
    pair = model("y = Mul(x, z)", "float[N, 2] x, float[N, 1] z")
    two = bench(pair, native=fitted, batch_sizes=4, **QUICK)
    assert two.rows[0].error is None
    assert two.rows[1].error and "memory" not in two.rows[1].error


def test_other_libraries_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins with the functions that they are called by."""
    import importlib.util
    import sys

    fitted, X = boosted()
    asked: list[Any] = []

    def convert(estimator: Any, backend: str, sample: Any, device: str) -> Any:
        asked.append((backend, sample.shape, device))
        return estimator

    def load_from_sklearn(estimator: Any, device: str) -> Any:
        asked.append(device)
        if device == "gpu":
            raise RuntimeError("no GPU")
        return SimpleNamespace(optimize=lambda batch_size: estimator)

    real = importlib.util.find_spec
    names = {"hummingbird", "nvforest"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: n in names or real(n))
    monkeypatch.setitem(sys.modules, "hummingbird", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "hummingbird.ml", SimpleNamespace(convert=convert))
    stub = SimpleNamespace(load_from_sklearn=load_from_sklearn)
    monkeypatch.setitem(sys.modules, "nvforest", stub)
    report = bench({"m": onnxtune.to_onnx(fitted, X)}, X, native={"g": fitted}, batch_sizes=3,
                   **QUICK)  # fmt: skip
    assert [row.model for row in report.rows] == [
        "m",
        "g.predict_proba",
        "g, Hummingbird",
        "g, nvForest",
    ]
    assert all(row.error is None for row in report.rows)
    assert asked == [("torch.jit", (200, 4), "cpu"), "cpu"]


def test_placement_and_memory() -> None:
    report = bench({"a": A, "b": B}, ROWS, batch_sizes=[1, 1000], placement=True, **QUICK)
    assert [(p.model, p.nodes, p.copies) for p in report.placements] == [
        ("a", {"cpu": 1}, 0),
        ("b", {"cpu": 1}, 0),
    ]
    assert bench(A, ROWS, batch_sizes=1, **QUICK).placements == ()
    big = np.zeros((1000, 20_000), np.float32)
    wide = model("y = Neg(x)", "float[N, 20000] x")
    row = bench(wide, big, batch_sizes=1000, **QUICK).rows[0]
    assert row.memory_bytes is not None
    assert row.memory_bytes > 40_000_000 or not Path("/proc/self/status").exists()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            "NVIDIA L4, 23034, 580.159.03\n",
            {"name": "NVIDIA L4", "memory_bytes": 23034 * 2**20, "driver": "580.159.03"},
        ),
        ("No devices were found\n", None),
        ("", None),
        (None, None),
    ],
)
def test_what_the_driver_says_of_a_gpu(
    said: str | None, found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: Any) -> Any:
        assert command[0] == "nvidia-smi"
        if said is None:
            raise FileNotFoundError
        return SimpleNamespace(stdout=said)

    monkeypatch.setattr(machine.subprocess, "run", run)
    assert machine.gpu() == found


# --- Comparison ---


def figures(path: Path, *medians: float | None, spread: float = 0.05, **machine: Any) -> Path:
    rows = [
        timing("a", "cpu", 10**at, median) if median else Timing("a", "cpu", 10**at, error="oh")
        for at, median in enumerate(medians)
    ]
    rows = [
        replace(row, low_s=row.median_s * (1 - spread), high_s=row.median_s * (1 + spread))
        if row.median_s
        else row
        for row in rows
    ]
    report = BenchReport(tuple(rows), REPORT.environment | machine)
    path.write_text(output.as_json(report))
    return path


def test_compare(tmp_path: Path) -> None:
    old = figures(tmp_path / "old.json", 1.0, 1.0, 1.0, 1.0, None)
    new = figures(tmp_path / "new.json", 1.3, 1.2, 0.5, None, 1.0, gpu={"name": "L4"})
    found = compare(old, new)
    verdicts = [cell.verdict for cell in found.cells]
    assert verdicts == ["slower", "same", "faster", "lost", "new"]
    assert found.cells[0].ratio == pytest.approx(1.3)
    assert found.slower
    assert found.differences == {"gpu": [None, {"name": "L4"}]}
    assert "gpu None, then L4" in found.text() and "1.30" in found.text()
    assert not compare(old, old).slower
    assert [cell.verdict for cell in compare(old, new, 0.5).cells][:3] == ["same", "same", "faster"]


def test_a_few_disturbed_runs_are_not_slower(tmp_path: Path) -> None:
    old = figures(tmp_path / "old.json", 1.0)
    new = figures(tmp_path / "new.json", 1.4, spread=0.5)
    assert not compare(old, new).slower  # a tenth of the new runs were as quick as the old


def test_files_without_a_common_cell(tmp_path: Path) -> None:
    old = figures(tmp_path / "old.json", 1.0, None)
    new = figures(tmp_path / "new.json", None, None)
    assert compare(old, new).slower
    with pytest.raises(DataError, match="in common"):
        compare(new, new)  # nothing ran in either


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, ArgumentError),
        ("nonsense", DataError),
        ("[]", DataError),
        ('{"rows": [{}], "environment": {}}', DataError),
        ('{"rows": [], "environment": {}}', DataError),
    ],
)
def test_files_that_cannot_be_compared(
    tmp_path: Path, content: str | None, error: type[Exception]
) -> None:
    old, new = figures(tmp_path / "old.json", 1.0), tmp_path / "new.json"
    if content is not None:
        new.write_text(content)
    with pytest.raises(error) as caught:
        compare(old, new)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="tolerance"):
        compare(old, old, -1)


# --- The report ---


REPORT = BenchReport(
    (
        timing("a", "cpu", 1, 58e-6, p99_s=2e-3, runs=200, load_s=0.012, first_s=1e-3),
        timing("_b$", "cpu", 1, 29e-6, ratio=0.5, runs=200, load_s=0.013, memory_bytes=2_500_000),
        timing("a", "cpu", 100_000, 2.0, runs=2, load_s=0.012),
        Timing("_b$", "cpu", 100_000, load_s=0.013, error="out of memory"),
        Timing("a", "cuda", 1, error="no device"),
        Timing("_b$", "cuda", 1, error="no device"),
    ),
    {
        "versions": {"onnxruntime": "1.0"},
        "threads": 2,
        "models": {"a": {"bytes": 12_345}, "_b$": {"bytes": 9}},
    },
    (Placed("a", "cuda", {"cuda": 7, "cpu": 2}, {"cuda": {"Add": 7}, "cpu": {"Trees": 2}}, 3),),
)


def test_text_is_a_table_with_its_legend() -> None:
    lines = [" ".join(line.split()) for line in REPORT.text().splitlines()]
    assert lines[0] == "model provider batch median p99 rows/s ratio runs load first MB note"
    assert lines[2] == "a cpu 1 58 us 2 ms 17,241 - 200 12 ms 1 ms -"
    assert lines[3] == "_b$ cpu 1 29 us - 34,483 0.50 200 13 ms - 2.5"
    assert lines[5].endswith("out of memory")
    assert lines[6] == "all cuda all - - - - - - - - no device"
    assert "12,345" in lines[-2] and "threads: 2" in lines[-2]
    assert lines[-1] == "a on cuda: nodes 7 on cuda, 2 on cpu (2 x Trees); copies 3."


def accelerated(cuda: list[float], cpu: list[float]) -> BenchReport:
    sizes = (1, 10, 100)
    rows = [timing("slow", "cpu", size, 1.0) for size in sizes]
    rows += [timing("a", "cpu", size, s) for size, s in zip(sizes, cpu, strict=True)]
    rows += [timing("a", "cuda", size, s) for size, s in zip(sizes, cuda, strict=True)]
    return BenchReport(tuple(rows), REPORT.environment)


@pytest.mark.parametrize(
    ("cuda", "start"),
    [([3, 3, 3], None), ([3, 1, 1], 10), ([1, 1, 1], 1), ([1, 3, 1], 100), ([1, 1, 3], None)],
)
def test_where_the_gpu_begins_to_win(cuda: list[float], start: int | None) -> None:
    report = accelerated([s / 10 for s in cuda], [0.2, 0.2, 0.2])
    (crossing,) = report.crossings()
    assert (crossing.model, crossing.provider, crossing.batch_size) == ("a", "cuda", start)
    assert report.to_dict()["crossings"][0]["batch_size"] == start
    words = "largest batch" if start is None else f"from batches of {start} on"
    assert words in report.text()
    figure = Figure()
    bench_report._draw(figure, report)
    marks = [text.get_text() for text in figure.axes[0].texts]
    assert marks == ([] if start is None else ["cuda wins"])


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml")])
def test_plot_is_written_whole(tmp_path: Path, name: str, start: bytes) -> None:
    REPORT.plot(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_plot_names_every_line_whatever_its_letters() -> None:
    figure = Figure()
    bench_report._draw(figure, REPORT)
    texts = [text.get_text().strip() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["a, cpu", r"_b\$, cpu"]


def test_plot_that_cannot_be_drawn_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    failed = BenchReport(REPORT.rows[-2:], REPORT.environment)
    for report, target in [
        (REPORT, tmp_path / "plot.onnx"),
        (REPORT, tmp_path / "plot"),
        (REPORT, tmp_path / "nowhere" / "plot.png"),
        (REPORT, tmp_path),
        (failed, tmp_path / "plot.png"),
    ]:
        with pytest.raises(ArgumentError) as caught:
            report.plot(target)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
