"""For PyInstaller, which finds it by an entry point: what a frozen application with this package must hold."""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Folders of hooks. Source: PyInstaller's manual, "Providing PyInstaller Hooks with your Package"."""
    return [str(Path(__file__).parent)]
