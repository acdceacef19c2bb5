"""Server-sent events, and JSON as bytes."""

from __future__ import annotations

import json

from ...dataclass import dataclass

__all__ = ["DONE", "Event", "as_bytes", "to_json"]


@dataclass(frozen=True)
class Event:
    """One event: its data, and its name where the wire format has names."""

    data: object
    name: str | None = None


#: What OpenAI's streams end with.
DONE = b"data: [DONE]\n\n"


def to_json(value: object) -> bytes:
    """Compact JSON. Half a surrogate pair, which no text of ours has, would be written as its escape."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def as_bytes(event: Event) -> bytes:
    """As it is sent. JSON has no newline, so the data is one line."""
    name = b"" if event.name is None else f"event: {event.name}\n".encode()
    return name + b"data: " + to_json(event.data) + b"\n\n"
