"""A server in this process, and a client of it: an ASGI application is called as a server would call it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from miaotui.tools.server.app import make_app
from miaotui.tools.server.served import Served
from miaotui.tools.server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from miaotui.model import Model
    from miaotui.tools.server.security import Keys

__all__ = ["Client", "Reply", "asked", "on_loopback"]


@dataclass
class Reply:
    """What came back so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    ended: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of the events of a stream, but the last, which must be [DONE]."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert lines[-1] == "data: [DONE]", lines[-1]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    @property
    def error(self) -> dict[str, Any]:
        """What is wrong."""
        told: dict[str, Any] = self.json["error"]
        assert sorted(told) == ["code", "message", "param", "type"]
        return told


class Client:
    """Of one application. `hold`: a client that reads nothing until it is set; `gone`: one that goes away then."""

    def __init__(
        self, models: Mapping[str, Model], settings: Settings | None = None, keys: Keys | None = None, **adapters: Any
    ) -> None:
        """`adapters`: name -> (the model's name, the adapter's)."""
        self.app, self.state = make_app(Served(models, adapters), settings or Settings(), keys)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        reply: Reply | None = None,
        gone: asyncio.Event | None = None,
        hold: asyncio.Event | None = None,
    ) -> Reply:
        """Send a request: JSON, or bytes as they are; wait for the answer's end."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        reply, inbox = Reply() if reply is None else reply, [data]
        place, _, query = path.partition("?")
        sent = {"host": "localhost", "content-length": str(len(data)), **(headers or {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": place, "raw_path": place.encode(), "query_string": query.encode(), "root_path": "",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
            "headers": [(k.encode(), v.encode()) for k, v in sent.items()],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            if inbox:
                return {"type": "http.request", "body": inbox.pop(), "more_body": False}
            await (asyncio.Event() if gone is None else gone).wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
                return
            reply.parts.append(message.get("body", b""))
            reply.body += reply.parts[-1]
            reply.begun.set()
            reply.ended = not message.get("more_body", False)
            if hold is not None:
                await hold.wait()

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        return reply

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """In a loop of its own."""
        reply: Reply = asked(self.ask("GET", path, None, headers))
        return reply

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Reply:
        """In a loop of its own."""
        reply: Reply = asked(self.ask("POST", path, body, headers))
        return reply


def asked(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it, bounded in time."""
    return asyncio.run(asyncio.wait_for(work, 120))


@contextlib.contextmanager
def on_loopback(served: Served, settings: Settings | None = None, keys: Keys | None = None) -> Iterator[str]:
    """A server in a thread of this process, by its address: http://127.0.0.1:N."""
    from miaotui.tools.server.running import Server, listening, served_at

    made = listening("127.0.0.1", 0)
    app, state = make_app(served, settings, keys)
    server = Server(app, state)
    thread = threading.Thread(target=server.run_on, args=[made])
    thread.start()
    try:
        yield served_at(made)
    finally:
        server.should_exit = True
        thread.join(60)
        made.close()
    assert not thread.is_alive()
