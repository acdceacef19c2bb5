"""The included model: a small Llama of our own, and the recipe that makes it (README.md in this folder)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """Directory of the demo model, a Hugging Face checkpoint like any other."""
    return Path(__file__).resolve().parent / "model"
