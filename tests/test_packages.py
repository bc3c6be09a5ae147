"""Rewrites that other packages bring: one is installed and used, broken ones break nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxtune
from rewrites.core import registry
from rewrites.core.rewrite import Rewrite
from rewrites.errors import OnnxTuneError

EXAMPLE = Path(__file__).parents[1] / "docs" / "how-to" / "example-rewrite"
MODEL = """<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
g (float[N, 2] x) => (float[N, 1] y) <float[2, 1] weights = {1, 1}> {
    [hinge] h = com.example.Hinge <knots = [0.5, -1.0], slopes = [2.0, -0.5]> (x)
    y = MatMul (h, weights)
}"""


@pytest.fixture
def found_anew() -> Iterator[Callable[[], None]]:
    registry.forget()
    yield registry.forget
    registry.forget()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed as pip does it; from a copy, as setuptools builds in place."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(EXAMPLE, folder / "source")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", folder / "site"]
    command = [sys.executable, "-m", "pip", "install", *options, source]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return folder / "site"


def answers(knots: np.ndarray, slopes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What a Hinge and the sum of both features say."""
    hinged = rows + slopes * np.maximum(rows - knots, 0)
    return np.asarray(hinged.sum(axis=1, keepdims=True))


@pytest.mark.usefixtures("found_anew")
def test_the_example_is_installed_and_used(
    installed: Path, monkeypatch: pytest.MonkeyPatch, found_anew: Callable[[], None]
) -> None:
    model = onnx.parser.parse_model(MODEL)
    monkeypatch.syspath_prepend(installed)
    found_anew()
    try:
        assert registry.find("com.example", "Hinge") is not None
        report = onnxtune.inspect(model)
        assert "com.example:Hinge" in report.text() and report.packages == ()
        assert (report.tunable, report.learned) == (6, 6)
        rows = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
        first = answers(np.array([0.5, -1.0]), np.array([2.0, -0.5]), rows)
        for form in ("hard", "soft"):
            converted = onnxtune.convert(model, form)
            assert {node.domain for node in converted.graph.node} == {""}
            (found,) = session(converted).run(None, {"x": rows})
            np.testing.assert_allclose(found, first, rtol=1e-5, atol=1e-5)
        predicted = onnxtune.to_torch(model).predict(rows)["y"].detach().numpy()
        np.testing.assert_allclose(predicted, first, rtol=1e-5, atol=1e-5)

        wanted = answers(np.array([0.2, -0.8]), np.array([3.0, -1.0]), rows)
        result = onnxtune.tune(model, rows, wanted, valid=0.5, epochs=20)
        assert result.accepted
        tuned = result.model("native")
        assert [node.op_type for node in tuned.graph.node] == ["Hinge", "MatMul"]
        held = {a.name: np.array(a.floats) for a in tuned.graph.node[0].attribute}
        weights = numpy_helper.to_array(tuned.graph.initializer[0])
        hinged = rows + held["slopes"] * np.maximum(rows - held["knots"], 0)
        (hard,) = session(result.model("hard")).run(None, {"x": rows})
        np.testing.assert_allclose(hinged @ weights, hard, rtol=1e-4, atol=1e-4)
        assert np.mean((hard - wanted) ** 2) < np.mean((first - wanted) ** 2) / 4
    finally:
        monkeypatch.undo()
        for name in [name for name in sys.modules if name.startswith("hinge_rewrite")]:
            del sys.modules[name]


def session(model: onnx.ModelProto) -> object:
    from onnxtune.runtime import session

    return session(model)


def test_the_guide_shows_the_example() -> None:
    page = (EXAMPLE.parent / "add-an-operator.md").read_text()
    table = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert table is not None
    assert table[1].strip() in (EXAMPLE / "pyproject.toml").read_text()
    assert "(example-rewrite/pyproject.toml)" in page


# What is wrong with a package


