"""What setuptools adds to a wheel of ours: kernels compiled ahead, and the platform's name. All else: pyproject.toml.

An editable installation has no kernels; there Numba compiles what changes (the extra jit). MIAOTUI_BUILD_MACHINE
builds for another machine than this one; "none": a wheel for any, without kernels.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: Machines that kernels are compiled for: `runtime/cpu/levels.py`.
MACHINES = ("x86_64", "aarch64")


def machine() -> str | None:
    """The machine that the wheel is for; None: one without compiled kernels."""
    asked = os.environ.get("MIAOTUI_BUILD_MACHINE")
    if asked:
        return None if asked == "none" else asked
    found = platform.machine() if platform.system() == "Linux" else ""
    return found if found in MACHINES else None


class WithKernels(build_py):  # type: ignore[misc]  # setuptools has no types
    """Modules, and libraries of kernels next to those that open them."""

    def run(self) -> None:
        """Copy, and compile."""
        super().run()
        found = machine()
        if self.editable_mode:
            return
        folder = Path(self.build_lib).resolve() / "miaotui" / "runtime" / "cpu" / "compiled"
        shutil.rmtree(folder, ignore_errors=True)  # perhaps an earlier build's, for another machine
        if found is None:
            return
        with tempfile.TemporaryDirectory() as made:
            (Path(made) / "miaotui").symlink_to(ROOT, target_is_directory=True)  # the root's folder may have any name
            search = os.pathsep.join([made, *sys.path])
            subprocess.run(  # noqa: S603 - our own module, in the interpreter that builds
                [sys.executable, "-m", "miaotui.tools.kernels", folder, found],
                env=os.environ | {"PYTHONPATH": search}, cwd=made, check=True,
            )  # fmt: skip

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Every module but this file, which lies in the package's folder and is none of it."""
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if Path(module[2]).resolve() != ROOT / "setup.py"]


class ForPlatform(bdist_wheel):  # type: ignore[misc]  # as above
    """A wheel for any Python on one kind of machine: its libraries call nothing but a few functions of any libc."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI, platform."""
        found = machine()
        return ("py3", "none", "any" if found is None else f"manylinux_2_17_{found}")


setup(cmdclass={"build_py": WithKernels, "bdist_wheel": ForPlatform})
