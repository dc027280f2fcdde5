"""The clock of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]


def seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(calls: dict[str, Call], rounds: int, warm: int = 3) -> dict[str, float]:
    """The median seconds of each call, taken in turns so that all meet the same machine."""
    for call in calls.values():
        for _ in range(warm):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call))
    return {name: statistics.median(times) for name, times in taken.items()}
