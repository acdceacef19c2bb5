"""A question about a state, and what is wrong with one that cannot be read: `POST /v1/systemone`'s JSON.

    {"type": "noul",   "instructions": any, "criteria": {"true": any, "false": any}}     both sides may be missing
    {"type": "choice", "instructions": any, "criteria": {option: description or null}}   2 to 255
    {"type": "score",  "instructions": any, "criteria": [level, ...]}                    2 to 10, the lowest first

What is `any` is a text, or an object or array, which is read as its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ...dataclass import dataclass
from ...errors import InputError, shown

__all__ = ["MOST_OPTIONS", "MOST_QUESTIONS", "Fault", "Kind", "Question", "RefusedError", "as_text", "questions_of"]

Kind = Literal["noul", "choice", "score"]
MOST_QUESTIONS, MOST_OPTIONS, MOST_LEVELS = 400, 255, 10
_FEWEST = 2


@dataclass(frozen=True)
class Question:
    """Of one `kind`: what is asked, and each option with its description ("" where it has none).

    Options are "true" and "false", in this order; a choice's names; or the levels' numbers, whose descriptions they
    are then.
    """

    kind: Kind
    instructions: str
    options: tuple[str, ...]
    descriptions: tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """What is wrong at a place of the request: the keys and numbers that lead there."""

    place: tuple[str | int, ...]
    message: str
    kind: str = "value_error"


class RefusedError(InputError):
    """Questions that cannot be read, with everything that is wrong with them."""

    def __init__(self, faults: list[Fault]) -> None:
        """At least one."""
        self.faults = faults
        super().__init__("; ".join(f"{'.'.join(map(str, f.place))}: {f.message}" for f in faults))


def as_text(value: object) -> str:
    """What the model reads: a text as it is, other JSON as its JSON, nothing for null. Errors: `InputError`."""
    if value is None:
        return ""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        msg = "the request is nested too deep"
        raise InputError(msg) from None


def questions_of(given: object) -> dict[str, Question]:
    """The questions by their names. Errors: `RefusedError`, with what is wrong with each."""
    if not isinstance(given, Mapping):
        raise RefusedError([Fault(("questions",), f"{shown(given, 80)} found, expected an object", "dict_type")])
    if not 1 <= len(given) <= MOST_QUESTIONS:
        kind = "too_short" if not given else "too_long"
        message = f"{len(given)} questions; expected 1 to {MOST_QUESTIONS}"
        raise RefusedError([Fault(("questions",), message, kind)])
    faults: list[Fault] = []
    read = {name: _question(name, value, faults) for name, value in given.items()}
    if faults:
        raise RefusedError(faults)
    return {name: question for name, question in read.items() if question is not None}


def _question(name: str, given: object, faults: list[Fault]) -> Question | None:
    """None where `faults` tells why."""
    place = ("questions", name)
    if not name:
        faults.append(Fault(place, "a question's name is empty; expected a text", "string_too_short"))
        return None
    if not isinstance(given, Mapping):
        faults.append(Fault(place, f"{shown(given, 80)} found, expected an object", "dict_type"))
        return None
    kind = next((kind for kind in get_args(Kind) if kind == given.get("type")), None)
    if kind is None:
        found = "is missing" if "type" not in given else f"is {shown(given['type'], 80)}"
        message = f"type {found}; expected one of {', '.join(get_args(Kind))}"
        faults.append(Fault((*place, "type"), message, "union_tag_invalid"))
        return None
    before = len(faults)
    unknown = sorted(str(key) for key in given.keys() - {"type", "instructions", "criteria"})
    faults += [Fault((*place, key), "unknown field; leave it out", "extra_forbidden") for key in unknown]
    instructions, criteria = given.get("instructions"), given.get("criteria")
    _check_text(instructions, (*place, "instructions"), faults)
    named = _READ[kind](criteria, (*place, "criteria"), faults)
    if len(faults) > before:
        return None
    return Question(kind, as_text(instructions), tuple(named), tuple(map(as_text, named.values())))


def _check_text(value: object, place: tuple[str | int, ...], faults: list[Fault], *, null: bool = True) -> None:
    if not (isinstance(value, str | list | Mapping) or (null and value is None)):
        message = f"{shown(value, 80)} found, expected a text, an object or an array"
        faults.append(Fault(place, message, "string_type"))


def _noul(criteria: object, place: tuple[str | int, ...], faults: list[Fault]) -> dict[str, Any]:
    if criteria is not None and not (isinstance(criteria, Mapping) and criteria.keys() <= {"true", "false"}):
        message = f"{shown(criteria, 80)} found, expected an object with true, false, or both"
        faults.append(Fault(place, message, "dict_type"))
        return {}
    sides = {side: (criteria or {}).get(side) for side in ("true", "false")}
    for side, value in sides.items():
        _check_text(value, (*place, side), faults)
    return sides


def _choice(criteria: object, place: tuple[str | int, ...], faults: list[Fault]) -> dict[str, Any]:
    if not isinstance(criteria, Mapping):
        kind = "missing" if criteria is None else "dict_type"
        message = f"{shown(criteria, 80)} found, expected an object of options and their descriptions"
        faults.append(Fault(place, message, kind))
        return {}
    _check_count(len(criteria), MOST_OPTIONS, "options", place, faults)
    for option, value in criteria.items():
        _check_text(value, (*place, option), faults)
    return dict(criteria)


def _score(criteria: object, place: tuple[str | int, ...], faults: list[Fault]) -> dict[str, Any]:
    if not isinstance(criteria, list):
        kind = "missing" if criteria is None else "list_type"
        faults.append(Fault(place, f"{shown(criteria, 80)} found, expected an array of levels", kind))
        return {}
    _check_count(len(criteria), MOST_LEVELS, "levels", place, faults)
    for i, level in enumerate(criteria):
        _check_text(level, (*place, i), faults, null=False)
    return {str(i): level for i, level in enumerate(criteria)}


def _check_count(n: int, most: int, what: str, place: tuple[str | int, ...], faults: list[Fault]) -> None:
    if not _FEWEST <= n <= most:
        kind = "too_short" if n < _FEWEST else "too_long"
        faults.append(Fault(place, f"{n} {what}; expected {_FEWEST} to {most}", kind))


_READ = {"noul": _noul, "choice": _choice, "score": _score}
