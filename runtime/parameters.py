"""Parameters of a generation as users type them (PEP 692), and what every interface of typed keywords needs.

Editors complete the names from the `TypedDict`s and type checkers refuse others; at run time `check_names` does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex, TypedDict, TypeVar, cast, get_args

import numpy as np

from ..errors import InputError, shown, spelled_like

if TYPE_CHECKING:
    from .blocks import Block
    from .constraints import Constraint
    from .filters.filters import Filters
    from .processors import Processor

__all__ = [
    "CHAT_NAMES",
    "DEFAULT_NEW_TOKENS",
    "OVERFLOWS",
    "TOKENS",
    "ChatKwargs",
    "ConstraintKwargs",
    "GenerateKwargs",
    "Overflow",
    "check_names",
    "one_of",
    "overflow_of",
    "priority_of",
    "salt_of",
    "spelled_out",
    "switch",
    "whole_number",
]

#: Tokens of an answer where the caller names no number.
DEFAULT_NEW_TOKENS = 256

#: What becomes of a text that is longer than the context.
Overflow = Literal["error", "window", "truncate-left"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

_Function = TypeVar("_Function", bound=Callable[..., Any])


class ConstraintKwargs(TypedDict, total=False):
    """What an answer must be: one of these is given."""

    schema: Mapping[str, object] | str | type | Constraint | None
    """The answer is JSON that this schema allows, a dict, JSON text or a pydantic class; docs/constrained.md."""
    grammar: str | Constraint | None
    """The answer is a text of this grammar, Lark's notation or GBNF."""
    regex: str | Constraint | None
    """The whole answer matches this regular expression, in the words of Rust's regex."""
    choices: Iterable[str] | Constraint | None
    """The answer is one of these texts, or of those of a `Choices`."""


