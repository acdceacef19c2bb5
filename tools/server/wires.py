"""An endpoint: a table of fields, a request to the engine's words, an answer to the wire's; the rest is here.

The rest: the body is read within its limits, the request is let in, prepared in a thread, and answered until it is
done, its client has gone, or its time is over. A new wire format is a `Wire` (or a `Work`, which generates nothing),
and a place in `app.WIRES`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.routing import Route

from ...dataclass import dataclass
from ...errors import shown
from .answers import Answering
from .errors import RequestError, openai_error, problem_of
from .events import DONE, Event, as_bytes, to_json
from .fields import names_of, read_fields
from .generating import check_answers
from .parsing import parse_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from starlette.types import Message, Receive, Scope, Send

    from .admission import Ticket
    from .answers import Answer, Ask
    from .errors import Problem
    from .fields import Field
    from .state import State

__all__ = ["GoneError", "Wire", "Work", "route_of"]

_LOG = logging.getLogger("miaotui.server")
#: Bytes of a body from which on it is parsed in a thread.
_LONG = 1 << 16
#: What is logged for a client that went away; nginx's number.
GONE = 499
#: Seconds in which a client takes an error.
LAST_WORDS = 5.0


class GoneError(Exception):
    """The client went away."""


@dataclass(frozen=True)
class Wire:
    """A wire format of generated answers.

    `ask`: from the fields that were given to an `Ask`; runs in a thread, and may tokenise. `whole`: the answer's body.
    `events`: those of a stream. `error`: a problem's body. `names`: what errors of the engine call otherwise than the
    fields do. `done`: what a stream ends with. `failed`: the event of a problem after the first byte,
    and after so many events.
    """

    path: str
    about: str
    fields: tuple[Field, ...]
    ask: Callable[[dict[str, Any], State], Ask]
    whole: Callable[[Answering, list[Answer]], Mapping[str, Any]]
    events: Callable[[Answering], AsyncIterator[Event]]
    error: Callable[[Problem], Mapping[str, Any]] = openai_error
    names: Mapping[str, str] = field(default_factory=dict)
    done: bytes = DONE
    failed: Callable[[Problem, int], Event] | None = None


@dataclass(frozen=True)
class Work:
    """A wire format that generates nothing: `work` makes the answer's body of what was given.

    `read`: the body by the table; `problem`: what an error is to its client.
    """

    path: str
    about: str
    fields: tuple[Field, ...]
    work: Callable[[dict[str, Any], State, Ticket], Awaitable[Mapping[str, Any]]]
    error: Callable[[Problem], Mapping[str, Any]] = openai_error
    names: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[tuple[Field, ...], dict[str, Any]], dict[str, Any]] = read_fields
    problem: Callable[[BaseException, Mapping[str, str]], Problem] = problem_of


def route_of(wire: Wire | Work, state: State) -> Route:
    """The route of POST requests to it."""
    return Route(wire.path, _Endpoint(wire, state), methods=["POST"])


class _Endpoint:
    """An ASGI application for one path."""

    def __init__(self, wire: Wire | Work, state: State) -> None:
        self.wire, self._state = wire, state
        self._names = names_of(wire.fields) | dict(wire.names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = _Sent(send)
        began = time.monotonic()
        try:
            async with self._state.admission.enter() as ticket:
                ticket.salt = scope.get("state", {}).get("salt")
                body = await _read_body(Request(scope, receive), self._state)
                await _unless_gone(receive, self._answer(body, ticket, sent, scope, began))
        except GoneError:
            sent.status = scope.setdefault("state", {})["status"] = GONE
        except Exception as e:  # noqa: BLE001 - whatever it is, its client is told
            await self._tell(e, sent)
        finally:
            self._state.metrics.ended(self.wire.path, sent.status, time.monotonic() - began)

    async def _answer(self, body: bytes, ticket: Ticket, sent: _Sent, scope: Scope, began: float) -> None:
        state, wire = self._state, self.wire
        read = partial(_given, wire, body)
        given = read() if len(body) < _LONG else await state.prepare(read)
        if isinstance(wire, Work):
            await sent.json(200, await wire.work(given, state, ticket))
            return
        ask = (await state.prepare(partial(wire.ask, given, state))).salted(ticket.salt)
        check_answers(ask.n_answers, state.settings)
        ticket.hold(ask.n_tokens)
        answering = Answering(ask, state.metrics, began, state.searches)
        scope.setdefault("state", {})["usage"] = (ask.entry.name, answering.usage)
        try:
            if not ask.stream:
                answers = await answering.whole()
                await sent.json(200, wire.whole(answering, answers))
                return
            async for event in wire.events(answering):
                await sent.event(as_bytes(event))
        finally:
            await answering.aclose()
        await sent.end(wire.done)

    async def _tell(self, error: Exception, sent: _Sent) -> None:
        problem = (self.wire.problem if isinstance(self.wire, Work) else problem_of)(error, self._names)
        problem = replace(problem, message=self._state.served.told(problem.message))
        if problem.code == "internal":
            _LOG.error("%s: %s", self.wire.path, error, exc_info=error)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS):  # a slow reader may not take it
                await self._send_problem(problem, sent)

    async def _send_problem(self, problem: Problem, sent: _Sent) -> None:
        body = self.wire.error(problem)
        if not sent.began:
            await sent.json(problem.status, body, problem.headers)
        elif isinstance(self.wire, Wire):
            failed = self.wire.failed
            await sent.event(as_bytes(Event(body) if failed is None else failed(problem, sent.n_events)))
            await sent.end(self.wire.done)


class _Sent:
    """What was sent of one response."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.began, self.n_events = send, 0, False, 0

    async def json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = to_json(body)
        more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        length = (b"content-length", str(len(data)).encode())
        await self._start(status, [(b"content-type", b"application/json"), length, *more])
        await self._send({"type": "http.response.body", "body": data})

    async def event(self, data: bytes) -> None:
        if not self.began:
            head = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await self._start(200, [*head, (b"x-accel-buffering", b"no")])
        self.n_events += 1
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.began, self.status = True, status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _given(wire: Wire | Work, body: bytes) -> dict[str, Any]:
    read = wire.read if isinstance(wire, Work) else read_fields
    return read(wire.fields, parse_json(body))


async def _read_body(request: Request, state: State) -> bytes:
    """Errors: `RequestError`: 415, 413, 408; `GoneError`."""
    most, seconds = state.settings.max_body, state.settings.body_timeout
    if (packed := request.headers.get("content-encoding", "identity")) != "identity":
        msg = f"content-encoding: {shown(packed, 80)} found, expected none; send the JSON as it is"
        raise RequestError(msg, param="content-encoding", status=415, code="unsupported_encoding")
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said[:20]) > most:
        raise _too_large(most)
    parts, n = list[bytes](), 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                parts.append(message.get("body", b""))
                n += len(parts[-1])
                if n > most:
                    raise _too_large(most)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        msg = f"the body did not come within {seconds:g} s"
        raise RequestError(msg, status=408, code="timeout") from None


def _too_large(most: int) -> RequestError:
    return RequestError(f"the body has more than {most} bytes", status=413, code="body_too_large")


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Work, unless the client goes away: then it is cancelled at once. Errors: `GoneError`, and those of the work."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GoneError
        try:
            working.result()
        except OSError as e:  # nobody reads what is sent
            raise GoneError from e
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
