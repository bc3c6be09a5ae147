"""Writes docs/operators.md from the rewrites that there are: `python docs/operators.py`."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from onnxtune.learned import node_tensors
from onnxtune.model import load
from onnxtune.preparation import prepare
from rewrites.core.registry import all_rewrites
from rewrites.core.rewrite import TREE_FORMS, Rewrite, Tensor

DOCS = Path(__file__).parent
PAGE = DOCS / "operators.md"
# What one step of a tensor is stands there in words.
STEPS = DOCS / "reference" / "tensors-and-names.md"
# These refuse a form for its size, or a node that no model has.
NO_REASONS = {"rewrites.trees.costs", "rewrites.core.builder"}

INTRODUCTION = """# Operators

<!-- Written by docs/operators.py; do not edit. -->

What has a rewrite: it is converted to standard operators, its tensors are tuned, and they go back
into the node. This page is made of the rewrites themselves: `python docs/operators.py` writes it
anew. `onnxtune inspect` says the same of the nodes of a model.
[A new operator is one file](how-to/add-an-operator.md).

"""
FORMS = """
All hard and soft forms consist of operators of `ai.onnx` that mean the same from opset 13 on, and
are written at opset 17 where the model allows it. A model that cannot be brought to opset 13 is
inspected only. Where soft is not named beside hard, both are the same: nothing in the operator is a
step.

Standard operators such as MatMul, Gemm, Add and Conv need no rewrite. Their float initializers of
more than one number are tuned where a gradient passes.
[Names, and what a standardised step is](reference/tensors-and-names.md).
"""


def page() -> str:
    """The whole page."""
    own = {key: rewrite for key, rewrite in sorted(all_rewrites().items()) if _is_ours(rewrite)}
    rows = [
        f"| [{rewrite.operator}](#{rewrite.operator.lower()}) | {_versions(rewrite)} | "
        f"{_forms(rewrite)} | {_names(rewrite)} |"
        for rewrite in own.values()
    ]
    head = "| operator | versions | forms | tuned |\n|---|---|---|---|\n"
    parts = [INTRODUCTION + head + "\n".join(rows) + "\n" + FORMS]
    parts += [_section(rewrite) for rewrite in own.values()]
    return "\n".join([*parts, _others(set(own))])


def _is_ours(rewrite: Rewrite) -> bool:
    """Not one that another installed package brings."""
    return rewrite.tensors.__module__.split(".")[0] == "rewrites"


def _paths(rewrite: Rewrite) -> list[str]:
    if rewrite.differentiable == "every input":
        return ["every input to output 0"]
    return [
        f"the tensors to output {o}" if i is None else f"input {i} to output {o}"
        for i, o in rewrite.differentiable
    ]


def _section(rewrite: Rewrite) -> str:
    module = _module(rewrite)
    first = (module.__doc__ or "").strip().split("\n\n")[0]
    about = " ".join(first.split())
    pairs = _paths(rewrite)
    lines = [
        f"## {rewrite.operator}\n",
        f"{about}\n",
        "| | |",
        "|---|---|",
        f"| domain | `{rewrite.domain}` |",
        f"| versions of the domain | {_versions(rewrite)} |",
        f"| forms | {_forms(rewrite)} |",
        f"| gradient | {', '.join(pairs) or 'none'} |",
    ]
    found = declared(rewrite)
    if found:
        lines.append("\n| tensor | shape | group | one standardised step | constraint |")
        lines.append("|---|---|---|---|---|")
    for role, tensors in found.items():
        limits = sorted({t.constraint.kind for t in tensors if t.constraint is not None})
        lines.append(
            f"| `{role}` | {_shapes(tensors)} | {', '.join(sorted({t.group for t in tensors}))} | "
            f"{_step(rewrite.operator, role, tensors)} | {' or '.join(limits)} |"
        )
    reasons = reasons_of(rewrite)
    if rewrite.soften is None:
        lines.append("\nIt stays as it is in every form.")
    elif reasons:
        lines.append("\nIt stays as it is where\n")
        lines += [f"- {reason}" for reason in reasons]
    else:
        lines.append("\nAll of it is covered.")
    return "\n".join(lines) + "\n"


def _versions(rewrite: Rewrite) -> str:
    schemas = [
        schema
        for schema in onnx.defs.get_all_schemas_with_history()
        if (schema.domain, schema.name) == (rewrite.domain, rewrite.operator)
    ]
    if not schemas:
        return "any"
    first = min(schema.since_version for schema in schemas)
    ended = [schema.since_version for schema in schemas if schema.deprecated]
    return f"{first} to {min(ended) - 1}" if ended else f"{first} and later"


def _forms(rewrite: Rewrite) -> str:
    if rewrite.soften is None:
        return "native"
    if rewrite.ensemble is None:
        return "native, hard"
    return f"native, hard ({', '.join(TREE_FORMS)}), soft"


def _names(rewrite: Rewrite) -> str:
    return ", ".join(f"`{role}`" for role in declared(rewrite)) or "nothing"


# Tensors


@cache
def _declared(key: tuple[str, str]) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for case in all_rewrites()[key].cases:
        prepared = prepare(load(onnx.parser.parse_model(case.text)))
        for node in prepared.proto.graph.node:
            if (node.domain, node.op_type) == key:
                for name, tensor in node_tensors(prepared, node).items():
                    found.setdefault(name.rpartition("/")[2], []).append(tensor)
    return found


def declared(rewrite: Rewrite) -> dict[str, list[Tensor]]:
    """Role -> the tensors that the rewrite's own cases have."""
    return _declared((rewrite.domain, rewrite.operator))


