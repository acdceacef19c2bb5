"""What the ops of a Transformer mean, for other people's tests: `pip install 'miaotui[testing]'`, docs/oracle.md.

`reference`: each op on plain arrays in float64; `samplers`: how an id is chosen. `tolerance`: how far float32 may lie
from it, and why. `strategies`: what Hypothesis draws. `checkpoints`: tiny models of every family. `kernel`: the shipped
kernels on plain arrays. `conformance`: the ops against somebody else's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import checkpoints, reference, samplers, strategies, tolerance
    from .kernels import kernel
    from .tolerance import assert_close, bound

__all__ = ["assert_close", "bound", "checkpoints", "kernel", "reference", "samplers", "strategies", "tolerance"]

#: Functions, and the modules that they are in.
_WITHIN = {"assert_close": ".tolerance", "bound": ".tolerance", "kernel": ".kernels"}


def __getattr__(name: str) -> object:
    """Import what is asked for: Hypothesis for `strategies` alone."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    if name in _WITHIN:
        value: object = getattr(import_module(_WITHIN[name], __name__), name)
    else:
        value = import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
