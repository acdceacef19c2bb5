"""What a response is made of, and the events that tell it as it grows: items, one after the other."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from .conversations import thoughts_of
from .events import Event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from .answers import Answering, Finish

__all__ = ["Items", "response_events"]

#: The kind of an item -> the prefix of its id, and the type of the one part that it has.
_KINDS = {"reasoning": ("rs", "reasoning_text"), "message": ("msg", "output_text"), "function_call": ("fc", "")}


class Items:
    """Deltas to items, and to events of them. Items follow one another as the model wrote them."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self.done: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._text = ""

    def add(self, reasoning: str, content: str, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What was said."""
        made: list[dict[str, Any]] = []
        if reasoning:
            made += self._said("reasoning", reasoning, "response.reasoning_text.delta")
        if content:
            made += self._said("message", content, "response.output_text.delta")
        for call in calls:
            made += [*self.close(), *self._called(call)]
        return made

    def _said(self, kind: str, text: str, event: str) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        if self._open is None or self._open["type"] != kind:
            made += [*self.close(), *self._begin(kind)]
        self._text += text
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return [*made, self._told(event, content_index=0, delta=text, **more)]

    def _begin(self, kind: str) -> list[dict[str, Any]]:
        self._text = ""
        own: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        item = {"id": _id(kind), "type": kind, **own, "content": [], "status": "in_progress"}
        self._open = item
        added = self._told("response.output_item.added", item=dict(item))
        return [added, self._told("response.content_part.added", content_index=0, part=_part(kind, ""))]

    def _called(self, call: Mapping[str, Any]) -> list[dict[str, Any]]:
        function = call["function"]
        own = {"call_id": call["id"], "name": function["name"]}
        item = {"id": _id("function_call"), "type": "function_call", **own, "arguments": "", "status": "in_progress"}
        self._open = item
        whole = {**item, "arguments": function["arguments"], "status": "completed"}
        told = [
            self._told("response.output_item.added", item=item),
            self._told("response.function_call_arguments.delta", delta=function["arguments"]),
            self._told("response.function_call_arguments.done", arguments=function["arguments"], name=function["name"]),
            self._told("response.output_item.done", item=whole),
        ]
        self._open = None
        self.done.append(whole)
        return told

    def close(self, finish: Finish = "stop") -> list[dict[str, Any]]:
        """End the item that is open; `finish`: why, where it is the last."""
        item = self._open
        if item is None:
            return []
        kind, text = item["type"], self._text
        part = _part(kind, text)
        status = "completed" if finish in {"stop", "tool_calls"} else "incomplete"
        whole = {**item, "content": [part], "status": status}
        event = "response.reasoning_text.done" if kind == "reasoning" else "response.output_text.done"
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        told = [
            self._told(event, content_index=0, text=text, **more),
            self._told("response.content_part.done", content_index=0, part=part),
            self._told("response.output_item.done", item=whole),
        ]
        self._open = None
        self.done.append(whole)
        return told

    def _told(self, kind: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        place = {"output_index": len(self.done)}
        own = {} if "item" in fields else {"item_id": (self._open or {})["id"]}
        return {"type": kind, **place, **own, **fields}

    def response(self, head: Mapping[str, Any], answering: Answering, finish: Finish) -> dict[str, Any]:
        """The whole response."""
        usage = answering.usage
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        incomplete = None if finish not in reasons else {"reason": reasons[finish]}
        told = {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": thoughts_of(answering.ask)},
            "total_tokens": usage.total,
        }
        status = "completed" if incomplete is None else "incomplete"
        return {**head, "status": status, "incomplete_details": incomplete, "output": self.done, "usage": told}


def _id(kind: str) -> str:
    return f"{_KINDS[kind][0]}_{uuid.uuid4().hex}"


def _part(kind: str, text: str) -> dict[str, Any]:
    made: dict[str, Any] = {"type": _KINDS[kind][1], "text": text}
    return made | ({"annotations": [], "logprobs": []} if kind == "message" else {})


async def response_events(head: dict[str, Any], answering: Answering) -> AsyncIterator[Event]:
    """A stream, each event with its number."""
    items, number = Items(), 0

    def numbered(told: Mapping[str, Any]) -> Event:
        nonlocal number
        number += 1
        return Event({**told, "sequence_number": number - 1}, told["type"])

    begun = {**head, "status": "in_progress", "output": [], "usage": None}
    yield numbered({"type": "response.created", "response": begun})
    yield numbered({"type": "response.in_progress", "response": begun})
    finish: Finish = "stop"
    async for piece in answering.pieces():
        finish = piece.finish or finish
        for delta in piece.deltas:
            for told in items.add(delta.reasoning, delta.content, delta.tool_calls):
                yield numbered(told)
    for told in items.close(finish):
        yield numbered(told)
    whole = items.response(head, answering, finish)
    yield numbered({"type": f"response.{whole['status']}", "response": whole})
