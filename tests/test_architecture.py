"""The structure that keeps the code easy to find one's way in, held by reading the sources."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import onnxtune
import onnxtune.errors
import rewrites
import rewrites.errors

PACKAGES = (Path(onnxtune.__file__).parent, Path(rewrites.__file__).parent)
INTERFACE = {
    "MLflowWriter",
    "OnnxTuneError",
    "Runner",
    "TensorBoardWriter",
    "Tuner",
    "__version__",
    "bench",
    "convert",
    "inspect",
    "replace_head",
    "split",
    "to_onnx",
    "to_torch",
    "tune",
    "verify",
}
MOST_LINES = 400
ALLOWED_IN_REWRITES = {"numpy", "onnx_ir", "rewrites"}
HEAVY = {"torch", "onnx2torch", "sklearn", "skl2onnx", "matplotlib"}


def name_of(path: Path) -> str:
    """The module in a file."""
    package = next(package for package in PACKAGES if package in path.parents)
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {name_of(path): path for package in PACKAGES for path in sorted(package.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
BENEATH = sorted(name for name in FILES if name.split(".")[0] == "rewrites")
LIBRARY = sorted(name for name in FILES if name.split(".")[0] == "onnxtune")


def statements(tree: ast.AST, functions: bool = True) -> Iterator[ast.AST]:
    """Everything that runs: not what is there for type checkers, nor functions if so wished."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not functions:
            continue
        yield node
        yield from statements(node, functions)


