"""How many threads this process may use."""

from __future__ import annotations

import os

__all__ = ["available_threads"]


def available_threads() -> int:
    """Cores this process may use: affinity and the control group's quota."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as f:  # noqa: PTH123 (a kernel file, read once)
            quota, period = f.read().split()
        if quota != "max":
            n = min(n, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        return n
    return n
