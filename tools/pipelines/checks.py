"""Values of parameters that several tasks check alike."""

from __future__ import annotations

from ...errors import InputError, shown

__all__ = ["whole_number"]


def whole_number(name: str, value: object, *, least: int = 1, of: str = "results") -> int:
    """The value. Errors: `InputError` for what is no whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{name}={shown(value)}: expected a whole number of {of}, at least {least}"
        raise InputError(msg)
    return value
