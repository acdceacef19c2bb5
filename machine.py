"""What this machine is, and what it has free: for records, profiles, and what is picked by prediction."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runtime.cores import available_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["free_memory", "left_in_groups", "machine", "versions"]

#: Where /proc and /sys lie; tests have trees of their own.
ROOT = Path("/")
#: No machine has as many bytes of memory; what cgroup v1 tells of a group without a limit is above it.
NO_LIMIT = 1 << 60
#: the instruction sets that matter to the kernels, as Linux names them
FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "fphp", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)


def machine() -> dict[str, Any]:
    """Say what this machine is: processor, cores, the features that matter, memory, system. No name, no path."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "arch": platform.machine(),
        "cores": available_threads(),
        "features": [name for name in FEATURES if name in flags],
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def versions() -> dict[str, str]:
    """Give the versions of what computes: Python, miaotui, numpy, numba, llvmlite."""
    from importlib import metadata  # noqa: PLC0415 - 40 modules that a start does without

    table = {"python": platform.python_version()}
    for name in ("miaotui", "numpy", "numba", "llvmlite"):
        try:
            table[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            table[name] = "not installed"
    return table


def free_memory() -> int | None:
    """Bytes that this process may still take without swapping; None where the system does not say.

    The least of Linux's MemAvailable and of what the process's control group, and each group above it, has left; a
    group's file cache that is not in use counts as free. Source: proc_meminfo(5), cgroups(7).
    """
    left = [there for there in (left_in_groups(),) if there is not None]
    for line in _text("proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1]:
            left.append(int(value.split()[0]) * 1024)
    return min(left, default=None)


def left_in_groups() -> int | None:
    """Bytes that this process may still take before a control group's limit kills it; None where none has a limit.

    v1 writes a huge number, more than any machine has, where there is no limit.
    """
    return min((left for left in _left_in_groups() if left < NO_LIMIT), default=None)


def _left_in_groups() -> Iterator[int]:
    """What each group's limit leaves: cgroup v2's memory.max, or v1's memory.limit_in_bytes."""
    for line in _text("proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        unified = number == "0" and not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        mount = "sys/fs/cgroup" if unified else "sys/fs/cgroup/memory"
        names = ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        own = Path(path.lstrip("/"))
        for group in (own, *own.parents):
            limit, used = (_text(f"{mount}/{group}/{name}").strip() for name in names)
            if limit.isdigit() and used.isdigit():
                stat = dict(s.split(" ", 1) for s in _text(f"{mount}/{group}/memory.stat").splitlines() if " " in s)
                idle = stat.get("inactive_file", "0").strip()
                yield max(0, int(limit) - int(used) + (int(idle) if idle.isdigit() else 0))


def _text(name: str) -> str:
    try:
        return (ROOT / name).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # another system, or a group without a limit
        return ""
