"""How much memory is at hand."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def memory_at_hand() -> int:
    """Bytes that are free, within the limit of a container where there is one."""
    free = _available()
    for limit, used in _LIMITS:
        try:
            allowed, taken = Path(limit).read_text().strip(), Path(used).read_text().strip()
        except OSError:
            continue
        if allowed.isdigit() and taken.isdigit():
            free = min(free, max(0, int(allowed) - int(taken)))
    return free


def _available() -> int:
    """What the system can give without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def device_memory_at_hand() -> int | None:
    """Bytes that are free on torch's CUDA device; None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info()
    return int(free)


def resident() -> int:
    """Bytes that this process holds in memory; 0 where the system does not tell."""
    return _own("VmRSS")


def peak_growth(before: int) -> int:
    """Bytes that this process held at the most since `forget_peak`, beyond those before."""
    return max(_own("VmHWM") - before, 0) if before else 0


def forget_peak() -> None:
    """Let the most that this process held begin anew from what it holds."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _own(field: str) -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
