"""Hummingbird in an environment of its own: it needs an older onnx and an older numpy.

The environment is made with venv and pip, and its process takes its turns like any candidate: it
times its own calls, so the way there and back is not counted.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tree_bench.turns import SkipError, Timer

FOLDER = Path(__file__).parents[1]
_CONVERSION_LIMIT_S = 300
_FEW_LEAVES = 64  # GEMM's matrices grow with the square of the leaves


class PeerError(Exception):
    """Hummingbird is not there, or does not answer."""


def requirements() -> list[str]:
    """Hummingbird with its bounds, and for the rest the versions of this environment."""
    torch = version("torch").split("+")[0]
    same = [f"{name}=={version(name)}" for name in ("lightgbm", "scikit-learn")]
    return ["hummingbird-ml==0.4.12", "onnx<=1.16.1", "numpy<2", f"torch=={torch}", "onnxruntime",
            "onnxscript", "onnxmltools", "skl2onnx", *same]  # fmt: skip


def install(folder: Path, wanted: Sequence[str]) -> Path:
    """The interpreter of an environment with these requirements, made if it is not there.

    Raises:
        PeerError: pip refused; its words go to stderr.
    """
    home = folder / "hummingbird"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    mark = home / "installed.txt"
    if mark.exists() and mark.read_text().splitlines() == list(wanted):
        return python
    print(f"Installing {wanted[0]} in an environment of its own ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, stdout=sys.stderr)
    command = [str(python), "-m", "pip", "install", "--quiet", *wanted]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise PeerError("pip could not install it")
    mark.write_text("\n".join(wanted) + "\n")
    return python


def settings(leaves: int, depth: int) -> list[list[str]]:
    """What to try: every backend with its default, and the ways that may be faster.

    "default" is Hummingbird's choice by depth: gemm up to 3, perf_tree_trav up to 10, then
    tree_trav.
    """
    tried = [[backend, "default"] for backend in ("torch", "torch.jit", "onnx")]
    if depth <= 10:
        tried += [["torch.jit", "tree_trav"], ["onnx", "tree_trav"]]
    if leaves <= _FEW_LEAVES and depth > 3:
        tried += [["torch.jit", "gemm"]]
    return tried


class Hummingbird:
    """The process that runs Hummingbird."""

    def __init__(self, python: Path, threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(FOLDER)}
        self.process = subprocess.Popen(
            [python, "-m", "tree_bench.hummingbird_server", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=FOLDER,
            text=True,
        )
        self.versions = self.ask(60, do="versions")

    def ask(self, seconds: float, **request: Any) -> dict[str, Any]:
        """Send a request, and wait so long for the answer.

        Raises:
            PeerError: no answer, or an error of Hummingbird's.
        """
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise PeerError("its process has ended") from None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.close()
            raise PeerError(f"no answer within {seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise PeerError("its process has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def convert(self, file: Path, method: str, tried: list[list[str]]) -> dict[str, dict[str, Any]]:
        """Convert with every setting; setting -> seconds, growth, deviation, or its error."""
        made = {}
        for setting in tried:
            request = {"do": "convert", "file": str(file), "method": method, "setting": setting}
            try:
                made[" ".join(setting)] = self.ask(_CONVERSION_LIMIT_S, **request)
            except PeerError as error:
                made[" ".join(setting)] = {"error": str(error)}
        return made

    def timer(self, setting: str, size: int, piece: int = 0) -> Timer:
        """Times calls in a row in the other process; in pieces, if these have a size."""

        def run(calls: int) -> float:
            try:
                request = {"do": "time", "setting": setting, "size": size, "calls": calls}
                return float(self.ask(120, piece=piece, **request)["seconds"])
            except PeerError as error:
                raise SkipError(str(error)) from error

        return run

    def best(
        self, alive: list[str], size: int, limit: float
    ) -> tuple[str, dict[str, float], list[str]]:
        """The fastest setting for a batch size, all times, and those worth trying on larger ones.

        Raises:
            SkipError: none takes the batch within the limit.
        """
        times: dict[str, float] = {}
        for setting in alive:
            run = self.timer(setting, size)
            try:
                once = run(1)
                once = run(1) if once < 2 * limit else once
                if once < limit:
                    times[setting] = min(once, *(run(max(int(0.02 / once), 1)) for _ in range(3)))
            except SkipError:
                continue
        if not times:
            raise SkipError(f"no setting takes a call within {limit:g} s")
        fastest = min(times, key=times.__getitem__)
        near = [name for name, taken in times.items() if taken < 3 * times[fastest]]
        return fastest, times, near if size >= 1000 else alive

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