def _shapes(tensors: list[Tensor]) -> str:
    ranks = sorted({tensor.value.ndim for tensor in tensors})
    return " or ".join({0: "a number", 1: "a list", 2: "a table"}.get(r, f"{r}-D") for r in ranks)


class _Described(NamedTuple):
    operators: str
    role: str
    step: str


@cache
def _steps() -> list[_Described]:
    """The rows of the table of tensors in words."""
    found, operators = [], ""
    for line in STEPS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and cells[1].startswith("`"):
            operators = cells[0] or operators
            found.append(_Described(operators, cells[1].strip("`"), cells[4]))
    return found


def _step(operator: str, role: str, tensors: list[Tensor]) -> str:
    """The size of a step in words, as the reference has it, else as the numbers show."""
    for row in _steps():
        if operator in re.split(r",\s*", row.operators) and row.role == role:
            return row.step
    tensor = next((t for t in tensors if t.value.size), None)
    if tensor is None:
        return "1"
    unit = np.broadcast_to(np.asarray(tensor.unit, np.float64), tensor.value.shape)
    value = np.asarray(tensor.value, np.float64)
    if np.allclose(unit, np.abs(value)):
        return "its own size"
    if np.allclose(unit, np.sqrt(np.mean(value**2))):
        return "root mean square of all of them"
    return "1" if np.allclose(unit, 1) else "by the rewrite"


# Where it stays


def _module(rewrite: Rewrite) -> object:
    """The module of `rewrites` that has this REWRITE."""
    for name in sorted(path.stem for path in (DOCS.parent / "rewrites").glob("*.py")):
        module = importlib.import_module(f"rewrites.{name}" if name != "__init__" else "rewrites")
        if getattr(module, "REWRITE", None) is rewrite:
            return module
    raise LookupError(f"{rewrite.domain}:{rewrite.operator} is no module of rewrites.")


def reasons_of(rewrite: Rewrite) -> list[str]:
    """What an UnsupportedError says, in the rewrite's module and in those that it imports."""
    queue, seen = [_module(rewrite).__name__], set()  # type: ignore[attr-defined]
    reasons: dict[str, None] = {}
    while queue:
        name = queue.pop(0)
        if name in seen or name in NO_REASONS:
            continue
        seen.add(name)
        source = importlib.import_module(name).__file__
        tree = ast.parse(Path(source or "").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rewrites."):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [each for each in inner if _is_module(each)]
                queue += modules or [str(node.module)]
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                text = _text(node.exc)
                if text:
                    reasons.setdefault(text)
    return list(reasons)


def _is_module(name: str) -> bool:
    return name.replace(".", "/") + ".py" in {
        str(path.relative_to(DOCS.parent)) for path in (DOCS.parent / "rewrites").rglob("*.py")
    }


def _text(call: ast.Call) -> str:
    """The message of an UnsupportedError about a node, its first sentence, `...` for values."""
    if ast.unparse(call.func) != "UnsupportedError" or not call.args:
        return ""
    message = call.args[0]
    values = message.values if isinstance(message, ast.JoinedStr) else [message]
    parts = [str(v.value) if isinstance(v, ast.Constant) else "\0" for v in values]
    where, colon, text = "".join(parts).partition(": ")
    if not colon or where.strip("'") != "\0":
        return ""
    text = re.sub(r" \(\0[^)]*\)", "", text)  # what else there would be
    text = re.split(r"\. |; (?=give |put |choose )", text)[0].rstrip(".")  # without the advice
    return text.replace("\0", "...")


def _others(known: set[tuple[str, str]]) -> str:
    names = sorted(
        {
            schema.name
            for schema in onnx.defs.get_all_schemas_with_history()
            if schema.domain == "ai.onnx.ml" and (schema.domain, schema.name) not in known
        }
    )
    return (
        "## Operators of ai.onnx.ml without a rewrite\n\n"
        f"{', '.join(names) or 'None'}.\n\n"
        "These run unchanged in every form, before the tuned part or behind it. No gradient "
        "passes them, so\nthat nothing before them is tuned.\n"
    )


def main() -> None:
    """Write the page, or with --check say whether it is as it should be."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != text:
            sys.exit("docs/operators.md is out of date: run python docs/operators.py")
        return
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
