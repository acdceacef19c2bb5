"""The ASGI application: every endpoint's routes, and what stands before them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response

from . import (
    chat,
    completions,
    decisions,
    embeddings,
    health,
    messages,
    models,
    openapi,
    page,
    rerank,
    responses,
    systemone,
    tokens,
    traces,
)
from .access_log import AccessLog
from .errors import Problem, openai_error
from .events import to_json
from .security import Guard
from .settings import Settings
from .state import State
from .wires import route_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.routing import Route

    from .security import Keys
    from .served import Served
    from .wires import Wire, Work

__all__ = ["WIRES", "make_app"]

#: Endpoints that take a JSON body.
WIRES: tuple[Wire | Work, ...] = (
    chat.WIRE, completions.WIRE, messages.WIRE, messages.COUNT, responses.WIRE, embeddings.WIRE, rerank.WIRE,
    rerank.ALIAS, systemone.WIRE, decisions.WIRE, tokens.TOKENIZE, tokens.DETOKENIZE,
)  # fmt: skip


def make_app(served: Served, settings: Settings | None = None, keys: Keys | None = None) -> tuple[AccessLog, State]:
    """The application, and what its endpoints share. Models are the caller's to close."""
    settings = Settings() if settings is None else settings
    state = State(served, settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        state.close()

    routes: list[Route] = [
        *(route_of(wire, state) for wire in WIRES),
        *models.routes(state),
        *tokens.routes(state),
        *health.routes(state),
        *(traces.routes(state) if settings.trace else ()),
        *openapi.routes(WIRES, traces.GETS if settings.trace else {}),
        *page.routes(),
    ]
    inside = Starlette(routes=routes, exception_handlers={HTTPException: _no_route}, lifespan=lifespan)
    inside.router.redirect_slashes = False  # another path is no path, and is told so
    errors = {wire.path: wire.error for wire in WIRES}
    guard = Guard(
        inside,
        settings.hosts,
        keys,
        (*health.OPEN, *page.OPEN),
        health.OPEN,
        errors,
        settings.max_headers,
        settings.reuse == "per-key",
    )
    return AccessLog(guard, texts=settings.log_texts), state


async def _no_route(request: Request, error: Exception) -> Response:
    """A path or method that there is none of."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    method, path = request.method, request.url.path[:200]
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    message = f"{path}: there is no such path"
    if status != 404:  # noqa: PLR2004 - HTTP's
        message = f"{method}: {path} takes {headers.get('Allow', 'another method')} only"
    problem = Problem(status, message, code="not_found" if status == 404 else "method_not_allowed")  # noqa: PLR2004 - HTTP's
    return Response(to_json(openai_error(problem)), status, headers, media_type="application/json")
