"""What the server allows: every limit, in one record."""

from __future__ import annotations

from typing import Literal

from ...dataclass import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Limits of a server. Times are in seconds, sizes in bytes."""

    #: Requests that are answered or wait at once; one more gets 429.
    max_requests: int = 256
    #: Connections at once; one more is closed. None: what the process' limit of open files leaves.
    max_connections: int | None = None
    #: Tokens of their prompts and answers together; one request alone may always have as many as its model holds.
    max_tokens_in_flight: int = 1 << 20
    #: Answers that one request may ask for: prompts times `n`.
    max_answers: int = 128
    #: Tokens of all texts together that one request has embedded or ranked; OpenAI's bound.
    max_input_tokens: int = 300_000
    #: From a request's last byte to its answer's.
    request_timeout: float = 600.0
    #: From a request's first byte to the end of its headers, and from there to its last.
    body_timeout: float = 30.0
    #: A request's body.
    max_body: int = 8 << 20
    #: A request's line and headers.
    max_headers: int = 32 << 10
    #: Running answers may take this long to end after SIGTERM; then they are cut.
    grace: float = 20.0
    #: An idle connection is closed after this.
    keep_alive: float = 30.0
    #: Where a request says nothing of it, nor do the model's files; 1 as in OpenAI's API, 0 is greedy.
    temperature: float = 1.0
    #: Tokens of an answer where a request gives no number; None: until the context is full.
    max_tokens: int | None = None
    #: Threads that tokenise, render templates and compile constraints.
    preparing_threads: int = 2
    #: Searches with beams that run at once; more of them wait.
    searches: int = 2
    #: Show at /trace what a model computes.
    trace: bool = False
    #: Log prompts and answers too.
    log_texts: bool = False
    #: Whose texts may reuse what others left in the cache, where they begin alike: all, or those of the same API key.
    reuse: Literal["shared", "per-key"] = "shared"
    #: Names that a Host header may have; empty: any.
    hosts: tuple[str, ...] = ()
