"""A line of JSON for every request. It has no prompt and no answer, unless the settings ask for them."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass

if TYPE_CHECKING:
    from typing import TextIO

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LOG", "AccessLog", "log_to"]

LOG = logging.getLogger("miaotui.access")
#: Bytes of a body that are logged, where they are.
MOST = 1 << 16


class _Lines(logging.Formatter):
    """A line of JSON for every record."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == LOG.name:
            return record.getMessage()
        line = {"time": _now(), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to(stream: TextIO) -> None:
    """Write requests, and what goes wrong, to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    LOG.setLevel(logging.INFO)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True)
class AccessLog:
    """An ASGI application around another, which logs what it answers. `texts`: bodies too."""

    app: ASGIApp
    texts: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, n = time.monotonic(), 0, 0
        asked, said = bytearray(), bytearray()

        async def count(message: Message) -> None:
            nonlocal status, n
            if message["type"] == "http.response.start":
                status = message["status"]
            body = message.get("body", b"")
            n += len(body)
            if self.texts:
                said.extend(body[: MOST - len(said)])
            await send(message)

        async def listen() -> Message:
            message = await receive()
            if self.texts:
                asked.extend(message.get("body", b"")[: MOST - len(asked)])
            return message

        try:
            await self.app(scope, listen, count)
        finally:
            state: dict[str, Any] = scope.get("state", {})
            client = scope.get("client")
            line = {
                "time": _now(),
                "id": state.get("request_id"),
                "client": None if client is None else client[0],
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": state.get("status", status),
                "seconds": round(time.monotonic() - began, 4),
                "bytes": n,
                **_used(state),
            }
            if self.texts:
                line |= {"request": asked.decode("utf-8", "replace"), "response": said.decode("utf-8", "replace")}
            LOG.info("%s", json.dumps(line))


def _used(state: dict[str, Any]) -> dict[str, Any]:
    if "usage" not in state:
        return {}
    model, usage = state["usage"]
    return {
        "model": model, "prompt_tokens": usage.prompt, "cached_tokens": usage.cached,
        "completion_tokens": usage.completion,
    }  # fmt: skip
