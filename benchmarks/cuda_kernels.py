"""Writes onnxtune/bundled/cuda_kernels.json, the kernels of onnxruntime's CUDA provider.

    python benchmarks/cuda_kernels.py [--check]

They are those of the onnxruntime-gpu that is installed (Linux, x86-64), in its own words: operator,
versions, and the types that each kernel takes. No card is needed, nor CUDA; gcc and binutils are.
`--check` writes nothing: the exit status is 1 where the table is not what the installed one says.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from cuda_bench.stand_ins import build, run_with

TABLE = Path(__file__).parents[1] / "onnxtune" / "bundled" / "cuda_kernels.json"

# The version that stands for "and all later ones".
_NEWEST = 2**31 - 1

# Domain, operator, first and last version, types by the name of the constraint.
Kernel = tuple[str, str, int, int, dict[str, list[str]]]


def kernels_of_this_process() -> list[Kernel]:
    """The CUDA provider's kernels; its libraries, or their stand-ins, must be there."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [k for k in state.get_all_opkernel_def() if k.provider == "CUDAExecutionProvider"]
    return [
        (k.domain, k.op_name, *k.version_range,
         {name: sorted(types) for name, types in sorted(k.type_constraints.items())})
        for k in found
    ]  # fmt: skip


def table(kernels: list[Kernel]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Domain -> operator -> kernels; those that differ in the types of one constraint are one."""
    by_operator: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for domain, operator, first, last, types in sorted(kernels, key=str):
        kernel = {"since": first, "until": None if last == _NEWEST else last, "types": types}
        listed = by_operator.setdefault((domain, operator), [])
        if kernel not in listed:
            listed.append(kernel)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (domain, operator), listed in by_operator.items():
        order = sorted(_merged(listed), key=lambda k: (k["since"], str(k)))
        found.setdefault(domain, {})[operator] = order
    return found


def _merged(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join two kernels as long as there are two that differ in one constraint only."""
    kernels = list(kernels)
    for one in kernels:
        for other in kernels:
            if one is other or any(one[key] != other[key] for key in ("since", "until")):
                continue
            pairs = one["types"], other["types"]
            differ = [n for n in one["types"] if pairs[0][n] != pairs[1].get(n)]
            if pairs[0].keys() == pairs[1].keys() and len(differ) == 1:
                both = sorted({*pairs[0][differ[0]], *pairs[1][differ[0]]})
                joined = {**one, "types": {**one["types"], differ[0]: both}}
                rest = [k for k in kernels if k is not one and k is not other]
                return _merged([*rest, joined])
    return kernels


def as_text(version: str, commit: str, held: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """The file: a line a kernel."""
    domains = []
    for domain, operators in sorted(held.items()):
        entries = [
            f"  {json.dumps(operator)}: [\n"
            + ",\n".join(f"   {json.dumps(kernel)}" for kernel in kernels)
            + "\n  ]"
            for operator, kernels in sorted(operators.items())
        ]
        domains.append(f" {json.dumps(domain)}: {{\n" + ",\n".join(entries) + "\n }")
    head = f'"onnxruntime": {json.dumps(version)},\n"commit": {json.dumps(commit)},\n'
    return "{\n" + head + '"kernels": {\n' + ",\n".join(domains) + "\n}\n}\n"


def current() -> str:
    """The table of the onnxruntime that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        said = json.loads(run_with(Path(folder), __file__, "--list"))
    return as_text(said["version"], said["commit"], table([tuple(k) for k in said["kernels"]]))


def _list() -> None:
    import re

    import onnxruntime

    commit = re.search(r"git-commit-id=(\w+)", onnxruntime.get_build_info())
    said = {
        "version": onnxruntime.__version__,
        "commit": commit[1] if commit else "",
        "kernels": kernels_of_this_process(),
    }
    print(json.dumps(said))


def main() -> int:
    """Write or compare the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        _list()
        return 0
    text = current()
    if not options.check:
        TABLE.write_text(text, encoding="utf-8")
        print(f"{TABLE.name}: {text.count('since')} kernels, {len(text):,} bytes")
        return 0
    same = TABLE.read_text(encoding="utf-8") == text
    print("the table is that of the installed onnxruntime" if same else
          "the table differs: run python benchmarks/cuda_kernels.py", file=sys.stderr)  # fmt: skip
    return int(not same)


if __name__ == "__main__":
    raise SystemExit(main())
