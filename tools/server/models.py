"""GET /v1/models, and /v1/models/NAME."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from .errors import RequestError, openai_error, problem_of
from .events import to_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from ...model import Model
    from .served import Entry
    from .state import State

__all__ = ["routes"]


def routes(state: State) -> list[Route]:
    """The routes."""

    async def listed(_: Request) -> Response:
        data = [_told(entry) for entry in state.served]
        told = {"object": "list", "data": data, "models": [_described(entry) for entry in state.served]}
        return Response(to_json(told), media_type="application/json")

    async def one(request: Request) -> Response:
        try:
            entry = state.served.find(request.path_params["name"])
        except RequestError as e:
            problem = problem_of(e)
            return Response(to_json(openai_error(problem)), problem.status, media_type="application/json")
        return Response(to_json(_told(entry)), media_type="application/json")

    return [Route("/v1/models", listed), Route("/v1/models/{name:path}", one)]


def _described(entry: Entry) -> dict[str, str]:
    """As clients of System One's API read it."""
    what = f"{entry.model.config.family} ({entry.model.config.kind})"
    about = what if entry.parent is None else f"an adapter of {entry.parent}, {what}"
    day = datetime.fromtimestamp(entry.created, UTC).date().isoformat()
    return {"name": entry.name, "description": about, "release_date": day}


def _told(entry: Entry) -> dict[str, Any]:
    told = {
        "id": entry.name, "object": "model", "created": entry.created, "owned_by": "miaotui",
        "max_model_len": entry.model.n_context, "capabilities": _capabilities(entry.model),
    }  # fmt: skip
    return told | ({} if entry.parent is None else {"parent": entry.parent})


def _capabilities(model: Model) -> dict[str, bool]:
    """Which of the endpoints that write texts a model answers."""
    writes = model.config.decoder is not None
    return {"completions": writes, "chat": writes and model.tokenizer.chat_template is not None}
