"""GET /trace: what a model computes for a text, as one page (`trace_page.py`); only with `--trace`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from ...errors import MiaotuiError
from ..trace_page import page
from .errors import RequestError, openai_error, problem_of
from .events import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from .served import Entry
    from .state import State

__all__ = ["GETS", "routes"]

PATH = "/trace"
#: For openapi.json.
GETS = {PATH: "A page of every step that a model computes for a text (?text=...&model=NAME); without a text, a form."}
#: Tokens of a text: float64 is slow, and the page shows each.
MOST_TOKENS = 256
#: The page has its style and pictures within, and runs nothing.
POLICY = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def routes(state: State) -> list[Route]:
    """The route. One trace is computed at a time, next to what else is answered."""
    turn = asyncio.Semaphore(1)

    async def shown(request: Request) -> Response:
        asked = request.query_params
        try:
            entry = state.served.find(asked.get("model"))
            if not asked.get("text"):
                return _page(_form([one.name for one in state.served]))
            if turn.locked():
                msg = "trace: another text is traced now; ask again when its page is there"
                raise RequestError(msg, status=429, code="busy")
            async with turn:
                html = await state.prepare(partial(_traced, entry, asked["text"]))
        except MiaotuiError as e:
            problem = problem_of(e)
            problem = replace(problem, message=state.served.told(problem.message))
            return Response(to_json(openai_error(problem)), problem.status, media_type="application/json")
        return _page(state.served.told(html))

    return [Route(PATH, shown)]


def _page(html: str) -> Response:
    return Response(html, headers=POLICY, media_type="text/html; charset=utf-8")


def _traced(entry: Entry, text: str) -> str:
    model = entry.model
    if entry.adapter is not None:
        msg = f"model: {entry.name} is an adapter of {entry.parent}, which alone can be traced; ask for that"
        raise RequestError(msg, param="model", code="not_supported")
    ids = model.tokenizer.encode(text)
    if len(ids) > MOST_TOKENS:
        msg = f"text: {len(ids)} tokens; expected at most {MOST_TOKENS}, each of which the page shows"
        raise RequestError(msg, param="text", code="invalid_value")
    decoding = model.config.decoding if model.config.head is None else None  # a classifier's decoder reads the text
    return page(model, model.trace(ids, decoder_ids=None if decoding is None else [decoding.start]))


def _form(names: Sequence[str]) -> str:
    options = "".join(f"<option>{escape(name)}</option>" for name in names)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>miaotui: trace</title>'
        "<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:40rem}"
        "input,select,button{font:inherit;padding:.3rem}</style></head><body><h1>What a model computes</h1>"
        f'<form action="{PATH.lstrip("/")}"><p><label>Model <select name="model">{options}</select></label></p>'
        '<p><label>Text <input name="text" size="40" required autofocus></label> <button>Trace</button></p></form>'
        "</body></html>\n"
    )
