"""The package that joins runtime and loader into what people run: command line, inspect, perplexity, bench, demo."""

from __future__ import annotations

if __name__ == "tools":
    msg = "import miaotui.tools, not tools: the repository root is the package miaotui (pip install -e .)"
    raise ImportError(msg)
