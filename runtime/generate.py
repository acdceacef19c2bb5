"""Prompt ids go in, tokens and text come out, one at a time.

A plain generator over a sequence: prefill, then draw and return an id until an end. It knows no files and no tokenizer
class: text is made by a `decode` callable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from itertools import islice
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, is_iterable, shown
from .beam_params import BEAMS, Beams, beams_from
from .blocks import Block, block_from
from .constraints import Steered
from .detokenize import Spelling, check_stop
from .engine.speculative import NGRAM
from .logprobs import LOGPROBS, Logprob, LogprobParams, logprobs_from
from .overflow import cut_left
from .parameters import (
    DEFAULT_NEW_TOKENS,
    GenerateKwargs,
    Overflow,
    check_names,
    overflow_of,
    priority_of,
    switch,
    whole_number,
)
from .penalties import Changes, Penalties
from .penalty_params import PENALTIES, penalties_from
from .processors import processors_from
from .rope import LONGEST
from .rules import RULES, Ruled, Rules, rules_from
from .sampling import Sampler
from .sampling_params import ASK_TO_SAMPLE, SamplingParams, real
from .writing import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Unpack

    from .constraints import Constraint
    from .engine.speculative import Speculation
    from .filters.filters import Filtered, Filtering, Filters
    from .guidance import Guidance
    from .marking import Watermark
    from .processors import Processor


__all__ = [
    "Draw",
    "Drawn",
    "FinishReason",
    "GenerateParams",
    "Generation",
    "TextLike",
    "Timings",
    "Token",
    "answer",
    "check_ids",
    "check_prompt",
    "collect",
    "most_ids",
    "params_from",
    "retold",
    "steps",
    "tokens",
]

#: Most ids that may end an answer: more than any vocabulary has, and little memory.
MAX_EOS = 2**22
#: Of `guidance_scale`: more of any log-probability may be no float32.
MOST_GUIDANCE = 10_000

#: "eos": an end-of-sequence id was drawn; "stop": a stop string was completed, a block ended, or all that was asked
#: for is there (`constraints.py`) and no id is an end; "length": `max_new_tokens` were drawn;
#: "context": prompt and new ids fill the context (`most_ids`); the last, never fed, may stand one past its end;
#: "filter": a filter blocked what came next, or `hold` let nothing of it, or something else, be shown.
FinishReason = Literal["eos", "stop", "length", "context", "filter"]


class TextLike(Protocol):
    """What is asked of a sequence (`sequence.py`): it grows by ids that are fed, and by ids that are drawn from it."""

    @property
    def n_context(self) -> int:
        """Positions there are."""
        ...

    @property
    def n_vocab(self) -> int:
        """Entries of the vocabulary."""
        ...

    @property
    def ids(self) -> list[int]:
        """Its ids so far."""
        ...

    def __len__(self) -> int:
        """Ids so far."""
        ...

    def append(self, ids: Sequence[int]) -> None:
        """Add ids; nothing is computed yet."""
        ...

    def go_on_with(self, ids: Sequence[int]) -> None:
        """Add ids that need no draw; the last may stand one past the context."""
        ...

    @property
    def n_rows(self) -> int:
        """Rows of logits that a pass can have."""
        ...

    def drawn(self, draw: Draw) -> Drawn:
        """Compute what was added, draw the next id and add it; or tell what is asked of ids that are there."""
        ...


@dataclass(frozen=True)
class Draw:
    """How a text's next id is drawn: the largest logit's without a sampler.

    At most `left` are drawn from now on, up to one of `ends`. `logprobs`: what is told of the id. `told`: nothing is
    drawn, and that is told of these ids of the text, at most `TextLike.n_rows` of them; the first is not id 0.
    """

    sampler: Sampler | None
    left: int
    ends: Sequence[int]
    logprobs: LogprobParams | None = None
    told: range | None = None
    first: bool = False
    speculation: Speculation | None = None  # what drafts the ids after the first
    steered: Steered | None = None  # what they may be
    at_once: bool = False  # nobody looks at the ids before the last of them: all `left` may be drawn for one answer
    guidance: Guidance | None = None  # whose second text is read with it


@dataclass(frozen=True)
class Drawn:
    """An id (-1: none was asked for), and when the logits were there that it was drawn from (`time.perf_counter`).

    `n_reused`: ids of the text that were not computed for it, as another had them in the cache. `logprobs`: what was
    asked of the id, or of ids of the text.
    """

    token: int
    at: float
    n_reused: int = 0
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class GenerateParams:
    """When to stop, and how to draw. `max_new_tokens` None: until the context is full. Errors: `InputError`."""

    max_new_tokens: int | None = DEFAULT_NEW_TOKENS
    stop: tuple[str, ...] = ()
    eos_ids: tuple[int, ...] = ()
    ignore_eos: bool = False  # an end-of-sequence id is a token like any other
    sampling: SamplingParams = field(default_factory=SamplingParams)
    rules: Rules = field(default_factory=Rules)
    penalties: Penalties = field(default_factory=Penalties)
    source: tuple[int, ...] | None = None  # what an encoder reads, where a penalty asks for it
    beams: Beams = field(default_factory=Beams)
    logprobs: LogprobParams | None = None
    processors: tuple[Processor, ...] = ()
    priority: int = 0
    overflow: Overflow = "error"
    filters: Filters | None = None
    draft: bool | str | None = None  # None: as the model was loaded
    constraint: Constraint | None = None
    block: Block | None = None
    shows: tuple[int, ...] = ()  # special tokens that the text shows
    guidance: float = 1.0  # of a second text without the prompt: 1 is none
    watermark: Watermark | None = None
    repairs: bool = False  # logits that are no numbers are drawn from all the same

    def __post_init__(self) -> None:
        """Check every value, and store plain Python ones."""
        n = self.max_new_tokens
        if n is not None and (not _is_integer(n) or n < 0):
            msg = f"max_new_tokens={shown(n)}: expected an integer >= 0, or None (until the context is full)"
            raise InputError(msg)
        if not isinstance(self.ignore_eos, bool | np.bool_):
            msg = f"ignore_eos={shown(self.ignore_eos)}: expected True or False"
            raise InputError(msg)
        object.__setattr__(self, "draft", _check_draft(self.draft))
        object.__setattr__(self, "priority", priority_of(self.priority))
        object.__setattr__(self, "max_new_tokens", None if n is None else int(n))
        object.__setattr__(self, "ignore_eos", bool(self.ignore_eos))
        object.__setattr__(self, "stop", check_stop(self.stop))
        object.__setattr__(self, "eos_ids", _check_eos(self.eos_ids))

    @property
    def in_python(self) -> bool:
        """Whether rows are changed in ways that no kernel knows."""
        return self.guidance != 1 or self.repairs or self.watermark is not None

    def without_beams(self) -> Self:
        """The same, of one beam."""
        return replace(self, beams=replace(self.beams, n=1, of_files=False))


@dataclass(frozen=True)
class Timings:
    """Seconds spent inside, the consumer's own time between two pieces not counted.

    `first_token_s` runs from the start of the generation to its first id, without the load. `decode_s` is for the
    ids after the first. `n_prompt`: tokens that were read, by an encoder too; `n_reused`: those of them that were not
    computed, as a text that begins alike had them in the cache. `n_drafted`: ids that were guessed before they were
    drawn (`draft`), and checked by a pass; `n_accepted`: those of them that came. They depend on what passes took.
    """

    load_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0
    n_prompt: int = 0
    n_new: int = 0
    n_reused: int = 0
    n_drafted: int = 0
    n_accepted: int = 0

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens computed per second; 0 where nothing was fed."""
        return (self.n_prompt - self.n_reused) / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_tps(self) -> float:
        """New tokens per second after the first; 0 where there are none."""
        return (self.n_new - 1) / self.decode_s if self.n_new > 1 and self.decode_s > 0 else 0.0


