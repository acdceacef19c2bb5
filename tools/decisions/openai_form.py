"""`POST /v1/decisions`, OpenAI's form of the same: a list of questions about an input, and answers in their order.

    predicate   {"instructions"}                                   -> {"probability"}
    choice      {"instructions", "choices": [{value, description}]} -> {"choice", "confidence", "probabilities"}
    score       {"instructions", "levels": [{label, description}]}  -> {"score", "confidence", "probabilities"}

Source: the types of openai 3.57, `types/decision_create_params.py` and `types/decision.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import shown
from . import answers
from .questions import MOST_LEVELS, MOST_OPTIONS, MOST_QUESTIONS, Fault, Question, RefusedError, as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Place = tuple[str | int, ...]

__all__ = ["Asked", "answer", "questions_of", "state_of"]

_FIELDS = {
    "predicate": {"type", "name", "instructions"},
    "choice": {"type", "name", "instructions", "choices"},
    "score": {"type", "name", "instructions", "levels"},
}
_TEXTS = ("input_text", "output_text")
_ROLES = ("user", "developer", "system", "assistant")
_FEWEST = 2


@dataclass(frozen=True)
class Asked:
    """A question, its name, and its options' values or labels as they were given."""

    question: Question
    name: str | None
    values: tuple[Any, ...] = ()


def _refuse(place: Place, message: str) -> RefusedError:
    return RefusedError([Fault(place, message)])


def state_of(given: object) -> str:
    """What every question is about: a text, or messages one after the other, each after its role.

    One user's message alone is its text. Errors: `RefusedError`.
    """
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given:
        raise _refuse(("input",), f"{shown(given, 80)} found, expected a text, or a list of messages")
    told = [_item(item, ("input", i)) for i, item in enumerate(given)]
    if len(told) == 1 and told[0][0] == "user":
        return told[0][1]
    return "\n\n".join(f"{who}: {text}" for who, text in told)


def _item(item: object, place: Place) -> tuple[str, str]:
    """Who says what."""
    if not isinstance(item, Mapping):
        raise _refuse(place, f"{shown(item, 80)} found, expected a message")
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in _ROLES:
            raise _refuse((*place, "role"), f"{shown(role, 80)} found, expected one of {', '.join(_ROLES)}")
        return str(role), _content(item.get("content"), (*place, "content"))
    if kind in ("function_call", "custom_tool_call"):
        key = "arguments" if kind == "function_call" else "input"
        name, said = item.get("name"), item.get(key)
        if not isinstance(name, str) or not isinstance(said, str):
            raise _refuse((*place, key), f"{shown(said, 80)} found, expected a text, and one in name")
        return f"assistant calls {name}", said
    if kind in ("function_call_output", "custom_tool_call_output"):
        return "tool", _content(item.get("output"), (*place, "output"))
    raise _refuse((*place, "type"), f"{shown(kind, 80)} found, expected message, a call or a call's output")


