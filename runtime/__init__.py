"""The package that knows arrays, never files: op table, forward, program, arena, interpreters, sampling."""

from __future__ import annotations

if __name__ == "runtime":
    msg = "import miaotui.runtime, not runtime: the repository root is the package miaotui (pip install -e .)"
    raise ImportError(msg)
