"""Settings of hypothesis under which a run repeats the last one."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings


def examples(count: int) -> Any:
    """The same examples in every run, so that a failure is one of the code."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=slow,
    )
