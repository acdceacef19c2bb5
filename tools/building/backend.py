"""The build backend: setuptools', which asks for a linker from PyPI where the system has none."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING, Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

#: Numba compiles the kernels; an editable installation, which has none compiled ahead, does without it.
COMPILER = "numba>=0.61,<0.70"
LINKER = "ziglang>=0.13"


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    """What building a wheel needs besides setuptools."""
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    if platform.system() != "Linux":
        return needed
    found = any(shutil.which(name) for name in ("ld", "ld.lld"))
    return [*needed, COMPILER, *([] if found else [LINKER])]
