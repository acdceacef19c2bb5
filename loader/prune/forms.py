"""The short forms of a plan as the caller wrote them, and errors that name the one at fault in the caller's words."""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...errors import InputError, PlanError
from ..files import printable, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ENCODER", "FORMS", "OF_LAYERS", "Forms"]

#: Of one stack's layers; those of an encoder-decoder's encoder begin with `ENCODER`.
OF_LAYERS = ("keep_layers", "drop_layers", "drop_heads", "drop_attention", "drop_ffn", "ffn", "sparsity")
ENCODER = "encoder_"
FORMS = (
    *OF_LAYERS,
    *("drop_cross_heads", "drop_cross_attention", "drop_experts", "vocab", "vocab_fallback", "width", "only", "plan"),
    *(f"{ENCODER}{name}" for name in OF_LAYERS),
)
#: What an error begins with, a plan's field -> the forms that can have said it; a form's own name is its own.
_SAID_BY = {
    "layers": ("keep_layers", "drop_layers"),
    "heads": ("drop_heads", "drop_attention"),
    "cross_heads": ("drop_cross_heads", "drop_cross_attention"),
    "ffn": ("drop_ffn", "ffn"),
    "experts": ("drop_experts",),
    "ffn_ratio": ("ffn",),
    "width_ratio": ("width",),
}


class Forms(dict[str, Any]):
    """Form -> what was given for it. `spell(name, value)`: the same as the caller typed it, for errors."""

    def __init__(self, given: Mapping[str, Any], spell: Callable[[str, Any], str] | None = None) -> None:
        """Without `spell`: a dict, as Python writes it."""
        super().__init__(given)
        self._hyphens = spell is not None
        self._spell = spell or (lambda name, value: f"prune={{{name!r}: {quote(value)}}}")

    @classmethod
    def of_text(cls, text: str) -> Forms:
        """Split "keep-layers=0-2; ffn=0.75". PlanError: a form that is given twice."""
        forms = cls({}, lambda name, value: f'prune="{name.replace("_", "-")}={_bare(value)}"')
        for piece in text.split(";"):
            name, _, value = piece.partition("=")
            key = name.strip().replace("-", "_")
            if key in forms:
                msg = f"prune={quote(text)}: {quote(name.strip())} is given twice"
                raise PlanError(msg)
            forms[key] = value.strip()
        return forms

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Forms:
        """A plan's file, given by itself."""
        return cls({"plan": path}, lambda _, value: f'prune="{_bare(value)}"')

    def name_of(self, form: str) -> str:
        """A form as it may be typed where these were: with hyphens, but for a dict."""
        return form.replace("_", "-") if self._hyphens else form

    def said(self, *names: str) -> str:
        """These forms as they were typed."""
        said = (self._spell(name, self[name]) for name in names)
        return printable(" ".join(islice(said, 20)), 600)  # not all of a thousand

    def named(self, error: PlanError | InputError) -> PlanError | InputError:
        """The error, beginning with the form at fault; with all that were given, where none can be told."""
        text = str(error)
        for name, value in self.items():
            where = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
            for path in (f"{where}: ", f"{quote(where, 300)}: ") if where else ():
                if text.startswith(path):
                    return type(error)(f"{self.said(name)}: {text.removeprefix(path)}")
        match = re.match(r"(encoder\.)?(\w+)( of |: )(?:found [^;]*; )?", text)
        field, before = (match[2], ENCODER if match[1] else "") if match else ("", "")
        at_fault = [before + name for name in _SAID_BY.get(field, (field,)) if before + name in self]
        if field == "encoder":
            at_fault = [name for name in self if name.startswith(ENCODER)]
        if match is not None and at_fault and match[3] == ": ":
            text = text[match.end() :]
        return type(error)(f"{self.said(*(at_fault or self))}: {text}")


def _bare(value: object) -> str:
    """A text without its quotes; what cannot be printed is escaped."""
    return quote(str(value), 300)[1:-1]
