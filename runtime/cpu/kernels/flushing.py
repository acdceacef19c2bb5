"""The mode that sums of BF16 pairs take (`pairs.py`): set before them, set back before anything else is computed."""

from __future__ import annotations

from typing import Any

from ...ops import FAST, slots
from ..pairs import flush_mode, leave_flush_mode
from ..target import machine
from ..tiles import dot_tile
from .base import arg, template

__all__ = ["modes"]

Y, _, X, W, _, _, _, DN, DK, _ = slots("linear")


@template
def _usual() -> Any:
    return 0


@template
def _still_usual(_: Any) -> Any:
    return 0


@template
def _begun() -> Any:
    return flush_mode()


@template
def _ended(mode: Any) -> Any:
    return leave_flush_mode(mode)


@template
def _never_again(_1: Any, _2: Any, _3: Any, _4: Any, _5: Any, _6: Any) -> None:
    return


def _carefully() -> Any:
    """Make sums again by steps that look at what they flush: one token and row at a time, with the same bits."""
    rows = dot_tile(1, FAST, careful=True)

    @template
    def again(p: Any, base: Any, m0: Any, m1: Any, n0: Any, n1: Any) -> None:
        n_all, k = arg(p, DN), arg(p, DK)
        w, x, y = arg(p, W) + n0 * k * 2, base + arg(p, X), base + arg(p, Y) + 4 * n0
        mode = flush_mode()
        for m in range(m0, m1):
            rows(w, 0, x + m * ((k + 31) // 32 * 64), k, y + 4 * m * n_all, 0, n1 - n0)
        leave_flush_mode(mode)

    return again


_again = _carefully() if machine() == "aarch64" else _never_again


def modes(*, fast: bool) -> tuple[Any, Any, Any]:
    """What the body of a product calls: `begin()` and `end(mode)` around its sums, and `again`.

    `again(p, base, m0, m1, n0, n1)` makes those of tokens m0 to m1 and rows n0 to n1 again where `end` returned not 0.
    """
    return (_begun, _ended, _again) if fast else (_usual, _still_usual, _never_again)
