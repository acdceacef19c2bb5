"""The field `response_format`, of chats and of texts: what an answer must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import RequestError
from .fields import Field, Schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.parameters import GenerateKwargs

__all__ = ["RESPONSE_FORMAT", "hold_to"]

_TEXT: Schema = {"type": "string"}
_NAMED: Schema = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "description": _TEXT,
        "schema": {"type": "object"},
        "strict": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["schema"],
    "additionalProperties": False,
}
RESPONSE_FORMAT = Field(
    "response_format",
    {
        "type": "object",
        "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}, "json_schema": _NAMED},
        "required": ["type"],
        "additionalProperties": False,
    },
    "What the answer must be: JSON, or JSON of a schema. It always follows the schema, strict or not.",
)


def hold_to(parameters: GenerateKwargs, wanted: Mapping[str, Any] | None) -> None:
    """Hold the answer to a `response_format`. Errors: `RequestError`."""
    if wanted is None or wanted["type"] == "text":
        return
    if wanted["type"] == "json_object":
        parameters["schema"] = {"type": "object"}
    elif "json_schema" not in wanted:
        msg = "response_format.json_schema: this field is missing; expected an object with a schema"
        raise RequestError(msg, param="response_format.json_schema", code="missing_required_parameter")
    else:
        parameters["schema"] = wanted["json_schema"]["schema"]
