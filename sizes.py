"""Sizes and counts, as people write and read them: "500MB", "2GiB", "1 layer"."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["counted", "format_bytes", "parse_size"]

_UNITS = {"": 1, "B": 1, **{f"{p}iB": 2 ** (10 * n) for n, p in enumerate("KMGT", 1)}}
_UNITS |= {f"{p}B": 10 ** (3 * n) for n, p in enumerate("KMGT", 1)} | {"kB": 1000}


def parse_size(text: str) -> int:
    """Read bytes: "1048576", "500MB" (powers of ten), "1.5GiB" (powers of two). Errors: `ValueError`, with the text."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in _UNITS:
        msg = f"{text!r} is not a size; expected for instance 1048576, 500MB or 2GiB"
        raise ValueError(msg)
    return int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]


def format_bytes(n: int) -> str:
    """Write bytes for people: "640 B", "1.2 MiB"."""
    value, unit = float(n), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:  # noqa: PLR2004 - four digits are read as the next unit
            break
        value, unit = value / 1024, larger
    return f"{n} B" if unit == "B" else f"{value:.1f} {unit}"


def counted(n: int | Literal["no"], what: str) -> str:
    """Write a number of things: "1 layer", "2 layers", "no layers"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
