"""Runs the application with uvicorn until a signal; then running answers end, or are cut."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...errors import InputError
from .errors import Problem, openai_error
from .events import to_json
from .notify import notify

if TYPE_CHECKING:
    import signal
    from types import FrameType

    from starlette.types import ASGIApp

    from .state import State

__all__ = ["Server", "listening", "served_at"]

_LOG = logging.getLogger("miaotui.server")
#: Seconds after the last answer was cut in which it may still be sent.
LAST_WORDS = 5
#: Connections that are taken in a row, before it is seen how many there are.
IN_A_ROW = 64
#: Connections at once, at most and at least; and files that are opened later, connections in a row among them.
MOST_CONNECTIONS, LEAST_CONNECTIONS, SPARE_FILES = 1 << 16, 16, 4 * IN_A_ROW
#: Connections that wait to be taken.
BACKLOG = 2048
#: Seconds in which a fault that comes again is told once.
QUIET = 60.0
#: Threads for passes: one for each model, and some that begin and end texts.
SPARE_THREADS = 6


def listening(host: str, port: int) -> socket.socket:
    """A socket at this address. Errors: `InputError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as e:
        named = isinstance(e, socket.gaierror)
        option = f"--host {host}" if named else f"--port {port}"
        why = os.strerror(e.errno) if e.errno and not named else e.strerror or e  # create_server's has the place too
        msg = f"{option}: cannot listen at {host}:{port} ({why})"
        raise InputError(msg) from e


def served_at(made: socket.socket) -> str:
    """Its URL."""
    host, port = made.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Protocol(H11Protocol):
    """uvicorn's, which waits for a request's headers for so long, and whose errors have the form that all have."""

    #: From a connection's begin, or a further request's first byte, to the end of its headers.
    head_timeout: float
    #: At once, of all clients.
    most: int
    #: When it was last told that there were so many.
    told = -QUIET
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Wait for the first request. One that is idle after an answer is closed by uvicorn."""
        super().connection_made(transport)
        if len(self.connections) <= self.most:
            self._wait()
            return
        transport.close()
        if self.loop.time() >= type(self).told + QUIET:
            type(self).told = self.loop.time()
            _LOG.warning("%d connections are open, and more are closed at once; see ulimit -n", self.most)

    def data_received(self, data: bytes) -> None:
        """Go on; wait for no longer where the headers are there."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._waiting is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing comes any more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_timeout, self._too_late)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_late(self) -> None:
        self._waiting = None
        if self.conn.trailing_data[0]:
            msg = f"the headers did not come within {self.head_timeout:g} s"
            self._refuse(Problem(408, msg, code="timeout"))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Say so, and close the connection."""
        self._refuse(Problem(400, f"{msg.rstrip('.')}: this is no HTTP request", code="invalid_http"))

    def _refuse(self, problem: Problem) -> None:
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:  # and not in the middle of an answer
            data = to_json(openai_error(problem))
            headers = {"content-type": "application/json", "content-length": str(len(data)), "connection": "close"}
            begin = h11.Response(status_code=problem.status, headers=[*headers.items()])
            for event in (begin, h11.Data(data=data), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _most_connections() -> int:
    """What the limit of open files leaves: asyncio, which meets it, tells of it thousands of times a second."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    used = SPARE_FILES
    with suppress(OSError):  # a sandbox may have no /proc
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, limit - used - SPARE_FILES))


class Server(uvicorn.Server):
    """uvicorn's, with an end that lets answers end."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        """Of an application that `make_app` made."""
        settings = state.settings

        class Protocol(_Protocol):
            head_timeout = settings.body_timeout
            most = _most_connections() if settings.max_connections is None else settings.max_connections

        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            loop="asyncio",
            backlog=IN_A_ROW,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=settings.max_headers,
            timeout_keep_alive=max(1, round(settings.keep_alive)),
            timeout_graceful_shutdown=round(settings.grace) + LAST_WORDS,
        )
        super().__init__(config)
        self._state = state

    def run_on(self, made: socket.socket) -> None:
        """Answer until a signal asks for the end."""
        asyncio.run(self._until_the_end(made))

    async def _until_the_end(self, made: socket.socket) -> None:
        n_threads = len(self._state.served.models) + SPARE_THREADS
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(n_threads, "miaotui-pass"))
        await self.serve([made])

    def handle_exit(self, sig: int, frame: FrameType | signal.Handlers | None) -> None:  # noqa: ARG002 - uvicorn's
        """The first signal asks for the end, the second for it at once."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; then whoever started the server knows that it answers."""
        await super().startup(sockets)
        for made in sockets or ():
            made.listen(BACKLOG)  # asyncio has set it to what it takes in a row
        if self.started:
            notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests; running ones end, or are cut when the time is over."""
        admission, grace = self._state.admission, self._state.settings.grace
        admission.close()
        notify("STOPPING=1")

        async def cut() -> None:
            if not await admission.empty(grace):
                admission.cut(f"the server is ending, and this answer took longer than {grace:g} s more")

        cutting = asyncio.ensure_future(cut())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
