"""GET /openapi.json: made of the same tables that check the requests."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from .errors import openai_error
from .events import to_json
from .fields import read_fields
from .wires import Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from .wires import Wire

__all__ = ["document", "routes"]

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
#: Paths that are asked with GET, and what they tell.
GETS = {
    "/v1/models": "The models and adapters that are served.",
    "/tokenizer_info": "A model's special tokens and chat template (?model=NAME).",
    "/health": "200 while every model can answer, else 503. Needs no key.",
    "/ready": "200 while requests are taken, else 503. Needs no key.",
    "/metrics": "Counters in Prometheus' form.",
}


def document(wires: Sequence[Wire | Work], more: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The OpenAPI document of these endpoints; `more`: paths besides `GETS`."""
    gets = GETS | dict(more or {})
    return {
        "openapi": "3.1.0",
        "info": {"title": "miaotui", "version": version("miaotui"), "description": "docs/serving.md explains it."},
        "paths": {
            **{path: {"get": {"summary": about, "responses": _answers()}} for path, about in gets.items()},
            **{wire.path: {"post": _post(wire)} for wire in wires},
        },
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(wire: Wire | Work) -> dict[str, Any]:
    properties = {field.name: _nullable(field.schema) | {"description": field.about} for field in wire.fields}
    for field in wire.fields:
        if field.required:
            properties[field.name] = {**field.schema, "description": field.about}
    schema = {
        "type": "object",
        "properties": properties,
        "required": [field.name for field in wire.fields if field.required],
        "additionalProperties": isinstance(wire, Work) and wire.read is not read_fields,
    }
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "summary": wire.about,
        "requestBody": body,
        "responses": _answers(wire.error),
        "security": [{"key": []}, {}],
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A field that may be null, which is "not given"."""
    branches = schema.get("anyOf", [schema])
    return {"anyOf": [*branches, *([] if {"type": "null"} in branches else [{"type": "null"}])]}


def _answers(error: object = openai_error) -> dict[str, Any]:
    """`error`: what tells errors; the schema is that of OpenAI's."""
    schema = {"$ref": _REFERENCE} if error is openai_error else {"type": "object"}
    wrong = {"description": "What is wrong.", "content": {"application/json": {"schema": schema}}}
    return {"200": {"description": "The answer."}, "4XX": wrong, "5XX": wrong}


_REFERENCE = "#/components/schemas/Error"


def routes(wires: Sequence[Wire | Work], more: Mapping[str, str] | None = None) -> list[Route]:
    """The route."""
    data = to_json(document(wires, more))

    async def told(_: Request) -> Response:
        return Response(data, media_type="application/json")

    return [Route("/openapi.json", told)]
