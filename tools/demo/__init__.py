"""The included models: a small Llama of our own, small models for tasks, and the recipes (README.md in this folder)."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError

__all__ = ["NAMES", "path"]

#: The models; `path` finds them.
NAMES = ("story", "sentiment", "entities", "dates", "chat")


def path(name: str = "story") -> Path:
    """Directory of a demo model, a Hugging Face checkpoint like any other. Errors: `InputError`."""
    here = Path(__file__).resolve().parent
    if name == "story":
        return here / "model"
    if name not in NAMES:
        msg = f"there is no demo model {name!r}; expected one of {', '.join(NAMES)}"
        raise InputError(msg)
    return here / "models" / name