def imports(name: str, functions: bool = True) -> set[str]:
    """The modules that a module imports; of this project, the very module."""
    found = set()
    for node in statements(TREES[name], functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{name}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= inner or {node.module}
    return found


def own(name: str, functions: bool = True) -> set[str]:
    """Those of the project. The package itself counts for nothing: it loads its names late."""
    return (imports(name, functions) & FILES.keys()) - {"onnxtune"}


@pytest.mark.parametrize("name", BENEATH)
def test_rewrites_stand_alone(name: str) -> None:
    roots = {module.split(".")[0] for module in imports(name)}
    foreign = roots - ALLOWED_IN_REWRITES - set(sys.stdlib_module_names)
    assert not foreign, f"{name} imports {foreign}"


def test_rewrites_load_without_torch() -> None:
    assert not loaded_by(BENEATH) & {"torch", "onnxtune", "onnxruntime", "pandas"}


def test_imports_point_one_way() -> None:
    """Those inside functions, too."""
    graph = {name: own(name) for name in FILES}
    TopologicalSorter(graph).prepare()  # a CycleError names the modules


def test_what_the_layers_import() -> None:
    assert own("onnxtune.errors") == {"rewrites.errors"}
    exporters = {"onnxtune.estimators", "onnxtune.fitted_columns"}
    assert own("onnxtune.model") == {"onnxtune.errors", *exporters}
    assert own("onnxtune.model", functions=False) == {"onnxtune.errors"}
    assert own("onnxtune.runtime") == {"onnxtune.errors"}
    assert own("onnxtune.output") == set()
    parts = ("arguments", "errors", "output", "tune_options")
    own_parts = {f"onnxtune.{name}" for name in parts}
    assert own("onnxtune.cli", functions=False) == own_parts
    assert {name for name in FILES if "onnxtune.cli" in own(name)} == {"onnxtune.__main__"}


def loaded_by(modules: list[str]) -> set[str]:
    """The packages that a fresh process has loaded after these imports."""
    code = f"import sys, {', '.join(modules)}; print(*{{m.split('.')[0] for m in sys.modules}})"
    paths = [str(path.parent) for path in PACKAGES]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(ran.stdout.split())


def test_torch_is_loaded_only_to_tune() -> None:
    names = ("inspection", "conversion", "verification", "benchmark", "runner", "sampling", "data",
             "export", "folds", "met_values", "target_transforms", "validation")  # fmt: skip
    assert not loaded_by([f"onnxtune.{name}" for name in names]) & HEAVY


def test_the_parts_of_tuning() -> None:
    """What poses the problem and what changes a model know nothing of the run; one way in."""

    def of(*names: str) -> set[str]:
        return {f"onnxtune.{name}" for name in names}

    run = of("candidates", "outcome", "turns", "tuning")
    before = ("problem", "judging", "folds", "validation", "targets", "losses", "training_loop",
              "row_losses", "row_order", "settings", "checkpoint", "weights")  # fmt: skip
    models = ("scaling", "centring", "random_start", "smaller", "resizing", "companion")
    for name in (*before, *models):
        assert not own(f"onnxtune.{name}") & run, name
    for name in before:
        assert not own(f"onnxtune.{name}") & of(*models), name
    users = {name for name in FILES if "onnxtune.candidates" in own(name)}
    assert users == of("outcome", "turns", "tuning")
    # A network's graph and its training need nothing of the models beside it.
    net = own("onnxtune.companion_net") | own("onnxtune.companion_graph")
    assert not net & (run | of("companion", "judging", "problem", "torch_module"))


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_long(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{name} has {lines} lines: split it"


def test_file_names_say_what_is_inside() -> None:
    stems = {name.split(".")[-1] for name in FILES}
    assert not stems & {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def test_no_module_is_named_like_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(onnxtune.__path__)}
    assert not modules & INTERFACE


def test_the_public_names() -> None:
    assert set(onnxtune.__all__) == INTERFACE
    assert list(onnxtune.__all__) == sorted(onnxtune.__all__)
    assert set(dir(onnxtune)) >= INTERFACE
    with pytest.raises(AttributeError, match="nonsense"):
        _ = onnxtune.nonsense


def test_public_names_are_the_same_whatever_was_imported() -> None:
    first = {name: getattr(onnxtune, name) for name in INTERFACE}
    for module in LIBRARY:
        import_module(module)
    for name, value in first.items():
        assert getattr(onnxtune, name) is value
        assert not inspect.ismodule(value)
    for name in INTERFACE - {
        "MLflowWriter",
        "Runner",
        "TensorBoardWriter",
        "Tuner",
        "replace_head",
        "OnnxTuneError",
        "__version__",
    }:
        assert inspect.isfunction(first[name]) and first[name].__name__ == name


@pytest.mark.parametrize("name", sorted(INTERFACE - {"OnnxTuneError", "__version__"}))
def test_public_functions_are_documented(name: str) -> None:
    function = getattr(onnxtune, name)
    text = inspect.getdoc(function) or ""
    assert "Raises:" in text
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter}: " in text or parameter in ("X", "y"), parameter


def errors() -> dict[str, type[Exception]]:
    held = vars(rewrites.errors).values()
    return {e.__name__: e for e in held if isinstance(e, type) and issubclass(e, Exception)}


def test_errors() -> None:
    base = errors()["OnnxTuneError"]
    assert onnxtune.OnnxTuneError is base is onnxtune.errors.OnnxTuneError
    assert set(onnxtune.errors.__all__) == errors().keys()
    assert all(issubclass(error, base) for error in errors().values())
    bad_values = {name for name, error in errors().items() if issubclass(error, ValueError)}
    assert bad_values == {"ArgumentError", "DataError", "ModelError"}


# What Python itself asks for: attributes that are not there, values of a wrong type, no memory.
OTHER_ERRORS = {
    ("onnxtune", "AttributeError"),
    ("onnxtune.sklearn", "AttributeError"),
    ("onnxtune.__main__", "SystemExit"),
    ("onnxtune.tune_options", "argparse.ArgumentTypeError"),
    ("onnxtune.stages", "MemoryError"),
    ("onnxtune.output", "TypeError"),
    ("onnxtune.output", "ValueError"),
}


def raised(tree: ast.AST) -> Iterator[str]:
    """The classes of errors; a function that makes one is left out, as its annotation tells."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            made = ast.unparse(node.exc.func)
            if not made.startswith("_"):
                yield made


@pytest.mark.parametrize("name", FILES)
def test_what_is_raised_is_an_error_of_ours(name: str) -> None:
    allowed = errors().keys() | {error for module, error in OTHER_ERRORS if module == name}
    assert set(raised(TREES[name])) <= allowed


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"onnxtune.cli"}))
def test_only_the_command_line_prints(name: str) -> None:
    def prints(node: Any) -> bool:
        called = ast.unparse(node.func)
        return called == "print" or called.endswith(("stdout.write", "stderr.write"))

    found = [n.lineno for n in ast.walk(TREES[name]) if isinstance(n, ast.Call) and prints(n)]
    assert not found, f"{name} prints in lines {found}"
