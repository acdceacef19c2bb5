"""How many threads this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["available_threads"]

#: Where /proc and /sys lie; tests have trees of their own.
ROOT = Path("/")


def available_threads() -> int:
    """Cores this process may use: its affinity, and the quota of its control group and of every group above it."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([n, *(max(1, int(quota)) for quota in _quotas())])


def _quotas() -> Iterator[float]:
    """How many cores each group allows: cgroup v2's cpu.max, or v1's cpu.cfs_quota_us. Source: cgroups(7)."""
    for mount, folder, unified in _folders():
        for group in (folder, *folder.parents):
            try:
                if unified:
                    quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
                else:
                    quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii")
                    period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
                if quota != "max" and int(quota) > 0 and int(period) > 0:
                    yield int(quota) / int(period)
            except (OSError, ValueError):  # no such file in this group: no quota
                pass
            if group == mount:
                break


def _folders() -> Iterator[tuple[Path, Path, bool]]:
    """Mount point, this process's own group below it, and whether it is version 2; of hierarchies that count time."""
    groups = [line.split(":", 2) for line in _lines("proc/self/cgroup")]
    mounts = list(_mounts())
    for number, controllers, path in (group for group in groups if len(group) == 3):  # noqa: PLR2004 - by format
        unified = number == "0" and not controllers
        if not unified and "cpu" not in controllers.split(","):
            continue
        for mount, root, kind, options in mounts:
            if kind == ("cgroup2" if unified else "cgroup") and (unified or "cpu" in options):
                # a container sees its own group as the mount's root, and itself by the host's name
                below = os.path.relpath(path, root) if path.startswith(root) else "."
                yield mount, mount if below.startswith("..") else mount / below, unified


def _mounts() -> Iterator[tuple[Path, str, str, list[str]]]:
    """Mount point, the root of what is mounted, file system, and its options. Source: proc_pid_mountinfo(5)."""
    for line in _lines("proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) > 4 and len(kinds) > 2:  # noqa: PLR2004 - by format
            yield ROOT / fields[4].lstrip("/"), fields[3], kinds[0], kinds[2].split(",")


def _lines(name: str) -> list[str]:
    try:
        return (ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system, or /proc is not there
        return []
