"""What a figure was obtained with, as the benchmarks write it beside their figures."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable
from importlib.metadata import version

import onnxruntime

import onnxtune


def facts(command: str) -> dict[str, str]:
    """The command, the day, the machine and onnxtune's version."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "onnxtune": onnxtune.__version__,
    }


def environment(packages: Iterable[str]) -> dict[str, str]:
    """The versions of these packages and of onnxruntime."""
    return {name: version(name) for name in packages} | {"onnxruntime": onnxruntime.__version__}
