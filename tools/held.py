"""What holds a model: its own, which it closes, or the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ..errors import InputError
from ..model import Model, load

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    from ..load_options import LoadKwargs

__all__ = ["Holder", "held"]


class Holder:
    """`model`, and whether it is closed with this (`owned`)."""

    def __init__(self, model: Model, *, owned: bool) -> None:
        """Nothing is loaded here; `held` loads."""
        self.model, self._owned = model, owned

    @property
    def device(self) -> str:
        """Where it computes, as torch writes it."""
        return "cuda:0" if self.model.device == "cuda" else "cpu"

    def close(self) -> None:
        """Close the model, if it was loaded here. Harmless when done twice."""
        if self._owned:
            self.model.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """The model."""
        return f"<miaotui.{type(self).__name__} of {self.model!r}>"


def held(given: str | Path | Model, **options: Unpack[LoadKwargs]) -> tuple[Model, bool]:
    """The model, and whether it was loaded here. Errors: `InputError` for options of one that is loaded; `load`'s."""
    if not isinstance(given, Model):
        return load(given, **options), True
    if options:
        msg = f"{next(iter(options))}: the model is loaded already; give its path, or leave the options of load out"
        raise InputError(msg)
    return given, False
