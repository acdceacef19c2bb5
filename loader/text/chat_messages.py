"""What a chat template sees: plain data, made of the caller's messages, and the mark where a message goes on.

A template is code from outside, so nothing with methods of its own reaches it: messages, tools and documents are copied
into dicts, lists, texts and numbers, and what is none of these becomes a text such as "<ndarray>". Source: transformers
5.24, `_normalize_chat_messages`, `_plain_template_data`, `render_jinja_template`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, is_iterable, shown

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Messages", "as_documents", "as_messages", "cut_at_mark", "marked", "plain"]

Messages = Iterable[Mapping[str, Any]]

#: Where a final message that goes on ends, in the rendered text.
MARK = "CONTINUE_FINAL_MESSAGE_TAG "
#: Names of a message's reasoning; the first is the one that templates read.
_REASONING = ("reasoning_content", "thinking", "reasoning")
#: Deepest nesting of what is given.
_DEPTH = 200


def plain(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any value, and its like
    """A copy made of None, booleans, numbers, texts, lists, tuples and dicts. Errors: `InputError`: nested too deep."""
    if depth > _DEPTH:
        msg = f"messages: nested more than {_DEPTH} deep; give plainer data"
        raise InputError(msg)
    if value is None or type(value) in {str, int, float, bool}:
        return value
    for kind, make in _BARE:
        if isinstance(value, kind):
            return make(value)
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [plain(item, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.generic):
        return plain(value.item(), depth + 1)
    fields = _fields(value)
    return f"<{type(value).__name__}>" if fields is None else plain(fields, depth + 1)


#: Subclasses may have methods of their own: an enum's member, NumPy's float64.
_BARE: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, str.__str__), (int, int.__int__), (float, float.__float__),
)  # fmt: skip


def _fields(value: object) -> object | None:
    """A dataclass's fields, or a pydantic model's; None of anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else None


def as_messages(messages: object) -> list[dict[str, Any]]:
    """Messages as plain dicts, without keys whose value is None. Errors: `InputError`."""
    expected = "expected a list of messages such as {'role': 'user', 'content': 'Hello'}"
    if isinstance(messages, str | bytes | Mapping) or not is_iterable(messages):
        msg = f"messages: {shown(messages)} found, {expected}"
        raise InputError(msg)
    made = []
    for i, message in enumerate(messages):
        if isinstance(message, list | tuple):
            msg = f"messages: several conversations found; {expected}, and give each conversation by itself"
            raise InputError(msg)
        data = plain(message)
        if not isinstance(data, dict):
            msg = f"messages: number {i} (counted from 0) is {shown(message)}; {expected}"
            raise InputError(msg)
        made.append(_with_reasoning({key: value for key, value in data.items() if value is not None}))
    if not made:
        msg = f"messages: none was given; {expected}"
        raise InputError(msg)
    return made


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under the names that templates read, whichever it was given under."""
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def as_documents(documents: object) -> Any:  # noqa: ANN401 - plain data
    """Documents as plain dicts, or None. Errors: `InputError`."""
    if documents is None:
        return None
    made = plain(documents)
    if not isinstance(made, list | tuple) or not all(isinstance(document, dict) for document in made):
        msg = f"documents: {shown(documents)} found, expected a list of dicts such as {{'title': ..., 'text': ...}}"
        raise InputError(msg)
    return made


def marked(messages: list[dict[str, Any]], name: str, template: str) -> str:
    """Put the mark after the last message's field `name`, which is to go on; its text without it.

    Errors: `InputError`: there is no such text, or the template reads no such field.
    """
    last = messages[-1]
    value = last.get(name)
    fields = [key for key in _REASONING if last.get(key) == value] if name in _REASONING else [name]
    if value is None or not any(field in template for field in fields):
        what = "the last message has no" if value is None else "the chat template reads no"
        msg = f"continue_final_message: {what} {name!r} that could go on"
        raise InputError(msg)
    if isinstance(value, list | tuple):
        block = next((b for b in reversed(value) if isinstance(b, dict) and isinstance(b.get("text"), str)), None)
        if block is None:
            msg = f"continue_final_message: the last message's {name!r} has no text that could go on"
            raise InputError(msg)
        text: str = block["text"]
        block["text"] = text + MARK
        return text
    if not isinstance(value, str):
        msg = f"continue_final_message: the last message's {name!r} is {shown(value)}, expected a text"
        raise InputError(msg)
    last.update(dict.fromkeys(fields, value + MARK))
    return value


def cut_at_mark(text: str, last: str) -> str:
    """A rendered text up to where its last message's text ends. Errors: `InputError`: the template changed it."""
    at = text.rfind(MARK.strip())
    if at < 0 or last.strip() not in text:
        msg = "continue_final_message: the chat template drops or changes the last message, so it cannot go on"
        raise InputError(msg)
    whole = text.startswith(MARK, at)
    return text[:at] if whole else text[:at].rstrip()  # the template strips messages
