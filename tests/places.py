"""Where a package is run besides site-packages: an archive, a machine that lets nothing be written, a wheel of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ALONE", "ROOT", "archive", "can_lock", "locked", "story", "wheel"]

ROOT = Path(__file__).resolve().parent.parent
#: Python: no module of a compiler can be found from here on.
ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
#: bash: every file system is read-only but that of a folder, where nothing may be executed; nobody knows who runs.
_LOCK = """
set -e
mount --make-rprivate /
while read -r _ at _ how _; do
    case $at,$how in
    /proc,*) ;; # unshare below writes there
    *,rw*) mount -o remount,bind,ro "$at" 2>/dev/null || true ;;
    esac
done </proc/self/mounts
mount -t tmpfs -o "$2",size=128m tmpfs "$1"
shift 2
exec unshare --map-user=12345 --map-group=12345 "$@"
"""


@cache
def can_lock() -> bool:
    """Whether this machine lets us make file systems of our own."""
    trial = ["unshare", "-r", "-m", "unshare", "--map-user=12345", "--map-group=12345", "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(trial, capture_output=True, check=False).returncode


def locked(
    command: Sequence[str | Path], spare: Path, *, how: str = "noexec", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing can be written but in `spare`, without HOME, by a user that the system does not know.

    `how`: that file system's options.
    """
    spare.mkdir(exist_ok=True)
    here = {"PATH": os.environ["PATH"], "TMPDIR": str(spare)}
    words = ["unshare", "-r", "-m", "bash", "-c", _LOCK, "lock", spare, how, *command]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=here, cwd="/", timeout=timeout)


def archive(file: Path, begin: str = "") -> Path:
    """Write an application as `zipapp` makes one: the package with its story model, kernels compiled ahead.

    `begin`: Python that it begins with.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages: list[str] = project["tool"]["setuptools"]["packages"]
    folders = [ROOT.joinpath(*package.split(".")[1:]) for package in packages]
    files: Iterable[Path] = (path for folder in folders for path in folder.glob("*.py") if path.name != "setup.py")
    more = [path for folder in ("runtime/cpu/compiled", "tools/demo/model") for path in (ROOT / folder).iterdir()]
    with zipfile.ZipFile(file, "w") as packed:
        for path in (*files, *more):
            packed.write(path, Path("miaotui") / path.relative_to(ROOT))
        packed.writestr("__main__.py", f"{begin}\nimport runpy\nrunpy.run_module('miaotui', run_name='__main__')\n")
    return file


def wheel(folder: Path, machine: str, root: Path = ROOT) -> Path:
    """Build the package of a tree for a machine, as `pip wheel` does; the file."""
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(root)]
    here = os.environ | {"MIAOTUI_BUILD_MACHINE": machine, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def story() -> list[str]:
    """Words of the story that README.md says `miaotui generate` prints."""
    lines = iter((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    first = next(line for line in lines if line.startswith("> "))
    rest = list(iter(lines.__next__, ""))
    return " ".join(line.removeprefix("> ") for line in (first, *rest)).split()