class GenerateKwargs(ConstraintKwargs, total=False):
    """Keywords of `generate`, `stream` and `tokens`, with the names of Hugging Face's `GenerationConfig`.

    `None` means "not given", except for `max_new_tokens`. NumPy's numbers and booleans are as good as Python's.
    """

    max_new_tokens: int | SupportsIndex | None
    """Stop after this many new tokens (default: 256); None: when the context is full."""
    do_sample: bool | None
    """Draw the next token at random, or (False) take the likeliest. Not given: sample where `temperature`, `top_k`,
    `top_p` or `min_p` is given."""
    temperature: float | SupportsFloat | None
    """Below 1 safer, above 1 wilder; 0 takes the likeliest."""
    top_k: int | SupportsIndex | None
    """Draw from the k likeliest tokens; 0 is off."""
    top_p: float | SupportsFloat | None
    """Draw from the fewest tokens whose probabilities sum to this, in (0, 1]; 1 is off."""
    min_p: float | SupportsFloat | None
    """Draw only tokens whose probability is at least this times that of the likeliest, in [0, 1]; 0 is off."""
    repetition_penalty: float | SupportsFloat | None
    """Above 1: make tokens that already occur less likely; 1 is off."""
    seed: int | SupportsIndex | None
    """Which of the possible texts: the same seed gives the same text on every machine. Not given: drawn afresh, and
    returned with the answer."""
    stop_strings: str | Iterable[str] | None
    """End before this text, or before the first of several."""
    stop: str | Iterable[str] | None
    """Short for `stop_strings`; give one of them."""
    eos_token_id: int | SupportsIndex | Iterable[int | SupportsIndex] | None
    """Id, or ids, that end the answer (default: the model's own)."""
    ignore_eos: bool | None
    """Treat an id that would end the answer as any other."""
    no_repeat_ngram_size: int | SupportsIndex | None
    """No run of this many ids comes twice; 0 is off."""
    encoder_no_repeat_ngram_size: int | SupportsIndex | None
    """No run of this many ids of what the encoder reads, or of a decoder's prompt, comes; 0 is off."""
    bad_words_ids: Iterable[Iterable[int | SupportsIndex]] | None
    """Runs of ids that never come (default: the model's own)."""
    min_new_tokens: int | SupportsIndex | None
    """At least this many ids before one that ends the answer."""
    forced_bos_token_id: int | SupportsIndex | str | None
    """The answer's first id, of an encoder-decoder, or its token as the tokenizer spells it, such as a language's
    (default: the model's own)."""
    forced_eos_token_id: int | SupportsIndex | str | Iterable[int | SupportsIndex] | None
    """The answer's last id, or its token, where `max_new_tokens` ends it (default: the model's own)."""
    decoder_start_token_id: int | SupportsIndex | str | None
    """What an encoder-decoder's decoder reads first, an id or its token (default: the model's own)."""
    num_beams: int | SupportsIndex | None
    """Search with this many beams for the answer whose ids are the likeliest together; 1 is off."""
    length_penalty: float | SupportsFloat | None
    """Of beams: their scores are divided by length to this power (default: 1); above 0 favours long answers."""
    early_stopping: bool | Literal["never"] | None
    """Of beams: stop when as many are finished as there are beams (True), when no better one is likely (False), or
    when none is possible ("never")."""
    num_return_sequences: int | SupportsIndex | None
    """How many answers, of beams or drawn ones: the first is the result, the others are its `alternatives`. The first
    of drawn ones is the one that there would be alone."""
    n: int | SupportsIndex | None
    """Short for `num_return_sequences`; give one of them."""
    logprobs: bool | None
    """Tell the log-probability of each new id: `Generation.logprobs`. It is that of the model's own logits, before
    anything that changes what is drawn."""
    top_logprobs: int | SupportsIndex | None
    """Tell this many of the likeliest ids in each place too; asks for `logprobs`."""
    echo: bool | None
    """Tell the log-probabilities of the prompt's ids too, before those of the new ones; asks for `logprobs`."""
    frequency_penalty: float | SupportsFloat | None
    """Taken off an id's logit for each time that the answer has it; 0 is off."""
    presence_penalty: float | SupportsFloat | None
    """Taken off an id's logit, once, where the answer has it; 0 is off."""
    logit_bias: Mapping[int, float] | None
    """Ids, and what is added to their logits: {17: -5.0}."""
    sequence_bias: Mapping[tuple[int, ...], float] | Iterable[Iterable[object]] | None
    """As `logit_bias`, of the last id of a run where the others came before it: {(5, 9): -2.0}."""
    encoder_repetition_penalty: float | SupportsFloat | None
    """Above 1: make ids of what the encoder reads, or of a decoder's prompt, likelier; 1 is off."""
    exponential_decay_length_penalty: tuple[int, float] | None
    """(n, factor): after n ids of the answer, ids that end it become likelier, by this factor for each further one."""
    suppress_tokens: int | SupportsIndex | Iterable[int | SupportsIndex] | None
    """Ids that never come."""
    begin_suppress_tokens: int | SupportsIndex | Iterable[int | SupportsIndex] | None
    """Ids that do not come first."""
    min_length: int | SupportsIndex | None
    """As `min_new_tokens`, of the whole text, a decoder's prompt too."""
    forced_decoder_ids: Iterable[tuple[int, int]] | None
    """Pairs: an id's number in the text, from 0 and the prompt's too, and the id that comes there."""
    guidance_scale: float | SupportsFloat | None
    """Above 1: keep nearer to the prompt, by a second text without it (a decoder's); 1 is off."""
    watermarking_config: Mapping[str, object] | Literal[False] | None
    """Mark the answer: ids that the ones before choose become likelier; transformers' `WatermarkingConfig` as a dict:
    {"bias": 2.0, "greenlist_ratio": 0.25, "hashing_key": 15485863, "seeding_scheme": "lefthash", "context_width": 1},
    or some of it; {} is all of these. False is off."""
    remove_invalid_values: bool | None
    """Draw from logits that are NaN or infinite, as if they were 0, or the largest or least finite ones."""
    renormalize_logits: bool | None
    """Of beams: scores are made logarithms of probabilities again once all else has changed them."""
    typical_p: float | SupportsFloat | None
    """Draw from the tokens of the most usual surprise, whose probabilities sum to this, in (0, 1]; 1 is off."""
    epsilon_cutoff: float | SupportsFloat | None
    """Draw only tokens of this probability at least, in [0, 1); 0 is off."""
    eta_cutoff: float | SupportsFloat | None
    """As `epsilon_cutoff`, but lower where the distribution is flat; 0 is off."""
    top_n_sigma: float | SupportsFloat | None
    """Draw only tokens whose logit is this many standard deviations below the largest at most; 0 is off."""
    top_h: float | SupportsFloat | None
    """Draw from the likeliest tokens that have this share of the entropy of the 100 likeliest, in [0, 1]; 0 is off."""
    mirostat: int | SupportsIndex | None
    """2: keep the surprise of what is drawn near `mirostat_tau`; 0 is off."""
    mirostat_tau: float | SupportsFloat | None
    """The surprise that Mirostat aims at, in bits (default: 5)."""
    mirostat_eta: float | SupportsFloat | None
    """How fast Mirostat follows it (default: 0.1)."""
    dynatemp_range: float | SupportsFloat | None
    """The temperature is from this much below to this much above `temperature`, by the entropy; 0 is off."""
    dynatemp_exponent: float | SupportsFloat | None
    """Above 1: high temperatures only where the distribution is flat (default: 1)."""
    adaptive: float | SupportsFloat | None
    """An entropy, in nats: greedy up to half of it, and `temperature` from one and a half of it on; 0 is off."""
    xtc_probability: float | SupportsFloat | None
    """How often the likeliest tokens, of `xtc_threshold` at least, are left out but for the last of them; 0 is off."""
    xtc_threshold: float | SupportsFloat | None
    """The probability from which on a token is one of those, in (0, 1] (default: 0.1)."""
    dry_multiplier: float | SupportsFloat | None
    """DRY: against going on with what the text has already; 0 is off, 0.8 is usual."""
    dry_base: float | SupportsFloat | None
    """By which factor DRY's penalty grows for each id that matches (default: 1.75)."""
    dry_allowed_length: int | SupportsIndex | None
    """How many ids may match before DRY bears on them (default: 2)."""
    dry_penalty_last_n: int | SupportsIndex | None
    """In how many of the last ids DRY looks for matches; -1, the default: in all."""
    dry_sequence_breakers: Iterable[str | int] | None
    """Texts, or ids, that end what matches for DRY (default: newline, colon, quotation mark, asterisk)."""
    sampler_order: Iterable[str] | None
    """The stages of a draw, in another order than the usual one (docs/sampling.md)."""
    logits_processor: Processor | list[Processor] | tuple[Processor, ...] | None
    """A function f(ids, row), or several, called before each draw with the whole text's ids and the model's logits,
    float32 [n_vocab]: it changes them, or returns others."""
    stop_at: Literal["block"] | Block | None
    """"block": end where the block of code ends in which the answer begins; docs/constrained.md."""
    priority: int | SupportsIndex | None
    """Where several answers wait for room, the higher number goes first, and gives its pages up last (default: 0).
    It changes no answer; docs/concurrency.md."""
    adapter: str | None
    """Which of the model's adapters reads and writes the text, by its name in `load(adapters=...)` (default: none, or
    the sequence's own); docs/adapters.md."""
    cache_salt: str | None
    """Only texts with the same salt share what of them is in the cache, where they begin alike (default: all without
    one do): how long an answer takes then tells nothing of others' texts."""
    draft: bool | str | None
    """Guess ids ahead and check several in one pass; no answer changes (docs/speculation.md). False: not in this call;
    "ngram": from what the text repeats; None: as the model was loaded."""
    overflow: Overflow | None
    """What becomes of a text that is longer than the context (default: "error", or what the sequence was made with).
    "error": such a prompt is refused, and the answer ends where the context is full. "truncate-left": the prompt loses
    what it takes from its left, so that the answer finds room for `max_new_tokens`, or half of the context (a bos id at
    its beginning stays). "window": it goes on; its first four tokens stay in the cache, and the newest."""
    show_tokens: Iterable[int | SupportsIndex | str] | None
    """Special tokens that the text shows, ids or spellings (default: none): those of a model that calls tools, where
    its text is read for calls."""
    filters: Filters | None
    """Words and regular expressions that the answer's text does not show; docs/filters.md. `ids` and `logprobs` are
    what was drawn."""


