"""What a figure was obtained on: processor, memory, GPU, versions, date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The machine, without its name: processor, cores that this process may use, memory, GPU."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "cpus": cores(),
        "memory_bytes": _memory(),
        "gpu": gpu(),
        "python": platform.python_version(),
    }


def gpu() -> dict[str, Any] | None:
    """Name, memory and driver of the first NVIDIA GPU; None where its driver tells of none."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        name, mebibytes, driver = (part.strip() for part in done.stdout.splitlines()[0].split(","))
        return {"name": name, "memory_bytes": int(mebibytes) * 2**20, "driver": driver}
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed; onnxruntime's by whatever name."""
    found = {}
    for name in packages:
        for candidate in (name, f"{name}-gpu"):
            try:
                found[name] = version(candidate)
                break
            except PackageNotFoundError:
                continue
    return found


def today() -> str:
    """The date, as ISO 8601 has it."""
    return datetime.date.today().isoformat()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None
