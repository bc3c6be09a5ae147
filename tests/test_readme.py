"""The documentation: its code runs, its output is real, its options exist, its links resolve."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

import onnxtune
from onnxtune import cli, errors
from onnxtune.export import native
from onnxtune.losses import LOSSES
from onnxtune.verification import verify
from rewrites.core.registry import all_rewrites, forget

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "reference"
COMMANDS = ("inspect", "convert", "split", "tune", "verify", "bench", "demo")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    """Something to run: Python code or a command, and the output that the page shows for it."""

    kind: str
    source: str
    shown: str | None


def steps(text: str) -> list[Step]:
    """The runnable blocks of a page, in order.

    A `python` block shows its output in a `text` block right behind it, a `console` block behind
    each command.
    """
    found: list[Step] = []
    end = -1
    for fence in _FENCE.finditer(text):
        language, body = fence.groups()
        if language == "python":
            found.append(Step("python", body, None))
        elif language == "text" and end >= 0 and not text[end : fence.start()].strip():
            if found and found[-1].kind == "python":
                found[-1] = found[-1]._replace(shown=body)
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append(Step("command", command, output))
        elif language == "bash":
            found += [Step("command", line, None) for line in body.splitlines()]
        end = fence.end()
    return [s for s in found if s.kind == "python" or s.source.startswith("onnxtune ")]


def shape(output: str) -> list[str]:
    """The words of an output without what differs from machine to machine: numbers, near ties."""
    # Of candidates that come close the last bits choose.
    masked = re.sub(r"^(Taken|Kept) for .*$", r"\1", output, flags=re.MULTILINE)
    masked = re.sub(r" +<- taken$", "", masked, flags=re.MULTILINE)
    masked = re.sub(r"[-+]?\d[\d,]*(\.\d+)*(e[-+]?\d+)?", "#", masked)
    masked = re.sub(r"# (ns|us|ms|s|min)\b", "#", masked)
    return re.sub(r"-{2,}", "-", masked).split()


def run(step: Step, names: dict[str, Any], page: str) -> None:
    output, complaints = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output):
        if step.kind == "python":
            exec(compile(step.source, page, "exec"), names)
        else:
            with contextlib.redirect_stderr(complaints):
                status = execute(shlex.split(step.source)[1:])
            said = complaints.getvalue()
            assert status in (0, 1, 2), f"{step.source}: {said}"
            assert "internal error" not in said, f"{step.source}: {said}"
            if status == 2:
                output.write(said)
    if step.shown is not None:
        assert shape(output.getvalue()) == shape(step.shown), output.getvalue()


def execute(arguments: list[str]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "onnxtune-demo"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["demo", "--output", str(folder)]) == 0
    return folder


def identifier(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Code and commands


def test_readme_gives_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    for command in ("pip install . && onnxtune demo", "pip install '.[test]' && pytest"):
        assert re.search(rf"^    {re.escape(command)}$", text, re.MULTILINE)


def test_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [s for s in steps((ROOT / "README.md").read_text()) if s.kind == "python"]
    assert len(blocks) >= 3
    assert sum(block.shown is not None for block in blocks) >= 3
    names: dict[str, Any] = {}
    for block in blocks:
        run(block, names, "README.md")


def runnable() -> list[Any]:
    pages = []
    for page in PAGES:
        found = steps(page.read_text())
        if page.name == "README.md":
            found = [step for step in found if step.kind == "command"]
        if found:
            pages.append(pytest.param(page, found, id=identifier(page)))
    return pages


@pytest.mark.slow
@pytest.mark.parametrize(("page", "found"), runnable())
def test_page(
    page: Path,
    found: list[Step],
    demo_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(demo_files, tmp_path / "onnxtune-demo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for step in found:
        run(step, names, identifier(page))


def test_the_pages_that_must_run_are_found() -> None:
    found = {parameter.id for parameter in runnable()}
    pages = {identifier(page) for page in (ROOT / "docs" / "how-to").glob("*.md")}
    assert found >= {"README.md", "docs/tutorial.md", *pages}


def test_rewrite_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator of add-an-operator.md, installed as the page says, does its work."""
    page = (ROOT / "docs" / "how-to" / "add-an-operator.md").read_text()
    source = next(body for language, body in _FENCE.findall(page) if language == "python")
    table = next(body for language, body in _FENCE.findall(page) if language == "toml")
    entry = re.search(r'\[project\.entry-points\."onnxtune\.rewrites"\]\n(.+)', table)
    assert entry is not None
    name, target = (part.strip().strip('"') for part in entry[1].split("="))
    package, module_name = target.split(":")[0].split(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{module_name}.py").write_text(source)
    installed = tmp_path / f"{package}-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[onnxtune.rewrites]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    try:
        (rewrite,) = (r for r in all_rewrites().values() if package in r.tensors.__module__)
        for case in rewrite.cases:
            model = onnx.parser.parse_model(case.text)
            assert rewrite.operator in onnxtune.inspect(model).text()
            hard = onnxtune.convert(model, "hard")
            assert {node.domain for node in hard.graph.node} == {""}
            assert verify(model, hard).agrees
            module = onnxtune.to_torch(model)
            assert module.tensors()
            moved = {n: v.detach().numpy() + 1 for n, v in module.tensors().items()}
            written = native(module.prepared, moved)
            assert written.changed == {name: value.size for name, value in moved.items()}
            assert not verify(model, written.proto).agrees
    finally:
        monkeypatch.undo()
        for loaded in (package, f"{package}.{module_name}"):
            sys.modules.pop(loaded, None)
        forget()


# Reference pages


def sections(page: Path) -> dict[str, str]:
    """Second-level heading, without its backticks -> the text under it."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)[1:]
    return {head.replace("`", ""): body for head, body in zip(parts[::2], parts[1::2], strict=True)}


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert execute([*arguments, "--help"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def plain_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.usefixtures("plain_help")
def test_commands_of_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    offered = re.findall(r"^    ([a-z]+)  ", help_of(capsys), re.MULTILINE)
    described = [head for head in sections(REFERENCE / "command-line.md") if " " not in head]
    assert sorted(described) == sorted(offered) == sorted(COMMANDS)


@pytest.mark.usefixtures("plain_help")
@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_the_reference(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, command)
    heads = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
    offered = {word for head in heads for word in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", head)}
    positional = re.search(r"positional arguments:\n((?:  .+\n)+)", text)
    if positional:
        offered |= set(re.findall(r"^  ([a-z]+)", positional[1], re.MULTILINE))
    body = sections(REFERENCE / "command-line.md")[command]
    cells = re.findall(r"^\| (`.+?) \|", body, re.MULTILINE)
    described = {word for cell in cells for word in re.findall(r"`(-{0,2}[a-z][a-z-]*)", cell)}
    common = {"--help", "-h", "--json", "--debug"}
    assert described == offered - common
    assert common <= offered
    introduction = (REFERENCE / "command-line.md").read_text().partition("\n## ")[0]
    assert all(f"`{option}`" in introduction for option in common - {"-h"})


def test_public_names_of_the_reference() -> None:
    text = (REFERENCE / "python.md").read_text()
    for name in onnxtune.__all__:
        assert f"`onnxtune.{name}`" in text, name


@pytest.mark.parametrize(
    "name",
    ["inspect", "convert", "split", "to_torch", "tune", "verify", "bench", "Runner"],
)
def test_parameters_of_the_reference(name: str) -> None:
    body = sections(REFERENCE / "python.md")[f"onnxtune.{name}"]
    table = body[body.index("| parameter |") :].partition("\n\n")[0]
    described = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert described == list(inspect.signature(getattr(onnxtune, name)).parameters)


def test_losses_and_errors_of_the_reference() -> None:
    described = sections(REFERENCE / "losses.md")
    assert [head for head in described if head in LOSSES] == list(LOSSES)
    text = (REFERENCE / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(errors.__all__)


# Links


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_links(page: Path) -> None:
    text = _FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT) and file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, target


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
    }
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - linked <= {index}


def test_the_helpers_see_differences() -> None:
    page = "```python\nprint(1)\n```\n\n```text\n2 rows\n```\n"
    (step,) = steps(page)
    with pytest.raises(AssertionError):
        run(step, {}, "page")
    run(step._replace(source="print('7 rows')"), {}, "page")
    (command,) = steps("```console\n$ onnxtune inspect missing.onnx\nfine\n$ ls\n```\n")
    with pytest.raises(AssertionError):
        run(command, {}, "page")
    assert shape("took 1.5 ms, -3e-07") == shape("took 2 s, 1,000")
