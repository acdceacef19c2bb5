"""POST /v1/rerank and /rerank: documents by how well they answer a query, in Jina's and Cohere's form."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, InputError
from ..reranking import ranked, ranker_of
from .errors import RequestError
from .fields import Field, Schema, array
from .generating import MODEL, TEXT, check_characters, check_inputs
from .wires import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...model import Model
    from ..reranking import Ranker
    from .admission import Ticket
    from .settings import Settings
    from .state import State

__all__ = ["ALIAS", "WIRE"]

#: Documents of one request, Cohere's bound; and how many are scored at a time, between which a client may go.
MOST, SOME = 1000, 16
_DOCUMENT: Schema = {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}
FIELDS = (
    MODEL,
    Field("query", {"type": "string", "minLength": 1}, "What is looked for.", required=True),
    Field("documents", array({"anyOf": [TEXT, _DOCUMENT]}, least=1, most=MOST), "Texts, or objects with text.",
          required=True),
    Field("top_n", {"type": "integer", "minimum": 1, "maximum": 1 << 31}, "Return the best ones only."),
    Field("return_documents", {"type": "boolean"}, "Return each with its text."),
)  # fmt: skip


async def _work(given: dict[str, Any], state: State, ticket: Ticket) -> Mapping[str, Any]:
    entry = state.served.find(given.get("model"))
    ranker = await state.prepare(partial(state.kept, entry.model, _ranker))
    texts = [each if isinstance(each, str) else each["text"] for each in given["documents"]]
    ticket.hold(await state.prepare(partial(_n_tokens, entry.model, given["query"], texts, state.settings)))
    scores, n = list[float](), 0
    for at in range(0, len(texts), SOME):
        some = texts[at : at + SOME]
        made, read = await state.compute(partial(ranker.scores, given["query"], some, entry.adapter, ticket.salt))
        scores += made
        n += read
    results = [
        {"index": i, "relevance_score": scores[i]}
        | ({"document": {"text": texts[i]}} if given.get("return_documents") else {})
        for i in ranked(scores, given.get("top_n"))
    ]
    usage = {"prompt_tokens": n, "total_tokens": n}
    return {"id": f"rerank-{uuid.uuid4().hex}", "model": entry.name, "results": results, "usage": usage}


def _n_tokens(model: Model, query: str, texts: list[str], settings: Settings) -> int:
    """What is read, about: each document next to the query, as far as the context goes. Errors: `RequestError`."""
    context, encode = model.n_context, model.tokenizer.encode
    check_characters(len(query), context, "query")
    asked, n = len(encode(query)), 0
    for i, text in enumerate(texts):
        check_characters(len(text), context, f"documents[{i}]")
        n += min(context, asked + len(encode(text)))
        check_inputs(n, "documents", settings)
    return n


def _ranker(model: Model) -> Ranker:
    """Errors: `RequestError` for a model that cannot."""
    try:
        return ranker_of(model)
    except (InputError, ConfigError) as e:
        message = str(e) if str(e).startswith("model:") else f"model: {e}"
        raise RequestError(message, param="model", code="not_supported") from e


WIRE = Work("/v1/rerank", "Documents, the best first.", FIELDS, _work, names={"prompt": "documents"})
ALIAS = replace(WIRE, path="/rerank")
