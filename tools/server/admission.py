"""Who is let in: how many requests and tokens at once, for how long, and how it ends when the server does."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .settings import Settings

__all__ = ["Admission", "Ticket"]

#: Bounds of what Retry-After says, in seconds; and how much of an average the last request is.
SOONEST, LATEST, WEIGHT = 1, 60, 0.1


class Ticket:
    """A request that was let in. `hold` counts its tokens, once they are known."""

    def __init__(self, admission: Admission) -> None:
        """Made by `Admission.enter`."""
        self._admission, self.n_tokens = admission, 0
        self.salt: str | None = None  # texts of others than its key's are not reused
        self.cut: str | None = None  # why it was ended before its time
        self.timeout = asyncio.timeout(None)

    def hold(self, n: int) -> None:
        """Count tokens of its prompts and answers. Errors: `RequestError` 429, where there is no room."""
        self._admission.check_tokens(n)
        self.n_tokens += n
        self._admission.n_tokens += n


class Admission:
    """The requests that are answered now. All of it runs in the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        """Nobody is in."""
        self._settings = settings
        self._tickets: set[Ticket] = set()
        self._closing = False
        self._usual_s = float(SOONEST)  # what a request took lately
        self._empty = asyncio.Event()
        self._empty.set()
        self.n_tokens = 0

    def __len__(self) -> int:
        """Requests that are in."""
        return len(self._tickets)

    @property
    def open(self) -> bool:
        """Whether requests are let in."""
        return not self._closing

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Ticket]:
        """Be let in until the block ends, or the time is over.

        Errors: `RequestError`: 429 where it is full, 503 while the server ends, 504 where the request took too long.
        """
        if self._closing:
            msg = "the server is ending; send the request to another, or again later"
            raise RequestError(msg, status=503, code="shutting_down", retry_after=SOONEST)
        if len(self._tickets) >= self._settings.max_requests:
            msg = f"{len(self._tickets)} requests are being answered, and no more are taken at once; try again later"
            raise RequestError(msg, status=429, code="too_many_requests", retry_after=self.retry_after())
        ticket, began = Ticket(self), time.monotonic()
        self._tickets.add(ticket)
        self._empty.clear()
        try:
            async with ticket.timeout:
                ticket.timeout.reschedule(asyncio.get_running_loop().time() + self._settings.request_timeout)
                yield ticket
        except TimeoutError:
            if not ticket.timeout.expired():
                raise
            raise self._ended(ticket) from None
        finally:
            self._tickets.discard(ticket)
            self.n_tokens -= ticket.n_tokens
            self._usual_s += WEIGHT * (time.monotonic() - began - self._usual_s)
            if not self._tickets:
                self._empty.set()

    def _ended(self, ticket: Ticket) -> RequestError:
        if ticket.cut is not None:
            return RequestError(ticket.cut, status=503, code="shutting_down")
        msg = f"the request took longer than {self._settings.request_timeout:g} s, and was ended"
        return RequestError(msg, status=504, code="timeout")

    def check_tokens(self, n: int) -> None:
        """Refuse what there is no room for; a request that is alone is let in."""
        most = self._settings.max_tokens_in_flight
        if self.n_tokens and self.n_tokens + n > most:
            msg = f"{self.n_tokens} tokens of other requests are in flight, and this one may need {n} more than {most}"
            raise RequestError(msg, status=429, code="too_many_tokens", retry_after=self.retry_after())

    def retry_after(self) -> int:
        """Seconds until there may be room: about half of what a request takes."""
        return min(LATEST, max(SOONEST, round(self._usual_s / 2)))

    def close(self) -> None:
        """Let nobody in any more."""
        self._closing = True

    async def empty(self, seconds: float) -> bool:
        """Wait until all are answered, at most for so long; whether they are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        return self._empty.is_set()

    def cut(self, why: str) -> None:
        """End all that are in, with an error that says why."""
        now = asyncio.get_running_loop().time()
        for ticket in self._tickets:
            if not ticket.timeout.expired():
                ticket.cut = why
                ticket.timeout.reschedule(now)
