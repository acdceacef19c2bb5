"""Warnings as of the caller's own line, wherever in the package they come up."""

from __future__ import annotations

import sys
import warnings

from .errors import MiaotuiWarning

__all__ = ["warn"]

#: Modules that may lie between a caller's line and the place that warns.
_OURS = {__name__.partition(".")[0], "contextlib", "tqdm"}


def warn(message: str) -> None:
    """Warn as of the nearest line outside of this package: it is the caller's, and so is what it is about."""
    depth, frame = 2, sys._getframe(1)  # noqa: SLF001 - skip_file_prefixes comes with Python 3.12
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, MiaotuiWarning, stacklevel=depth)
