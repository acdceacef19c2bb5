"""How many threads this process may use."""

from __future__ import annotations

import os

__all__ = ["CPU_MAX", "available_threads"]

#: Where Linux says how much of the CPU a process's control group may use: quota and period, in microseconds.
CPU_MAX = "/sys/fs/cgroup/cpu.max"


def available_threads() -> int:
    """Cores this process may use: affinity and the control group's quota."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open(CPU_MAX, encoding="ascii") as f:  # noqa: PTH123 (a kernel file, read once)
            quota, period = f.read().split()
        if quota != "max":
            n = min(n, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        return n
    return n