@pytest.fixture
def register(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found_anew: Callable[[], None]
) -> Callable[..., None]:
    """Registers modules as packages do, by (entry point's name, attribute, source)."""
    monkeypatch.syspath_prepend(tmp_path)

    def registering(*modules: tuple[str, str, str]) -> None:
        points = []
        for name, attribute, source in modules:
            module = f"of_a_package_{name}"
            (tmp_path / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
            value = f"{module}:{attribute}"
            points.append(EntryPoint(name, value, registry.ENTRY_POINT_GROUP))
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        found_anew()

    return registering


_MINE = """
from rewrites.core.rewrite import Rewrite, no_tensors, unchanged
REWRITE = Rewrite("{operator}", "{domain}", no_tensors, None, unchanged)
"""


@pytest.mark.parametrize(
    ("source", "attribute", "message"),
    [
        ("import no_such_module", "REWRITE", "ModuleNotFoundError: No module named 'no_such_mod"),
        ("raise SystemError('broken')", "REWRITE", "SystemError: broken"),
        ("x = 1", "REWRITE", "AttributeError: module '.*' has no attribute 'REWRITE'"),
        ("def (", "REWRITE", "SyntaxError"),
        ("REWRITE = {}", "REWRITE", "is a dict, not a rewrites.core.rewrite.Rewrite"),
        (
            _MINE.format(operator="Scaler", domain="ai.onnx.ml"),
            "REWRITE",
            "left out: onnxtune has a rewrite of ai.onnx.ml:Scaler already",
        ),
    ],
    ids=["import", "raises", "attribute", "syntax", "type", "duplicate"],
)
def test_a_broken_package_is_reported_and_breaks_nothing(
    source: str, attribute: str, message: str, register: Callable[..., None]
) -> None:
    own = set(registry.all_rewrites())
    scaler = registry.find("ai.onnx.ml", "Scaler")
    good = _MINE.format(operator="Good", domain="com.example")
    register(("broken", attribute, source), ("good", "REWRITE", good))
    with pytest.warns(RuntimeWarning, match=message) as caught:
        registered = registry.all_rewrites()
    assert set(registered) == own | {("com.example", "Good")}
    assert registry.find("ai.onnx.ml", "Scaler") is scaler
    (problem,) = registry.problems()
    assert str(caught[0].message) == problem
    assert "broken = of_a_package_broken:REWRITE (onnxtune.rewrites)" in problem
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
        g (float[N, 2] x) => (float[N, 2] y) {
            y = ai.onnx.ml.Scaler <offset = [1.0, 2.0], scale = [1.0, 2.0]> (x)
        }"""
    )
    report = onnxtune.inspect(model)
    assert report.packages == (problem,)
    assert report.text().endswith(problem)
    assert onnxtune.verify(model, onnxtune.convert(model, "hard")).agrees


def test_of_two_packages_the_first_by_name_is_taken(register: Callable[..., None]) -> None:
    same = _MINE.format(operator="Twice", domain="com.example")
    register(("b", "REWRITE", same), ("a", "REWRITE", same))
    with pytest.warns(RuntimeWarning, match=r"entry point b = .* is left out: package .* has a"):
        registry.all_rewrites()
    found = registry.find("com.example", "Twice")
    assert found is sys.modules["of_a_package_a"].REWRITE


def test_one_rewrite_under_two_names_is_no_conflict(register: Callable[..., None]) -> None:
    source = _MINE.format(operator="Once", domain="com.example")
    again = "from of_a_package_a import REWRITE"
    register(("a", "REWRITE", source), ("b", "REWRITE", again))
    assert isinstance(registry.find("com.example", "Once"), Rewrite)
    assert registry.problems() == ()


def test_two_rewrites_of_our_own_are_an_error(
    monkeypatch: pytest.MonkeyPatch, found_anew: Callable[[], None]
) -> None:
    found_anew()
    modules = list(registry.pkgutil.iter_modules(registry.rewrites.__path__))
    monkeypatch.setattr(registry.pkgutil, "iter_modules", lambda path: modules * 2)
    with pytest.raises(OnnxTuneError, match=r"Two rewrites claim ai\.onnx\.ml"):
        registry.all_rewrites()
