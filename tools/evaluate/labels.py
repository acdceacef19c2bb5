"""The classes and the entities of a file as the model calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InputError
from ...loader.files import quote
from .tags import parted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .examples import Labelled, Tagged

__all__ = ["as_the_model_s", "entity_types"]


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
    out = _matched(sorted(first), labels, chosen or {}, "class")
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


def entity_types(
    examples: Iterable[Tagged], labels: Sequence[str], chosen: Mapping[str, str] | None = None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Each type of the file's entities -> the model's, and a note on those that the model lacks.

    `chosen` first; then the same name; the same but for capitals. Errors: `InputError` for a choice that neither has.
    """
    own = sorted({kind for prefix, kind in map(parted, labels) if prefix != "O"})
    mine = sorted({kind for example in examples for kind, _, _ in example.entities})
    out = _matched(mine, own, chosen or {}, "type of entity")
    lacking = [kind for kind in mine if out[kind] is None]
    names = {kind: theirs for kind, theirs in out.items() if theirs is not None}
    if not lacking:
        return names, ()
    whose = f"the model finds {_listed(own)}, and the file has {_listed(lacking)} too, which it cannot get right"
    return names, (f"{whose}. Where one is another by name: --labels {lacking[0]}={(own or ['TYPE'])[0]}",)


def _matched(mine: Sequence[str], theirs: Sequence[str], chosen: Mapping[str, str], what: str) -> dict[str, str | None]:
    """The model's name of each of the file's; None where there is none. Errors: `InputError`."""
    for name, other in chosen.items():
        if other not in theirs or name not in mine:
            wrong, known = (other, theirs) if other not in theirs else (name, mine)
            whose = "model" if other not in theirs else "file"
            msg = f"--labels {name}={other}: {quote(wrong)} is no {what} of the {whose}: {_listed(known)}"
            raise InputError(msg)
    small = {name.lower(): name for name in theirs}
    small = small if len(small) == len(theirs) else {}
    return {name: chosen.get(name) or (name if name in theirs else small.get(name.lower())) for name in mine}


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(quote, names[:most])) + more
