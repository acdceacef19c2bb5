"""POST /tokenize and /detokenize, GET /tokenizer_info: as vLLM has them, for clients that count or make ids."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from ...errors import MiaotuiError
from ...runtime.generate import check_ids
from .chat import MESSAGE, TOOL, check_said
from .conversations import readable, tool_of
from .errors import RequestError, openai_error, problem_of
from .events import to_json
from .fields import Field, Schema, array
from .generating import MODEL
from .wires import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from .admission import Ticket
    from .served import Entry
    from .state import State

__all__ = ["DETOKENIZE", "TOKENIZE", "routes"]

#: Characters of a text, and its tokens: a text may be longer than the model's context, for clients that count.
MOST_CHARACTERS, MOST_TOKENS = 1 << 19, 1 << 20
_FLAG: Schema = {"type": "boolean"}
TOKENIZE_FIELDS = (
    MODEL,
    Field("prompt", {"type": "string", "maxLength": MOST_CHARACTERS}, "A text; or messages."),
    Field("messages", array(MESSAGE, least=1, most=1 << 16), "A conversation, by the model's template."),
    Field("add_special_tokens", _FLAG, "With what the tokenizer puts around a text (default: true); a chat template "
          "writes such tokens itself."),
    Field("add_generation_prompt", _FLAG, "Messages: end with what begins an answer (default: true, unless the last "
          "message goes on)."),
    Field("continue_final_message", _FLAG, "Messages: end inside the last one (default: where it is the assistant's)."),
    Field("tools", array(TOOL, most=128), "Messages: tools, for templates that read them."),
    Field("chat_template_kwargs", {"type": "object"}, "Messages: further variables of the template."),
    Field("return_token_strs", _FLAG, "Each token's spelling too."),
)  # fmt: skip
DETOKENIZE_FIELDS = (
    MODEL,
    Field("tokens", array({"type": "integer", "minimum": 0}, most=MOST_TOKENS), "Token ids.", required=True),
)
_OF_MESSAGES = ("add_generation_prompt", "continue_final_message", "tools", "chat_template_kwargs")


async def _tokenize(given: dict[str, Any], state: State, _: Ticket) -> Mapping[str, Any]:
    entry = state.served.find(given.get("model"))
    return await state.prepare(partial(_tokenized, entry, given))


def _tokenized(entry: Entry, given: dict[str, Any]) -> dict[str, Any]:
    ids = _ids(entry, given)
    if len(ids) > MOST_TOKENS:
        name = "prompt" if "prompt" in given else "messages"
        msg = f"{name}: {len(ids)} tokens, expected at most {MOST_TOKENS}; send the text in parts"
        raise RequestError(msg, param=name, code="invalid_value")
    told: dict[str, Any] = {"count": len(ids), "max_model_len": entry.model.n_context, "tokens": ids}
    if given.get("return_token_strs"):
        told["token_strs"] = [entry.model.tokenizer.id_to_token(i) for i in ids]
    return told


def _ids(entry: Entry, given: dict[str, Any]) -> list[int]:
    tokenizer = entry.model.tokenizer
    if ("prompt" in given) == ("messages" in given):
        msg = "prompt: expected a text here, or messages; one of them"
        raise RequestError(msg, param="prompt")
    if "prompt" in given:
        other = next((name for name in _OF_MESSAGES if name in given), None)
        if other is not None:
            msg = f"{other}: goes with messages; leave it out"
            raise RequestError(msg, param=other)
        return tokenizer.encode(given["prompt"], add_special_tokens=given.get("add_special_tokens", True))
    entry.check_talks()
    check_said(given["messages"])
    messages = [readable(message, i) for i, message in enumerate(given["messages"])]
    begins = given.get("add_generation_prompt")
    goes_on = given.get("continue_final_message", begins is None and messages[-1]["role"] == "assistant")
    tools = [tool_of(tool["function"]) for tool in given.get("tools", ())] or None
    how: dict[str, Any] = {
        "add_generation_prompt": not goes_on if begins is None else begins,
        "continue_final_message": goes_on,
        **_variables(given.get("chat_template_kwargs", {})),
    }
    rendered = tokenizer.apply_chat_template(messages, tools, tokenize=False, **how)
    if len(rendered) > MOST_CHARACTERS:
        msg = f"messages: {len(rendered)} characters as the template writes them, expected at most {MOST_CHARACTERS}"
        raise RequestError(msg, param="messages", code="invalid_value")
    if given.get("add_special_tokens"):
        return tokenizer.encode(rendered)
    ids: list[int] = tokenizer.apply_chat_template(messages, tools, **how)
    return ids


def _variables(given: dict[str, Any]) -> dict[str, Any]:
    """Of a template. Errors: `RequestError` for what is an argument itself."""
    own = {"messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message",
           "tokenize", "strftime_now", "self"}  # fmt: skip
    if taken := sorted(own & given.keys()):
        msg = f"chat_template_kwargs: {taken[0]} is no variable of a template"
        raise RequestError(msg, param="chat_template_kwargs")
    return given


async def _detokenize(given: dict[str, Any], state: State, _: Ticket) -> Mapping[str, Any]:
    entry = state.served.find(given.get("model"))
    ids = check_ids(given["tokens"], entry.model.config.n_vocab, what="tokens") if given["tokens"] else []
    decode = partial(entry.model.tokenizer.decode, ids, skip_special_tokens=False)
    return {"prompt": await state.prepare(decode)}


def routes(state: State) -> list[Route]:
    """GET /tokenizer_info."""

    async def info(request: Request) -> Response:
        try:
            entry = state.served.find(request.query_params.get("model"))
            told = await state.prepare(partial(_info, entry))
        except MiaotuiError as e:
            problem = problem_of(e)
            problem = replace(problem, message=state.served.told(problem.message))
            return Response(to_json(openai_error(problem)), problem.status, media_type="application/json")
        return Response(to_json(told), media_type="application/json")

    return [Route("/tokenizer_info", info)]


def _info(entry: Entry) -> dict[str, Any]:
    """Names of tokens, and the chat template."""
    tokenizer, model = entry.model.tokenizer, entry.model
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "model": entry.name,
        "vocab_size": tokenizer.n_vocab,
        "model_max_length": model.n_context,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        **{f"{name}_token": None for name in ("bos", "eos", "pad", "unk")},
        **tokenizer.special_tokens,
        "chat_template": tokenizer.chat_template,
    }


TOKENIZE = Work("/tokenize", "A text's or a conversation's token ids.", TOKENIZE_FIELDS, _tokenize)
DETOKENIZE = Work("/detokenize", "The text of token ids.", DETOKENIZE_FIELDS, _detokenize)
