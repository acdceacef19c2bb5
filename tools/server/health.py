"""GET /health, /ready and /metrics: for those who watch the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from .events import to_json
from .metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from .state import State

__all__ = ["OPEN", "routes"]

#: Paths that need no key, and answer by whatever name the server is called.
OPEN = ("/health", "/ready")


def routes(state: State) -> list[Route]:
    """The routes."""

    async def health(_: Request) -> Response:
        """200 while every model can take a pass."""
        dead = [name for name, model in state.served.models.items() if model.closed]
        return _said({"status": "error", "closed": dead} if dead else {"status": "ok"}, ok=not dead)

    async def ready(_: Request) -> Response:
        """200 while requests are let in."""
        admission = state.admission
        said = {"status": "ready" if admission.open else "ending", "requests": len(admission)}
        return _said(said, ok=admission.open)

    async def metrics(_: Request) -> Response:
        state.metrics.running.set(len(state.admission))
        state.metrics.tokens.set(state.admission.n_tokens)
        return Response(state.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)]


def _said(what: Mapping[str, object], *, ok: bool) -> Response:
    return Response(to_json(what), 200 if ok else 503, media_type="application/json")
