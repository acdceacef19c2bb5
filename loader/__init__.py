"""The package that turns files into weights: header, checkpoint, hub, tokenizer, config, plan, pack.

It knows Hugging Face's spellings and file formats, and of the runtime only its records (`runtime.spec`).
"""

from __future__ import annotations

if __name__ == "loader":
    msg = "import miaotui.loader, not loader: the repository root is the package miaotui (pip install -e .)"
    raise ImportError(msg)
