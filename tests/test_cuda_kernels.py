"""The table of the CUDA provider's kernels, and what a graph has outside it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnxruntime
import pytest

from onnxtune.cuda_kernels import gaps, table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def said(text: str) -> list[str]:
    return [str(gap) for gap in gaps(onnx.parser.parse_model(text))]


def head(opset: int) -> str:
    return f'<ir_version: 8, opset_import: ["" : {opset}, "ai.onnx.ml" : 3]>'


def test_a_graph_of_floats_has_no_gaps() -> None:
    text = """g (float[N, 4] x) => (int64[N] label, float[N, 4] p) {
        p = Softmax <axis = 1> (x)
        label = ArgMax <axis = 1, keepdims = 0> (p)
    }"""
    for opset in (13, 17, 21):
        assert said(head(opset) + text) == []


def test_an_operator_without_a_kernel() -> None:
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        [scaler] y = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (x)
    }"""
    assert said(head(17) + text) == ["ai.onnx.ml:Scaler 'scaler': no kernel"]


def test_a_type_without_a_kernel() -> None:
    text = """g (float[N, 4] x) => (string[N] word) <string[4] words = {"a", "b", "c", "d"}> {
        best = ArgMax <axis = 1, keepdims = 0> (x)
        [word] word = Gather (words, best)
    }"""
    assert said(head(17) + text) == ["Gather 'word': no kernel for tensor(string)"]


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [("float", None), ("int64", None), ("int32", "no kernel for tensor(int32)")],
)
def test_types_of_clip(kinds: str, reason: str | None) -> None:
    text = f"""g ({kinds}[N] x, {kinds} low, {kinds} high) => ({kinds}[N] y) {{
        [clip] y = Clip (x, low, high)
    }}"""
    assert said(head(17) + text) == ([] if reason is None else [f"Clip 'clip': {reason}"])


def test_a_version_without_a_kernel() -> None:
    """onnxruntime takes a kernel that has no last version for its own version of the operator."""
    text = "g (float[N, 4] x) => (float[N, 4] y) { [norm] y = LpNormalization <axis = 1> (x) }"
    kernels = table()["kernels"][""]["LpNormalization"]
    newest = max(kernel["since"] for kernel in kernels)
    assert newest == 22 and said(head(22) + text) == said(head(17) + text) == []
    held = [kernel for kernel in kernels if kernel["since"] < newest]
    table()["kernels"][""]["LpNormalization"] = held
    try:
        assert said(head(22) + text) == ["LpNormalization 'norm': no kernel at opset 22"]
    finally:
        table()["kernels"][""]["LpNormalization"] = kernels


@pytest.mark.parametrize(
    ("operator", "attributes", "kept"),
    [
        ("ArgMax", "", False),
        ("ArgMax", "<select_last_index = 1>", True),
        ("ArgMin", "<select_last_index = 0>", False),
    ],
)
def test_attributes_that_keep_a_node_on_the_cpu(operator: str, attributes: str, kept: bool) -> None:
    text = f"g (float[N, 4] x) => (int64[A, B] y) {{ [node] y = {operator} {attributes} (x) }}"
    reason = f"{operator} 'node': no kernel with this select_last_index"
    assert said(head(17) + text) == ([reason] if kept else [])


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ("", None),
        (', activations = ["Tanh"]', None),
        (', activations = ["Relu"]', "activations"),
        (", clip = 3.0", "clip"),
    ],
)
def test_recurrent_nodes(attributes: str, kept: str | None) -> None:
    text = f"""g (float[S, N, 4] x, float[1, 3, 4] w, float[1, 3, 3] r) => (float[S, 1, N, 3] y) {{
        [rnn] y = RNN <hidden_size = 3{attributes}> (x, w, r)
    }}"""
    found = said(head(17) + text)
    assert found == ([] if kept is None else [f"RNN 'rnn': no kernel with this {kept}"])


def test_nodes_in_other_nodes_graphs() -> None:
    """Their types are told from what is around them."""
    text = """g (float[N, 4] x, bool c) => (float[N, 4] y) {
        [if] y = If (c) <then_branch = g1 () => (float[N, 4] a) {
            k = Cast <to = 6> (x)
            [clip] w = Clip (k)
            n = Cast <to = 1> (w)
            a = Mul (x, n)
        }, else_branch = g2 () => (float[N, 4] b) { b = Neg (x) }>
    }"""
    assert said(head(17) + text) == ["Clip 'if/clip': no kernel for tensor(int32)"]


def test_sizes_of_words_are_a_gap() -> None:
    for kind, expected in (
        ("float", []),
        ("string", ["Shape 'size': no kernel for tensor(string)"]),
    ):
        text = f"g ({kind}[N, 4] x) => (int64[2] y) {{ [size] y = Shape (x) }}"
        assert said(head(17) + text) == expected


def test_the_table_is_whole() -> None:
    held = table()
    assert re.fullmatch(r"\d+\.\d+\.\d+", held["onnxruntime"])
    standard = held["kernels"][""]
    assert len(standard) >= 150
    for operator, kernels in standard.items():
        for kernel in kernels:
            assert kernel["until"] is None or kernel["since"] <= kernel["until"], operator
            kinds = [kind for types in kernel["types"].values() for kind in types]
            assert all(re.search(r"tensor\(\w+\)", kind) for kind in kinds), operator


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    path = BENCHMARKS / "cuda_kernels.py"
    spec = importlib.util.spec_from_file_location("cuda_kernels_script", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda_bench"]:
        del sys.modules[name]


def test_the_table_is_that_of_onnxruntime(script: Any) -> None:
    """Where the same version is installed, and a compiler for what stands in for CUDA."""
    if not all(shutil.which(tool) for tool in ("gcc", "nm", "readelf")):
        pytest.skip("needs gcc and binutils")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    if onnxruntime.__version__ != table()["onnxruntime"]:
        pytest.skip(f"the table is that of onnxruntime {table()['onnxruntime']}")
    assert script.TABLE.read_text() == script.current(), "run python benchmarks/cuda_kernels.py"


def test_kernels_that_differ_in_one_constraint_are_one(script: Any) -> None:
    kernels = [
        ("", "Op", 1, 2**31 - 1, {"T": [kind], "I": [place]})
        for kind in ("tensor(float)", "tensor(double)")
        for place in ("tensor(int32)", "tensor(int64)")
    ]
    (one,) = script.table(kernels)[""]["Op"]
    assert one == {
        "since": 1,
        "until": None,
        "types": {
            "T": ["tensor(double)", "tensor(float)"],
            "I": ["tensor(int32)", "tensor(int64)"],
        },
    }
    # Not every pair: two kernels stay two.
    assert len(script.table([kernels[0], kernels[3]])[""]["Op"]) == 2
