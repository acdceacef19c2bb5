"""The classes of a file as the model calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InputError
from ...loader.files import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .examples import Labelled

__all__ = ["as_the_model_s"]


def as_the_model_s(
    examples: Iterable[Labelled], labels: Sequence[str], chosen: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Each class of the file -> the model's.

    `chosen` first; then the same name; the same but for capitals; and where no class of the file is one of the
    model's, whole numbers as the model's numbers, from 0. Errors: `InputError` where one is neither.
    """
    first: dict[str, str] = {}  # where each class comes first
    for example in examples:
        first.setdefault(example.label, example.place)
    chosen = dict(chosen or {})
    for mine, theirs in chosen.items():
        if theirs not in labels or mine not in first:
            what, known = (theirs, labels) if theirs not in labels else (mine, sorted(first))
            whose = "model" if theirs not in labels else "file"
            msg = f"--labels {mine}={theirs}: {quote(what)} is no class of the {whose}: {_listed(known)}"
            raise InputError(msg)
    small = {label.lower(): label for label in labels}
    small = small if len(small) == len(labels) else {}
    out = {mine: chosen.get(mine) or _named(mine, labels, small) for mine in first}
    if not any(out.values()) and all(_is_number(mine, len(labels)) for mine in first):
        out = {mine: labels[int(mine)] for mine in first}
    if missing := [mine for mine, theirs in out.items() if theirs is None]:
        msg = (
            f"{first[missing[0]]}: the class {quote(missing[0])} is none of the model's: {_listed(labels)}. "
            f"Say which it is: --labels {missing[0]}=CLASS"
        )
        raise InputError(msg)
    return {mine: theirs for mine, theirs in out.items() if theirs is not None}


def _is_number(mine: str, n: int) -> bool:
    """Whether it is one of 0 .. n - 1; Python reads no more than 4300 digits."""
    return mine.isdecimal() and len(mine) <= 10 and int(mine) < n  # noqa: PLR2004 - more digits than classes have


def _named(mine: str, labels: Sequence[str], small: Mapping[str, str]) -> str | None:
    return mine if mine in labels else small.get(mine.lower())


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(quote, names[:most])) + more