class ChatKwargs(GenerateKwargs, total=False):
    """Keywords of `chat` and `chat_stream`: how messages become a prompt, and those of `generate`."""

    tools: Iterable[Mapping[str, Any] | Callable[..., Any]] | None
    """What the model may call: JSON schemas, or functions with type hints and a docstring."""
    documents: Iterable[Mapping[str, Any]] | None
    """Texts that a template for grounded answers reads, as dicts."""
    chat_template: str | None
    """Another template, or the name of one of the directory's (default: its own)."""
    continue_final_message: bool | str | None
    """Go on with the last message's content, or with another text of it (default: where it is the assistant's)."""
    template_variables: Mapping[str, Any] | None
    """What else the template reads, such as {"enable_thinking": False}."""
    strftime_now: Callable[[str], str] | None
    """What tells the date to a template that asks for it (default: today's)."""


#: Those of `ChatKwargs` that make the prompt.
CHAT_NAMES = tuple(name for name in ChatKwargs.__annotations__ if name not in GenerateKwargs.__annotations__)

#: Parameters that take a token's text too.
TOKENS = ("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id")


def check_names(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuse unknown keywords: InputError with the known names, and for each the nearest, where one is near."""
    unknown = sorted(set(given) - set(known))
    if not unknown:
        return
    near = {name: spelled_like(name, known, 1) for name in unknown}
    said = ", ".join(name[:80] + "".join(f" (did you mean {other}?)" for other in near[name]) for name in unknown)
    msg = f"unknown {what} {said}; known are {', '.join(known)}"
    raise InputError(msg)


def spelled_out(keywords: type, defaults: Mapping[str, Any]) -> Callable[[_Function], _Function]:
    """Decorate a function of `**keywords: Unpack[TypedDict]`: `help` and `inspect.signature` name each of them.

    `defaults`: what a name means that is not given, where that is not None.
    """

    def decorate(function: _Function) -> _Function:
        own = inspect.signature(function)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for name, hint in keywords.__annotations__.items():
            text = getattr(hint, "__forward_arg__", hint)
            default = defaults.get(name)
            named.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=text))
        function.__dict__["__signature__"] = own.replace(parameters=named)
        return function

    return decorate


def whole_number(name: str, value: object, *, least: int = 1, most: int = sys.maxsize, of: str = "") -> int:
    """The value, NumPy's too, as Python's. `of`: what it counts. Errors: `InputError`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or not least <= int(value) <= most:
        wanted = f", at least {least}" if most == sys.maxsize else f" from {least} to {most}"
        msg = f"{name}={shown(value)}: expected a whole number{of and f' of {of}'}{wanted}"
        raise InputError(msg)
    return int(value)


def switch(name: str, value: object) -> bool:
    """The value, as Python's. Errors: `InputError` for any text, too: as Python sees it "False" is true."""
    if not isinstance(value, bool | np.bool_):
        msg = f"{name}={shown(value)}: expected True or False"
        raise InputError(msg)
    return bool(value)


def overflow_of(value: object) -> Overflow:
    """`overflow` as a caller gave it; None: "error". Errors: `InputError`."""
    return cast("Overflow", "error" if value is None else one_of("overflow", value, OVERFLOWS))


def priority_of(value: object) -> int:
    """`priority` as a caller gave it. Errors: `InputError`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        msg = f"priority={shown(value)}: expected an integer; the higher goes first, and 0 is usual"
        raise InputError(msg)
    return int(value)


def salt_of(value: object) -> str:
    """`cache_salt` as a caller gave it; None: "". Errors: `InputError`."""
    if value is not None and (not isinstance(value, str) or not value):
        msg = f"cache_salt={shown(value)}: expected a text of at least one character"
        raise InputError(msg)
    return value or ""


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    """The value, one of these texts. Errors: `InputError`."""
    if not isinstance(value, str) or value not in known:
        msg = f"{name}={shown(value)}: expected one of {', '.join(known)}"
        raise InputError(msg)
    return value
