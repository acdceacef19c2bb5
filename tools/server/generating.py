"""Fields that all endpoints share whose answers are generated, and the parameters of `generate` that they become."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, cast

from ...runtime.constraints import CONSTRAINTS
from ...runtime.parameters import OVERFLOWS
from ...runtime.sampling_params import ASK_TO_SAMPLE
from .errors import RequestError
from .fields import Field, Schema, array, optional_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ...model import Model
    from ...runtime.parameters import ConstraintKwargs, GenerateKwargs
    from .settings import Settings

__all__ = [
    "MODEL",
    "OWN",
    "SAMPLING",
    "STOP",
    "STREAM",
    "TEXT",
    "check_answers",
    "check_characters",
    "check_inputs",
    "check_length",
    "compiled",
    "parameters_of",
]

#: Seeds that are drawn: numbers that JavaScript reads exactly.
SEEDS = 2**53
#: Texts that a search goes on with at once, at most.
MOST_BEAMS = 32
#: Characters of a token, at most, by which a text is known to be too long: some have a hundred blanks.
CHARACTERS = 256
TEXT: Schema = {"type": "string"}
STOP: Schema = {"type": "string", "minLength": 1, "maxLength": 4096}
_FLAG: Schema = {"type": "boolean"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_PENALTY: Schema = {"type": "number", "minimum": -2, "maximum": 2}
_MARK: Schema = {
    "type": "object",
    "properties": {
        "greenlist_ratio": _NUMBER, "bias": _NUMBER, "hashing_key": _COUNT, "seeding_scheme": TEXT,
        "context_width": _COUNT,
    },
    "additionalProperties": False,
}  # fmt: skip
_IDS = array({"type": "integer", "minimum": 0}, most=1 << 16)

MODEL = Field("model", {"type": "string", "minLength": 1}, "A name of /v1/models; the first where it is not given.")
STREAM = (
    Field("stream", _FLAG, "Send the answer in pieces, as server-sent events."),
    Field(
        "stream_options",
        {
            "type": "object",
            "properties": {"include_usage": _FLAG, "include_obfuscation": {"enum": [False]}},
            "additionalProperties": False,
        },
        "include_usage: one more event before the end, with the tokens that were used.",
    ),
)
#: OpenAI's.
SAMPLING = (
    Field("temperature", {"type": "number", "minimum": 0, "maximum": 100}, "0: the likeliest token.", "temperature"),
    Field("top_p", {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "Draw from this share.", "top_p"),
    Field("n", {"type": "integer", "minimum": 1, "maximum": 128}, "Answers to each prompt."),
    Field(
        "stop",
        {"anyOf": [STOP, array(STOP, most=16)]},
        "End before this text, or the first of several.",
        "stop",
    ),
    Field(
        "seed",
        {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        "Which of the possible answers: the same seed gives the same text. An answer's `seed` says which it was.",
        "seed",
    ),
    Field(
        "frequency_penalty", _PENALTY, "Taken off a token for each time that the answer has it.", "frequency_penalty"
    ),
    Field("presence_penalty", _PENALTY, "Taken off a token that the answer has.", "presence_penalty"),
    Field(
        "logit_bias",
        {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": 1 << 14,
        },
        "Token ids, and what is added to their logits.",
    ),
    Field("user", TEXT, "Has no effect."),
)
#: Our own, by the names of `generate` (docs/sampling.md, docs/constrained.md, docs/concurrency.md).
OWN = (
    Field("top_k", _COUNT, "Draw from the k likeliest tokens; 0 is off.", "top_k"),
    Field("min_p", _SHARE, "Draw tokens of at least this share of the likeliest's probability.", "min_p"),
    Field("typical_p", {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "Locally typical.", "typical_p"),
    Field("top_n_sigma", _NUMBER, "Draw logits this many standard deviations below the largest.", "top_n_sigma"),
    Field("top_h", _SHARE, "Draw from the likeliest tokens with this share of the entropy.", "top_h"),
    Field("epsilon_cutoff", _NUMBER, "Draw tokens of this probability at least.", "epsilon_cutoff"),
    Field("eta_cutoff", _NUMBER, "As epsilon_cutoff, lower where the distribution is flat.", "eta_cutoff"),
    Field("adaptive", _NUMBER, "An entropy in nats: greedy where the distribution is sharper.", "adaptive"),
    Field("dynatemp_range", _NUMBER, "Temperatures that follow the entropy.", "dynatemp_range"),
    Field("dynatemp_exponent", _NUMBER, "How they follow it.", "dynatemp_exponent"),
    Field("mirostat", _COUNT, "2: Mirostat.", "mirostat"),
    Field("mirostat_tau", _NUMBER, "Its surprise in bits.", "mirostat_tau"),
    Field("mirostat_eta", _NUMBER, "Its rate.", "mirostat_eta"),
    Field("xtc_probability", _NUMBER, "How often the likeliest tokens are left out.", "xtc_probability"),
    Field("xtc_threshold", _NUMBER, "From which probability on.", "xtc_threshold"),
    Field("sampler_order", array(TEXT, most=16), "The stages of a draw.", "sampler_order"),
    Field("repetition_penalty", _NUMBER, "Above 1: tokens that occur get less likely.", "repetition_penalty"),
    Field("no_repeat_ngram_size", _COUNT, "No run of so many tokens comes twice.", "no_repeat_ngram_size"),
    Field("dry_multiplier", _NUMBER, "DRY: against going on with what the text has already.", "dry_multiplier"),
    Field("dry_base", _NUMBER, "Its base.", "dry_base"),
    Field("dry_allowed_length", _COUNT, "Tokens that may match.", "dry_allowed_length"),
    Field("dry_penalty_last_n", {"type": "integer", "minimum": -1}, "Where it looks.", "dry_penalty_last_n"),
    Field("dry_sequence_breakers", array(TEXT, most=64), "What ends a match.", "dry_sequence_breakers"),
    Field("guidance_scale", _NUMBER, "Above 1: nearer to the prompt, by a second text without it.", "guidance_scale"),
    Field(
        "watermarking_config",
        {"anyOf": [{"type": "boolean", "enum": [False]}, _MARK]},
        "Mark the answer, as transformers' WatermarkingConfig; {}: by its defaults; false: not.",
        "watermarking_config",
    ),
    Field("remove_invalid_values", _FLAG, "Draw although logits are NaN or infinite.", "remove_invalid_values"),
    Field("min_tokens", _COUNT, "At least this many tokens before one that ends the answer.", "min_new_tokens"),
    Field("ignore_eos", _FLAG, "Go on where the model would end.", "ignore_eos"),
    Field("stop_token_ids", _IDS, "Ids that end the answer, in place of the model's own.", "eos_token_id"),
    Field("suppress_tokens", _IDS, "Ids that never come.", "suppress_tokens"),
    Field("bad_words_ids", array(_IDS, most=1 << 12), "Runs of ids that never come.", "bad_words_ids"),
    Field("stop_at", {"enum": ["block"]}, "block: end where the block of code ends.", "stop_at"),
    Field(
        "grammar",
        {"type": "string", "minLength": 1},
        "The answer is a text of this grammar, Lark's notation or GBNF.",
        "grammar",
    ),
    Field("regex", {"type": "string", "minLength": 1}, "The whole answer matches this regular expression.", "regex"),
    Field("choices", array(TEXT, least=1, most=1 << 12), "The answer is one of these texts.", "choices"),
    Field("adapter", {"type": "string", "minLength": 1}, "Which of the model's adapters writes it.", "adapter"),
    Field(
        "num_beams",
        {"type": "integer", "minimum": 1, "maximum": MOST_BEAMS},
        "Above 1: beam search, the n best of its answers, at once and not streamed.",
        "num_beams",
    ),
    Field("length_penalty", _NUMBER, "Of beams: above 0 longer answers score better.", "length_penalty"),
    Field(
        "early_stopping",
        {"anyOf": [_FLAG, {"enum": ["never"]}]},
        "Of beams: true ends with as many answers as beams; never looks on until none can be better.",
        "early_stopping",
    ),
    Field("renormalize_logits", _FLAG, "Of beams: scores are logarithms of probabilities again.", "renormalize_logits"),
    Field("priority", {"type": "integer", "minimum": -(2**31), "maximum": 2**31}, "The higher goes first.", "priority"),
    Field(
        "cache_salt",
        {"type": "string", "minLength": 1, "maxLength": 256},
        "Only texts with the same salt reuse what begins alike.",
        "cache_salt",
    ),
    Field("draft", {"anyOf": [{"enum": [False]}, {"enum": ["ngram"]}]}, "What guesses tokens ahead.", "draft"),
    Field("overflow", {"enum": list(OVERFLOWS)}, "What becomes of a text longer than the context.", "overflow"),
)


def parameters_of(
    fields: Iterable[Field], given: Mapping[str, Any], said: Mapping[str, Any], settings: Settings
) -> GenerateKwargs:
    """The parameters of `generate`; `said`: `Model.generation_defaults`. Errors: `RequestError`.

    Where a request says nothing of its temperature it is drawn at the model's own, or the server's; beams are not, and
    what asks for a draw next to them is refused.
    """
    made = optional_of(fields, given)
    if made.get("num_beams", 1) > 1:
        _check_nothing_draws(fields, given)
        made.setdefault("temperature", 0)  # nothing is drawn
        if given.get("stream"):
            msg = f"num_beams: {made['num_beams']} beams are known at their end; leave out stream"
            raise RequestError(msg, param="num_beams", code="unsupported_value")
    made.setdefault("temperature", said.get("temperature", settings.temperature))
    if made["temperature"]:
        made["do_sample"] = True
        made.setdefault("seed", secrets.randbelow(SEEDS))
    if "logit_bias" in given:
        made["logit_bias"] = {_token_id(name): value for name, value in given["logit_bias"].items()}
    return cast("GenerateKwargs", made)


def _check_nothing_draws(fields: Iterable[Field], given: Mapping[str, Any]) -> None:
    """Refuse what asks for a draw in Python, too, next to beams. Errors: `RequestError`."""
    asks = next((field.name for field in fields if field.to in ASK_TO_SAMPLE and field.name in given), None)
    if asks is not None and "temperature" not in given:  # 0 says that nothing is drawn; of another `generate` says why
        msg = f"{asks}: with num_beams={given['num_beams']} nothing is drawn; leave one of them out"
        raise RequestError(msg, param=asks, code="unsupported_value")


def _token_id(name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > 9:  # noqa: PLR2004 - no vocabulary has more digits
        msg = f"logit_bias: {name[:80]!r} found, expected ids of tokens as keys"
        raise RequestError(msg, param="logit_bias", code="invalid_value")
    return int(name)


def check_answers(n: int, settings: Settings) -> None:
    """Errors: `RequestError`."""
    if n > settings.max_answers:
        msg = f"n: {n} answers were asked for, expected at most {settings.max_answers}"
        raise RequestError(msg, param="n", code="invalid_value")


def check_length(model: Model, n: int, parameters: Mapping[str, Any], name: str, *, ids: bool = False) -> None:
    """Refuse a prompt of `n` characters, or ids, that is longer than the context whatever its tokens are.

    It was not tokenised yet, which of some megabytes takes seconds. Errors: `RequestError`.
    """
    if n > model.n_context * (1 if ids else CHARACTERS) and parameters.get("overflow") in {None, "error"}:
        what = "tokens" if ids else "characters"
        msg = f"{name}: {n} {what}, which is more than the context of {model.n_context} takes; shorten it"
        raise RequestError(msg, param=name, code="context_length_exceeded")


def check_characters(n: int, tokens: int, name: str, more: str = "") -> None:
    """Refuse a text of `n` characters that has more than `tokens`, whatever they are. Errors: `RequestError`."""
    if n > tokens * CHARACTERS:
        msg = f"{name}: {n} characters, which is more than the {tokens} tokens that this model takes; shorten it{more}"
        raise RequestError(msg, param=name, code="context_length_exceeded")


def check_inputs(n: int, name: str, settings: Settings) -> None:
    """Refuse texts of one request that have too many tokens together. Errors: `RequestError`."""
    if n > settings.max_input_tokens:
        msg = f"{name}: {n} tokens or more in all, expected at most {settings.max_input_tokens}; send fewer at a time"
        raise RequestError(msg, param=name, code="invalid_value")


def compiled(model: Model, parameters: GenerateKwargs, before: Sequence[int]) -> GenerateKwargs:
    """With what the answer must be compiled, which may take a while; `before`: a prompt's ids.

    The first mask is filled, so that what cannot be begun is found here, and holds up no pass. Errors: those of
    `Model.constraint`.
    """
    given = {name: parameters[name] for name in CONSTRAINTS if name in parameters}  # type: ignore[literal-required]
    if not given:
        return parameters
    made = model.constraint(**cast("ConstraintKwargs", given))
    made.begin(before, model.config.n_vocab).fill()
    left = {name: value for name, value in parameters.items() if name not in given}
    return cast("GenerateKwargs", {**left, made.name: made})
