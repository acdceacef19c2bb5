"""A task on batches, for engines that hand columns or records to a class: Ray Data, Daft, and loops of your own.

    from miaotui.batch import Model

    label = Model("sentiment-analysis", workers=2)
    label({"id": [1, 2], "text": ["We liked it.", "We did not."]})   # the same columns, and "output"

A `Model` is cheap until it is called: a worker loads the weights at its first batch and keeps them, mapped from the
file, so that the workers of a machine share one copy. Pickled, before or after, it is its arguments alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tools.batch.model import Model

__all__ = ["Model"]


def __getattr__(name: str) -> object:
    """Import the class when it is first used, as the package does with its own names."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value: object = getattr(import_module(".tools.batch.model", __package__), name)
    globals()[name] = value
    return value
