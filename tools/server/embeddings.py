"""POST /v1/embeddings: vectors of texts or ids."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...runtime.generate import check_ids
from .errors import RequestError
from .fields import Field, Schema, array
from .generating import MODEL, TEXT, check_characters, check_inputs
from .wires import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...encode import Vectors
    from ...model import Model
    from .admission import Ticket
    from .served import Entry
    from .settings import Settings
    from .state import State

__all__ = ["WIRE"]

#: Texts of one request: OpenAI's bound; and how many are computed at a time, between which a client may go.
MOST, SOME = 2048, 64
_IDS: Schema = array({"type": "integer", "minimum": 0}, least=1)
_FULL: Schema = {"type": "string", "minLength": 1}
FIELDS = (
    MODEL,
    Field("input", {"anyOf": [_FULL, _IDS, array(_FULL, least=1, most=MOST), array(_IDS, least=1, most=MOST)]},
          "A text, a list of token ids, or a list of either.", required=True),
    Field("encoding_format", {"enum": ["float", "base64"]}, "Numbers, or base64 of little-endian float32."),
    Field("dimensions", {"type": "integer", "minimum": 1, "maximum": 1 << 20}, "Keep the first dimensions, of models "
          "that were trained for it (matryoshka_dimensions in config.json); the length is 1 again."),
    Field("user", TEXT, "Has no effect."),
    Field("prompt_name", {"type": "string", "minLength": 1}, "Put this prompt of the directory before every text."),
    Field("truncate", {"type": "boolean"}, "Cut longer texts at their end, as sentence-transformers does."),
)  # fmt: skip


async def _work(given: dict[str, Any], state: State, ticket: Ticket) -> Mapping[str, Any]:
    entry = state.served.find(given.get("model"))
    vectors = await state.prepare(partial(state.kept, entry.model, _vectors))
    width = _width(entry.model, vectors, given.get("dimensions"))
    ids = await state.prepare(partial(_ids, entry.model, vectors, given, state.settings))
    n = sum(map(len, ids))
    ticket.hold(n)
    rows = list[NDArray[np.float32]]()
    for at in range(0, len(ids), SOME):
        some = ids[at : at + SOME]
        rows.extend(await state.compute(partial(_rows, entry, vectors, some, given.get("prompt_name"), width)))
    write = _base64 if given.get("encoding_format") == "base64" else _numbers
    data = [{"object": "embedding", "index": i, "embedding": write(row)} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": n, "total_tokens": n}
    return {"object": "list", "data": data, "model": entry.name, "usage": usage}


def _vectors(model: Model) -> Vectors:
    """Errors: `RequestError` for a model that gives texts none."""
    try:
        return model.vectors
    except (InputError, ConfigError) as e:
        msg = f"model: {e}"
        if model.config.writes and isinstance(e, InputError):
            msg = "model: it writes text, and has no vectors; name an encoder, or a decoder that was trained for them"
        raise RequestError(msg, param="model", code="not_supported") from e


def _width(model: Model, vectors: Vectors, asked: int | None) -> int | None:
    """Dimensions to keep, None: as many as the directory says. Errors: `RequestError`."""
    if asked is None or asked == vectors.width:
        return None
    said = model.config_json
    trained = said.get("matryoshka_dimensions")
    if isinstance(trained, list) and trained:
        allowed = asked in trained
        expected = ", ".join(map(str, trained))
    else:
        allowed = said.get("is_matryoshka") is True and asked <= vectors.how.width
        expected = f"1 to {vectors.how.width}" if said.get("is_matryoshka") is True else str(vectors.width)
    if not allowed or asked > vectors.how.width:
        msg = f"dimensions: {asked}; this model's vectors have {expected}"
        raise RequestError(msg, param="dimensions", code="invalid_value")
    return asked


def _ids(model: Model, vectors: Vectors, given: Mapping[str, Any], settings: Settings) -> list[list[int]]:
    """Of each input, as it is read. Errors: `RequestError`, `TokenizerError`, `InputError`."""
    texts, name, cut = given["input"], given.get("prompt_name"), bool(given.get("truncate"))
    several = not isinstance(texts, str) and not isinstance(texts[0], int)
    listed, made, n = (texts if several else [texts]), list[list[int]](), 0
    for i, each in enumerate(listed):
        where = f"input[{i}]" if several else "input"
        if isinstance(each, str):
            if not cut:
                check_characters(len(each), vectors.max_tokens, where, ", or send truncate: true")
            ids = vectors.framed(each, name, cut=cut)
        elif name is not None:
            msg = "prompt_name: a prompt is put before texts; with token ids, put its ids there"
            raise RequestError(msg, param="prompt_name")
        else:
            ids = _checked(each, model.config.encoding.n_vocab, where)
        if not 1 <= len(ids) <= vectors.max_tokens:
            more = "" if cut or not isinstance(each, str) else ", or send truncate: true"
            msg = f"{where}: {len(ids)} tokens; this model takes 1 to {vectors.max_tokens}{more}"
            raise RequestError(msg, param=where, code="context_length_exceeded" if ids else "invalid_value")
        made.append(ids)
        n += len(ids)
        check_inputs(n, "input", settings)
    return made


def _checked(given: list[int], n_vocab: int, where: str) -> list[int]:
    """Errors: `RequestError`."""
    try:
        return check_ids(given, n_vocab, what=where)
    except InputError as e:
        raise RequestError(str(e), param=where, code="invalid_value") from e


def _rows(
    entry: Entry, vectors: Vectors, ids: list[list[int]], name: str | None, width: int | None
) -> NDArray[np.float32]:
    number = entry.model.adapter_number(entry.adapter, "embeddings")
    normalize = None if width is None else True
    return vectors.of_ids(ids, prompt_name=name, truncate_dim=width, normalize=normalize, adapter=number)


def _base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _numbers(row: NDArray[np.float32]) -> list[float]:
    """Errors: `RequestError` for what JSON has no number for."""
    if not np.isfinite(row).all():
        msg = "the model's vector has numbers that are not finite"
        raise RequestError(msg, status=500, code="not_numbers")
    numbers: list[float] = row.astype(np.float64).tolist()
    return numbers


WIRE = Work("/v1/embeddings", "Vectors of texts.", FIELDS, _work)