def _content(given: object, place: Place) -> str:
    """A text, or parts of one. Errors: `RefusedError`, for images too."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise _refuse(place, f"{shown(given, 80)} found, expected a text, or a list of parts")
    return "\n".join(_part(part, (*place, i)) for i, part in enumerate(given))


def _part(part: object, place: Place) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping):
        if kind in _TEXTS and isinstance(part.get("text"), str):
            return str(part["text"])
        if kind == "refusal" and isinstance(part.get("refusal"), str):
            return str(part["refusal"])
        if kind == "input_json" and isinstance(part.get("data"), Mapping | list):
            return as_text(part["data"])
    if kind == "input_image":
        raise _refuse(place, "images are not read; leave them out")
    raise _refuse(place, f"{shown(part, 80)} found, expected a part with text or JSON")


def questions_of(given: object) -> list[Asked]:
    """In their order. Errors: `RefusedError`."""
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_QUESTIONS:
        found = f"{len(given)} questions" if isinstance(given, list) else f"{shown(given, 80)} found"
        raise _refuse(("questions",), f"{found}; expected a list of 1 to {MOST_QUESTIONS}")
    return [_question(each, ("questions", i)) for i, each in enumerate(given)]


def _question(given: object, place: Place) -> Asked:
    kind = given.get("type") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(kind, str) or kind not in _FIELDS:
        what = f"type {shown(kind, 80)}" if isinstance(given, Mapping) else shown(given, 80)
        raise _refuse((*place, "type"), f"{what} found, expected one of {', '.join(_FIELDS)}")
    if unknown := sorted(str(key) for key in given.keys() - _FIELDS[kind]):
        raise _refuse((*place, unknown[0]), "unknown field; leave it out")
    name = given.get("name")
    if name is not None and not isinstance(name, str):
        raise _refuse((*place, "name"), f"{shown(name, 80)} found, expected a text")
    if "instructions" not in given:
        raise _refuse((*place, "instructions"), "is missing")
    said = _content(given["instructions"], (*place, "instructions"))
    if kind == "predicate":
        return Asked(Question("noul", said, ("true", "false"), ("", "")), name)
    if kind == "choice":
        values, told = _options(given.get("choices"), (*place, "choices"), "value", MOST_OPTIONS, _choice_value)
        texts = tuple(value if isinstance(value, str) else str(value).lower() for value in values)
        return Asked(Question("choice", said, texts, told), name, values)
    labels, told = _options(given.get("levels"), (*place, "levels"), "label", MOST_LEVELS, _label)
    numbers = tuple(str(i) for i in range(len(labels)))
    levels = tuple(f"{label}: {more}" if more else label for label, more in zip(labels, told, strict=True))
    return Asked(Question("score", said, numbers, levels), name, labels)


def _options(
    given: object, place: Place, key: str, most: int, check: Callable[[object], bool]
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Values or labels, and their descriptions."""
    if not isinstance(given, list) or not _FEWEST <= len(given) <= most:
        found = f"{len(given)} found" if isinstance(given, list) else f"{shown(given, 80)} found"
        raise _refuse(place, f"{found}, expected a list of {_FEWEST} to {most}")
    values, told = list[Any](), list[str]()
    for i, each in enumerate(given):
        if not isinstance(each, Mapping) or not check(each.get(key)) or each.keys() - {key, "description"}:
            raise _refuse((*place, i), f"{shown(each, 80)} found, expected {key} and, if it has one, description")
        more = each.get("description", "")
        if more is not None and not isinstance(more, str):
            raise _refuse((*place, i, "description"), f"{shown(more, 80)} found, expected a text")
        if any(value is each[key] or (type(value) is type(each[key]) and value == each[key]) for value in values):
            raise _refuse((*place, i, key), f"{shown(each[key], 80)} is there twice")
        values.append(each[key])
        told.append(more or "")
    return tuple(values), tuple(told)


def _choice_value(value: object) -> bool:
    return isinstance(value, str | bool)


def _label(value: object) -> bool:
    return isinstance(value, str)


def answer(asked: Asked, p: Sequence[float]) -> dict[str, Any]:
    """Of one question, by its options' probabilities."""
    if asked.question.kind == "noul":
        return {"type": "predicate", "name": asked.name, "probability": p[0]}
    if asked.question.kind == "choice":
        return {
            "type": "choice",
            "name": asked.name,
            "choice": asked.values[answers.best(p)],
            "confidence": answers.choice_confidence(p),
            "probabilities": [
                {"value": value, "probability": each} for value, each in zip(asked.values, p, strict=True)
            ],
        }
    return {
        "type": "score",
        "name": asked.name,
        "score": answers.expected(p),
        "confidence": answers.score_confidence(p),
        "probabilities": [
            {"label": label, "value": i, "probability": each}
            for i, (label, each) in enumerate(zip(asked.values, p, strict=True))
        ],
    }