@dataclass(frozen=True)
class Token:
    """One id drawn and the text that it completed (perhaps none). The last step has a reason, timings and the seed.

    `id` is None in the only step of a generation that draws nothing. `seed` is None where the answer is greedy.
    `logprobs`: that of the id, where it was asked for; before that of the first id, with `echo`, the prompt's.
    `filtered`, of the last step: the whole answer, where there are filters.
    """

    id: int | None
    text: str
    finish_reason: FinishReason | None = None
    timings: Timings | None = None
    seed: int | None = None
    logprobs: tuple[Logprob, ...] = ()
    filtered: Filtered | None = None


@dataclass(frozen=True)
class Generation:
    """A finished answer.

    `ids` holds every new id, the end-of-sequence id too; `text` holds neither it nor a stop string. `seed` is the one
    given, or the one drawn in its place: with it the same parameters give the same text. None where it is greedy.
    `score`, of beams: the sum of the ids' logarithms over length^length_penalty; `alternatives`: further answers.
    `logprobs`, where they were asked for: of each new id, after those of the prompt with `echo`. `filtered`, where
    there are filters: what they met, and the text without them; `ids` are all that were drawn.
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason
    timings: Timings
    seed: int | None = None
    score: float | None = None
    alternatives: tuple[Generation, ...] = ()
    logprobs: list[Logprob] | None = None
    filtered: Filtered | None = None


def check_ids(ids: object, n_vocab: int, *, what: str = "prompt") -> list[int]:
    """Token ids as a list of int: from a sequence or a 1-D integer array, at least one, each in [0, n_vocab).

    Errors: `InputError` naming the position and the value.
    """
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            msg = f"{what}: an array of shape {ids.shape} and dtype {ids.dtype}; expected one dimension of integers"
            raise InputError(msg)
        ids = ids.tolist()
    if isinstance(ids, str | bytes | bytearray) or not isinstance(ids, Sequence):
        text = "a text, " if what == "prompt" else ""
        how = "; model.tokenizer.encode(text) makes them of a text" if isinstance(ids, str) else ""
        msg = f"{what}: {type(ids).__name__} found, expected {text}a list or a 1-D array of token ids{how}"
        raise InputError(msg)
    if not ids:
        msg = f"{what}: no token ids; give at least one (the model's bos id starts a text from nothing)"
        raise InputError(msg)
    if type(ids) is list and {*map(type, ids)} == {int} and min(ids) >= 0 and max(ids) < n_vocab:
        return list(ids)  # a long prompt is checked at once
    for position, i in enumerate(ids):
        if not _is_integer(i):
            many = what == "prompt" and isinstance(i, str | list | tuple | np.ndarray)
            instead = "; model.generate answers a list of several" if many else ""
            msg = f"{what}: id {shown(i)} at position {position} is {type(i).__name__}, expected an integer{instead}"
            raise InputError(msg)
        if not 0 <= i < n_vocab:
            msg = f"{what}: id {shown(i)} at position {position} is not in the vocabulary, expected 0 to {n_vocab - 1}"
            raise InputError(msg)
    return [int(i) for i in ids]


#: `GenerationConfig`'s name -> the field of `GenerateParams`; all others are those of `SamplingParams`.
_ENDINGS = {
    "max_new_tokens": "max_new_tokens",
    "stop_strings": "stop",
    "eos_token_id": "eos_ids",
    "ignore_eos": "ignore_eos",
    "priority": "priority",
    "draft": "draft",
}


def params_from(  # noqa: PLR0913 - keywords
    *,
    eos_ids: Iterable[int] = (),
    rules: Rules | None = None,
    n_vocab: int | None = None,
    constraint: Constraint | None = None,
    whole: tuple[int, Sequence[int] | None] | None = None,
    files_beams: bool = False,
    **keywords: Unpack[GenerateKwargs],
) -> GenerateParams:
    """Parameters from keywords that carry `GenerationConfig`'s names; None is "not given", but for `max_new_tokens`.

    `eos_ids` are the model's own, used where `eos_token_id` (an id or several) is not given. `stop` is short for
    `stop_strings`. Without `do_sample`, giving `temperature` or a truncation such as `top_p` asks for sampling, unless
    the temperature is 0; with none of them the answer is greedy. Where it is sampled, a `seed` that is not given is
    drawn here, afresh each time. `rules`: the model's own, for a vocabulary of `n_vocab`. `constraint`: what of the
    keywords the answer is held to, compiled (`constraint_of`). `whole`: entries of the
    whole vocabulary, and the ids that are left of a cut one. `files_beams`: what is said of beams is the model's
    files', and there are none where the call asks for what does not go with them. Errors: `InputError`, with the known
    names for an unknown one.
    """
    check_names(keywords, GenerateKwargs.__annotations__, "generation parameter")
    given: dict[str, Any] = {n: v for n, v in keywords.items() if v is not None or n == "max_new_tokens"}
    for of_text in ("adapter", "cache_salt"):
        given.pop(of_text, None)
    if "decoder_start_token_id" in given:
        msg = "decoder_start_token_id: a text begins with its prompt; leave it out, or put it before the prompt"
        raise InputError(msg)
    for short, name in {"stop": "stop_strings", "n": "num_return_sequences"}.items():
        if short in given:
            if name in given:
                msg = f"{short} and {name} are the same parameter: give one of them"
                raise InputError(msg)
            given[name] = given.pop(short)
    given.setdefault("do_sample", any(name in given for name in ASK_TO_SAMPLE))
    ending = {field: given.pop(name) for name, field in _ENDINGS.items() if name in given}
    ending.setdefault("eos_ids", tuple(eos_ids))
    wanted = rules_from({name: given.pop(name) for name in RULES if name in given}, rules or Rules(), n_vocab)
    penalties = penalties_from({name: given.pop(name) for name in PENALTIES if name in given}, n_vocab)
    asked_as = "n" if keywords.get("n") is not None else "num_return_sequences"
    beams = beams_from({name: given.pop(name) for name in BEAMS if name in given}, asked_as, of_files=files_beams)
    told = logprobs_from({name: given.pop(name) for name in LOGPROBS if name in given}, n_vocab)
    ending |= {"logprobs": told, "processors": processors_from(given.pop("logits_processor", None))}
    ending |= {"overflow": overflow_of(given.pop("overflow", None)), "constraint": constraint}
    ending |= {"block": block_from(given.pop("stop_at", None)), "filters": _filters(given.pop("filters", None))}
    ending |= _last_of(given, n_vocab, whole)
    if "show_tokens" in given:
        ending["shows"] = _check_shown(given.pop("show_tokens"), n_vocab)
    params = GenerateParams(sampling=SamplingParams(**given), rules=wanted, penalties=penalties, beams=beams, **ending)
    if beams.of_files and (_apart(params) or params.overflow == "window"):
        params = params.without_beams()
    _check_together(params, asked_as)
    return params


def _filters(value: object) -> Filters | None:
    """Errors: `InputError`."""
    if value is None:
        return None
    from .filters.filters import filters_of  # noqa: PLC0415 - few need it

    return filters_of(value)


def _last_of(
    given: dict[str, Any], n_vocab: int | None, whole: tuple[int, Sequence[int] | None] | None
) -> dict[str, Any]:
    """What `GenerateParams` has of guidance, a watermark and numbers that are none. Errors: `InputError`."""
    scale, mark = given.pop("guidance_scale", 1.0), given.pop("watermarking_config", None)
    number = real(scale)
    if number is None or abs(number) > MOST_GUIDANCE:
        msg = f"guidance_scale={shown(scale)}: expected a number from -{MOST_GUIDANCE} to {MOST_GUIDANCE} (1 is off)"
        raise InputError(msg)
    made: dict[str, Any] = {"guidance": number}
    made["repairs"] = switch("remove_invalid_values", given.pop("remove_invalid_values", False))
    if not (mark is None or mark is False or (isinstance(mark, list) and not mark)):
        size, kept = whole or (n_vocab or 0, None)
        from .watermark import watermark_from  # noqa: PLC0415 - few need it

        made["watermark"] = watermark_from(mark, size, kept)
    return made


def _check_shown(ids: object, n_vocab: int | None) -> tuple[int, ...]:
    """Ids whose text is shown. Errors: `InputError`."""
    if isinstance(ids, str) or not is_iterable(ids):
        msg = f"show_tokens={shown(ids)}: expected a list of token ids, or of special tokens as they are spelled"
        raise InputError(msg)
    most = sys.maxsize if n_vocab is None else n_vocab - 1
    return tuple(whole_number(f"show_tokens[{i}]", token, least=0, most=most) for i, token in enumerate(ids))


def _apart(params: GenerateParams) -> str | None:
    """What of the parameters does not go with beams."""
    apart = {
        "stop_strings": params.stop,
        "stop_at": params.block,
        "sampling": not params.sampling.greedy,
        "logprobs (top_logprobs, echo)": params.logprobs,
        "logits_processor": params.processors,
        "priority": params.priority,
        "draft": params.draft,
        "guidance_scale": params.guidance != 1,
        "" if params.constraint is None else params.constraint.name: params.constraint,
    }
    return next((name for name, given in apart.items() if given), None)


def _check_together(params: GenerateParams, asked_as: str) -> None:
    """InputError for parameters of which each is right, and which do not go together.

    `asked_as`: the name by which several answers were asked for.
    """
    beams, what = params.beams, _apart(params)
    if beams.n > 1 and what is not None:
        msg = f"num_beams={beams.n}: {what} and beams do not go together here; leave one of them out"
        raise InputError(msg)
    if beams.n > 1 and params.overflow == "window":
        msg = f"num_beams={beams.n}: beams end where the context is full; leave out overflow='window', or the beams"
        raise InputError(msg)
    if beams.n_return > 1 == beams.n and params.sampling.greedy:
        msg = f"{asked_as}={beams.n_return}: the likeliest answer is one; sample, or give num_beams"
        raise InputError(msg)


def most_ids(text: TextLike, params: GenerateParams) -> int:
    """Ids that are fed of a text, at most: the context, but for one that may outgrow it."""
    return LONGEST if params.overflow == "window" else text.n_context


def check_prompt(
    text: TextLike, prompt_ids: object, params: GenerateParams, *, decodes: bool, bos_ids: Sequence[int] = ()
) -> list[int]:
    """Ids that a sequence can go on with: None goes on from what is there. Errors: `InputError`.

    `decodes`: there is a tokenizer, so that answers have a text. `bos_ids`: ids that a cut prompt begins with, as
    before (`cut_left`).
    """
    ids = [] if prompt_ids is None and len(text) else check_ids(prompt_ids, text.n_vocab)
    if params.overflow == "truncate-left":
        ids = cut_left(ids, len(text), text.n_context, params.max_new_tokens, bos_ids)
    total, most = len(text) + len(ids), most_ids(text, params)
    if total > most:
        msg = (
            f"prompt: {total} tokens, {total - most} more than the context of {most}; shorten the prompt, "
            "or load the model with a larger max_context where it was made for one"
        )
        if params.overflow == "error":
            msg += ", or see overflow"
        raise InputError(msg)
    if total > text.n_context and params.logprobs is not None and params.logprobs.echo:
        msg = f"echo: a text of {total} tokens, which outgrows the context of {text.n_context}, has none; leave it out"
        raise InputError(msg)
    asked = {"stop_strings": params.stop, "stop_at": params.block, "filters": params.filters}
    name = next((name for name, given in asked.items() if given), None)
    if name is not None and not decodes:
        msg = f"{name}: this model has no tokenizer, so its answers have no text to find it in"
        raise InputError(msg)
    return ids


def tokens(text: TextLike, made: Generator[Token | Draw, Drawn, None]) -> Generator[Token, None, None]:
    """The tokens of `steps` of a text, whose ids are drawn one after the other.

    An exception (Ctrl-C) inside a step ends the answer; the sequence keeps its ids, and goes on from them.
    """
    try:
        step = next(made, None)
        while step is not None:
            if isinstance(step, Draw):
                step = made.send(text.drawn(step))
            else:
                yield step
                step = next(made, None)
    finally:
        made.close()  # whoever keeps an exception keeps this call, and what it has


def steps(  # noqa: PLR0913 - keywords
    text: TextLike,
    prompt: list[int],
    params: GenerateParams,
    spelling: Spelling | Callable[[Sequence[int]], str] | None = None,
    *,
    load_s: float = 0.0,
    number: int = 0,
    n_source: int = 0,
    filtering: Filtering | None = None,
    speculation: Speculation | None = None,
    at_once: bool = False,
    guidance: Guidance | None = None,
) -> Generator[Token | Draw, Drawn, None]:
    """Go on with a sequence: add the prompt, a list of checked ids; then ask for draws, and give tokens, until an end.

    Each `Draw` is answered by what was drawn (`send`); so a caller may have several texts on their way.
    `number`: which of several answers to one prompt it is, for the draws; `n_source`: tokens that an encoder reads
    before the first, for the timings; `filtering`: what the text goes through (default: afresh, where the parameters
    have filters); `speculation`: what drafts ids, which changes none; `at_once`: nobody reads the tokens before the
    last is there; `guidance`: the second text of an answer that asks for one. Without a `spelling` (`decode(ids) ->
    str` will do) the tokens have no text.
    """
    n_prompt, room = len(prompt), most_ids(text, params) - len(text) - len(prompt) + 1  # the last drawn is never fed
    if room < 1:
        msg = f"the sequence grew to {len(text)} ids since the prompt was checked: {n_prompt} more do not fit"
        raise InputError(msg)
    limit = room if params.max_new_tokens is None else min(params.max_new_tokens, room)
    at_limit: FinishReason = "length" if limit == params.max_new_tokens else "context"
    ends = () if params.ignore_eos else params.eos_ids
    ask = params.logprobs
    writer = Writer(spelling, text.ids + prompt, params, filtering)
    began = time.perf_counter()
    text.append(prompt)
    told = () if ask is None or not ask.echo else (yield from _echoed(text, n_prompt, ask))
    if limit == 0:
        timings = Timings(load_s=load_s, prefill_s=time.perf_counter() - began if told else 0.0, n_prompt=n_prompt)
        yield Token(None, "", at_limit, timings, params.sampling.drawn_by, told, writer.filtered())
        return
    sampler = _sampler(text, params, number, limit)
    steered = None if sampler is None else _steered(text, params, ends, sampler)
    speculation = _speculation(speculation, sampler, steered)
    at_once = at_once and speculation is None and _looks_at_none(params, sampler)
    drawn = yield Draw(sampler, limit, ends, ask, first=True, guidance=guidance)
    token, prefill_s, first_token_s = drawn.token, drawn.at - began, time.perf_counter() - began
    n_reused, told = 0 if told else min(drawn.n_reused, n_prompt), (*told, *drawn.logprobs)
    began, decode_s = began + first_token_s, 0.0
    for n_new in range(1, limit + 1):
        reason: FinishReason | None = at_limit if n_new == limit else None
        piece, ended = writer.write(token, shows=token not in ends)
        if ended is not None:
            reason = ended
        elif token in ends:
            reason = "eos"
        if steered is not None and steered.ends_with(token, writer.plain) and not ends and reason is None:
            reason = "stop"
        if reason is not None:
            rest, reason = _end(writer, steered, reason)
            piece += rest
            decode_s += time.perf_counter() - began
            n_read, later_s = n_source + n_prompt, decode_s if n_new > 1 else 0.0
            timings = Timings(load_s, prefill_s, later_s, first_token_s, n_read, n_new, n_reused)
            if speculation is not None:
                timings = replace(timings, n_drafted=speculation.n_drafted, n_accepted=speculation.n_accepted)
            yield Token(token, piece, reason, timings, params.sampling.drawn_by, told, writer.filtered())
            return
        decode_s += time.perf_counter() - began
        yield Token(token, piece, logprobs=told)
        began = time.perf_counter()
        if sampler is not None:
            sampler.observe((token,))
        left = limit - n_new
        wanted = Draw(
            sampler, left, ends, ask, speculation=speculation, steered=steered, at_once=at_once, guidance=guidance
        )
        token, told = yield from _next(text, steered, wanted)


def _next(
    text: TextLike, steered: Steered | None, wanted: Draw
) -> Generator[Token | Draw, Drawn, tuple[int, tuple[Logprob, ...]]]:
    """The next id, and what is told of it: one that is drawn, or the only one that may come, which needs no pass."""
    forced = None if steered is None or wanted.logprobs is not None else steered.forced()
    if forced is not None:
        text.go_on_with((forced,))
        return forced, ()
    drawn = yield wanted
    return drawn.token, drawn.logprobs


def _speculation(wanted: Speculation | None, sampler: Sampler | None, steered: Steered | None) -> Speculation | None:
    """None where what may come in a later row is known only once the ids before it are drawn.

    First layers draft in whatever thread takes the pass, and what an answer is held to is its own thread's.
    """
    known = sampler is None or (sampler.tells_ahead and not sampler.calls_python)
    here = steered is None or wanted is None or wanted.in_pass is None
    return wanted if known and here else None


def _looks_at_none(params: GenerateParams, sampler: Sampler | None) -> bool:
    """Whether ids alone end the answer, and neither how one is drawn nor what is told of it depends on those before."""
    looks = params.block, params.filters, params.constraint, params.logprobs
    none = not params.stop and all(each is None for each in looks)
    return none and (sampler is None or sampler.constant)


def _end(writer: Writer, steered: Steered | None, reason: FinishReason) -> tuple[str, FinishReason]:
    """What was held back of an answer, and why it ended."""
    rest, ended = writer.end()
    if steered is not None and ended is None:
        steered.check(writer.plain, reason)
    return rest, reason if ended is None else ended


def _echoed(text: TextLike, n: int, ask: LogprobParams) -> Generator[Token | Draw, Drawn, tuple[Logprob, ...]]:
    """What is told of the last `n` ids of a text, as many at a time as a pass has rows."""
    end = len(text)
    first = max(1, end - n)
    told: tuple[Logprob, ...] = (Logprob(text.ids[0], None),) if n == end else ()
    for at in range(first, end, text.n_rows):
        drawn = yield Draw(None, 0, (), ask, range(at, min(at + text.n_rows, end)))
        told += drawn.logprobs
    return told


def collect(made: Iterable[Token]) -> Generation:
    """Run a stream to its end."""
    ids: list[int] = []
    pieces: list[str] = []
    told: list[Logprob] = []
    for token in made:
        ids += [] if token.id is None else [token.id]
        pieces.append(token.text)
        told += token.logprobs
        if token.finish_reason is not None and token.timings is not None:
            text, logprobs = "".join(pieces), told or None
            reason, timings = token.finish_reason, token.timings
            return Generation(text, ids, reason, timings, token.seed, logprobs=logprobs, filtered=token.filtered)
    msg = "the stream has no last step: it was closed or read from before"
    raise InputError(msg)


def retold(made: Generation) -> list[Token]:
    """A finished answer as tokens; its whole text comes with the last."""
    told = made.logprobs or []
    n_echo = max(0, len(told) - len(made.ids))
    tokens = [
        Token(i, "", logprobs=tuple(told[0 if k == 0 else n_echo + k : n_echo + k + 1])) for k, i in enumerate(made.ids)
    ]
    last = tokens.pop() if tokens else Token(None, "", logprobs=tuple(told))
    end = replace(
        last, text=made.text, finish_reason=made.finish_reason, timings=made.timings, seed=made.seed,
        filtered=made.filtered,
    )  # fmt: skip
    return [*tokens, end]


def answer(  # noqa: PLR0913, PLR0917 - what a `Generation` has
    ids: list[int],
    prompt: list[int],
    params: GenerateParams,
    decode: Spelling | None,
    at_limit: FinishReason,
    timings: Timings,
) -> Generation:
    """The `Generation` of ids that are there all at once."""
    writer = Writer(decode, prompt, params)
    ends = () if params.ignore_eos else params.eos_ids
    text = "".join(writer.write(i)[0] for i in ids if i not in ends)
    rest, ended = writer.end()
    reason: FinishReason = ended or ("eos" if ids and ids[-1] in ends else at_limit)
    return Generation(text + rest, ids, reason, replace(timings, n_new=len(ids)), filtered=writer.filtered())


def _steered(text: TextLike, params: GenerateParams, ends: Sequence[int], sampler: Sampler) -> Steered | None:
    """What the answer is held to, after the text so far; the sampler draws by its masks."""
    if params.constraint is None:
        return None
    before = text.ids
    forced = params.rules.forced_bos if len(before) == 1 else None
    return Steered(params.constraint, before, sampler, ends, forced)


def _sampler(text: TextLike, params: GenerateParams, number: int, limit: int) -> Sampler | None:
    """What draws the ids, having seen the text so far; None where the largest logit's id is taken as it is."""
    how, changes = params.sampling, None
    ends = () if params.ignore_eos else params.eos_ids
    if not params.penalties.off:
        changes = Changes(text.n_vocab, params.penalties, ends, params.source)
    sampler: Sampler
    if not params.rules.off or params.processors:
        sampler = Ruled(
            text.n_vocab, how, replace(params.rules, ends=ends), ids=text.ids, limit=limit, sequence=number,
            processors=params.processors, changes=changes,
        )  # fmt: skip
    elif how.plain and changes is None and params.constraint is None and not params.in_python:
        return None
    else:
        sampler = Sampler(text.n_vocab, how, sequence=number, changes=changes)
        sampler.observe(text.ids, answer=False)
    sampler.repairs, sampler.guided = params.repairs, params.guidance != 1
    if params.watermark is not None:
        sampler.marking = params.watermark.begin()
        sampler.marking.observe(text.ids, answer=False)
    return sampler


