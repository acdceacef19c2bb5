"""The one tolerance function, which `miaotui.testing` publishes."""

from __future__ import annotations

from miaotui.testing.tolerance import STEPS, U_BF16, U, bound

__all__ = ["STEPS", "U_BF16", "U", "bound"]
