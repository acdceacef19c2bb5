"""JSON from outside: a request's body, and the objects that it has as texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from .errors import RequestError
from .fields import key_of, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEEPEST", "parse_json", "parse_object"]

#: Lists and objects in one another, at most: a schema of the deepest that are taken has two for each of its levels.
DEEPEST = 420
#: Characters of a value's place that are told.
_PLACE = 400


def parse_json(data: bytes) -> dict[str, Any]:
    """A body as an object. Errors: `RequestError`, which names the field where it is known.

    No key may stand twice in an object: what checked the body before it came here may have read the other one.
    """
    odd: list[_Odd] = []

    def constant(name: str) -> _Odd:
        odd.append(_Odd(f"{name} is no JSON number"))
        return odd[-1]

    def pairs(given: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(given)
        if len(made) < len(given):
            seen = set[str]()
            twice = next(name for name, _ in given if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            odd.append(_Odd("this key stands twice in its object; send it once"))
            made[twice] = odd[-1]
        return made

    try:
        body = json.loads(data.decode("utf-8"), parse_constant=constant, object_pairs_hook=pairs)
    except UnicodeDecodeError as e:
        msg = f"the body is not UTF-8 at byte {e.start}; send JSON"
        raise RequestError(msg, code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as e:
        msg = f"the body is not JSON: {str(e)[:200]}"
        raise RequestError(msg, code="invalid_json") from None
    if odd or (data.count(b"[") + data.count(b"{") > DEEPEST and _is_deep(body)):
        _check_parsed(body)
    if not isinstance(body, dict):
        msg = f"the body is {kind_of(body)}, expected a JSON object"
        raise RequestError(msg, code="invalid_json")
    return body


@dataclass(frozen=True)
class _Odd:
    """What stands for a value that is none; `why` it is not."""

    why: str


def parse_object(text: str) -> dict[str, Any] | None:
    """An object that a request has as a text, as arguments of calls; None where it is none. Of equal keys the last."""
    try:
        made = json.loads(text, parse_constant=_Odd)
        _check_parsed(made)
    except (ValueError, RecursionError, RequestError):
        return None
    return made if isinstance(made, dict) else None


def _is_deep(body: object) -> bool:
    """Whether more than `DEEPEST` lists and objects lie in one another; level by level, which is soon done."""
    level, depth = [body], 0
    while level and depth <= DEEPEST:
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, list | dict)]
        level = [each for some in inside for each in some if isinstance(each, list | dict)]
        depth += 1
    return bool(level)


def _check_parsed(body: object) -> None:
    """Errors: `RequestError`: too deep, or a value that is none, with its place; the first as they stand."""
    keys: list[str | int] = []  # of what is looked into, but for the body itself
    inside = [iter([("", body)])]
    while inside:
        for key, value in inside[-1]:
            if isinstance(value, _Odd):
                at = _place([*keys, key][1:])
                msg = f"{at or 'the body'}: {value.why}"
                raise RequestError(msg, param=at or None, code="invalid_json")
            if isinstance(value, list | dict):
                if len(keys) > DEEPEST:
                    raise _too_deep(_place(keys[1:2]))
                keys.append(key)
                inside.append(iter(value.items()) if isinstance(value, dict) else enumerate(value))  # type: ignore[arg-type]
                break
        else:
            inside.pop()
            keys = keys[:-1]


def _place(keys: Iterable[str | int]) -> str:
    """Where a value stands, as `read` tells it."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key_of(key)}" for key in keys).removeprefix(".")[:_PLACE]


def _too_deep(param: str = "") -> RequestError:
    msg = f"{param or 'the body'}: more than {DEEPEST} lists and objects in one another; send it flatter"
    return RequestError(msg, param=param or None, code="invalid_json")