def _check_draft(draft: object) -> bool | str | None:
    """`draft` of a call. Errors: `InputError`: what a model must be loaded for."""
    if draft is None or isinstance(draft, bool | np.bool_) or (isinstance(draft, str) and draft == NGRAM):
        return bool(draft) if isinstance(draft, np.bool_) else draft
    what = f"draft={shown(draft)}: expected False (none), {NGRAM!r}, or None (as the model was loaded)"
    msg = f"{what}; other drafts are loaded with the model: load(..., draft={shown(draft)})"
    raise InputError(msg)


def _check_eos(eos: object) -> tuple[int, ...]:
    if isinstance(eos, np.ndarray):
        eos = eos.tolist()  # of no dimension: one id
    ids = (eos,) if _is_integer(eos) else eos
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        msg = f"eos_token_id={shown(eos)}: expected a token id or a list of them"
        raise InputError(msg)
    ids = tuple(islice(ids, MAX_EOS + 1))
    if len(ids) > MAX_EOS:
        msg = f"eos_token_id={shown(eos)}: expected at most {MAX_EOS} ids"
        raise InputError(msg)
    for i in ids:
        if not _is_integer(i) or i < 0:
            msg = f"eos_token_id={shown(eos)}: {shown(i)} found, expected token ids, integers >= 0"
            raise InputError(msg)
    return tuple(int(i) for i in ids)


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)
