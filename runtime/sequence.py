"""`Sequence` owns what belongs to one text: its ids, its pages of the KV cache, what draws its next id."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import field, replace
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeVar, cast

import numpy as np

from ..dataclass import dataclass
from ..errors import BackendError, InputError, MiaotuiError, TokenizerError, is_iterable, shown, spelled_like
from .constraints import constraint_of
from .detokenize import Spelling
from .drawing import row_words
from .engine.ahead import Ahead
from .engine.scheduler import CLOSED
from .engine.speculative import Begun, block_words
from .engine.state import SequenceState, put_back, take_out
from .engine.wants import Guided, Run, Want
from .floats import usual_floats
from .generate import Drawn, Generation, check_ids, check_prompt, params_from
from .guidance import Guidance, guided
from .logprobs import LogProbs, told_of
from .memory import memory_named
from .parameters import DEFAULT_NEW_TOKENS, TOKENS, GenerateKwargs, overflow_of, salt_of, spelled_out
from .penalty_params import DRY_BREAKERS
from .rope import LONGEST
from .rules import Rules
from .sampling import NotNumbersError, not_numbers
from .sampling_params import real
from .searching import Asked, answers
from .settling import streamed
from .stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from collections.abc import Sequence as Ids
    from os import PathLike
    from typing import Unpack

    from numpy.typing import NDArray

    from .constraints import Constraint
    from .detokenize import TextFilter
    from .engine.scheduler import Engine
    from .engine.speculative import Speculation
    from .generate import Draw, GenerateParams, Token
    from .logprobs import Logprob
    from .pages import Table
    from .parameters import Overflow
    from .sampling import Sampler
    from .session import Session

    Prompt = str | Ids[int] | NDArray[np.integer[Any]]

__all__ = ["OF_DECODERS", "Codec", "Sequence", "Text"]

#: What else of `overflow` than "error" is.
OF_DECODERS = "of decoders only; shorten what the encoder reads, and leave it out"

T = TypeVar("T")


class Codec(Protocol):
    """From a text to ids and back: what a sequence asks of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text."""

    def spelled(self, ids: Ids[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids before its clean-up."""

    def token_to_id(self, token: str) -> int | None:
        """The id of a token's exact spelling."""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the special tokens."""

    def id_to_token(self, token_id: int) -> str | None:
        """The spelling of an id."""

    @property
    def unsettled_ids(self) -> frozenset[int]:
        """Ids whose text the ids after them may change."""

    @property
    def filtered(self) -> Callable[[str], TextFilter] | None:
        """From the text before to the clean-up of what follows."""


@dataclass(frozen=True)
class Text:
    """How a model's texts become ids. `codec` reads the tokenizer when it is first asked, and raises if none is."""

    codec: Callable[[], Codec | None] = lambda: None
    has_codec: Callable[[], bool] = lambda: False
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    load_s: float = 0.0
    rules: Rules = field(default_factory=Rules)
    save: Callable[[SequenceState, str | PathLike[str]], None] | None = None  # of `Sequence.save`
    model: Callable[[], str] | None = None  # which it is, for an audit of filters
    constrain: Callable[[str, object], Constraint] | None = None  # what an answer must be, of a name and a value
    said: Mapping[str, Any] = field(default_factory=dict)  # parameters, where a call does not give them
    said_of_sampling: Mapping[str, Any] = field(default_factory=dict)  # the same, where it says do_sample=True
    whole: tuple[int, Ids[int] | None] | None = None  # entries of the whole vocabulary, and what is left of a cut one

    def held(self, parameters: GenerateKwargs) -> tuple[GenerateKwargs, Constraint | None]:
        """The parameters without what the answer must be, and that, compiled. Errors: as `constraint_of`."""
        return constraint_of(parameters, self.constrain if self.has_codec() else None)

    def compiled(self, parameters: GenerateKwargs) -> GenerateKwargs:
        """With what the answer must be compiled, for several calls."""
        left, made = self.held(parameters)
        return parameters if made is None else cast("GenerateKwargs", {**left, made.name: made})

    def completed(self, parameters: GenerateKwargs) -> GenerateKwargs:
        """With those that the model's files say, where the caller gave none."""
        given = {name for name, value in parameters.items() if value is not None}
        sampled = isinstance(do := parameters.get("do_sample"), bool | np.bool_) and do
        said = {**self.said, **(self.said_of_sampling if sampled else {})}
        beams = parameters.get("num_beams")  # which may be anything
        one = beams is None or (isinstance(beams, Integral) and beams == 1)
        if "stop" in given or not one or not self.has_codec():
            said.pop("stop_strings", None)
        return cast("GenerateKwargs", {**parameters, **{name: v for name, v in said.items() if name not in given}})

    def with_ids(self, parameters: GenerateKwargs) -> GenerateKwargs:
        """The parameters with ids in the places of tokens that they name. Errors: `InputError`: there is none such."""
        named = {name: value for name in TOKENS if isinstance(value := parameters.get(name), str)}
        parameters = self._with_shown(self._with_breakers(parameters))
        if not named:
            return parameters
        codec, ids = self.codec(), {}
        for name, token in named.items():
            ids[name] = None if codec is None else codec.token_to_id(token)
            if codec is None or ids[name] is None:
                msg = f"{name}={shown(token)}: {_no_token(codec, token)}"
                raise InputError(msg)
        return cast("GenerateKwargs", {**parameters, **ids})

    def _with_shown(self, parameters: GenerateKwargs) -> GenerateKwargs:
        """Ids for the tokens that the text shows."""
        given: Any = parameters.get("show_tokens")
        if given is None or isinstance(given, str) or not is_iterable(given):
            return parameters  # a text is refused
        codec, ids = self.codec(), list[Any]()
        for i, token in enumerate(given):
            found = codec.token_to_id(token) if codec is not None and isinstance(token, str) else token
            if found is None or isinstance(found, str):
                msg = f"show_tokens[{i}]={shown(token)}: {_no_token(codec, token)}"
                raise InputError(msg)
            ids.append(found)
        return {**parameters, "show_tokens": ids}

    def _with_breakers(self, parameters: GenerateKwargs) -> GenerateKwargs:
        """Ids for the texts at which DRY's matches end: the last id of each after a letter, as p-e-w has it."""
        given = parameters.get("dry_sequence_breakers")
        wanted = given is not None or real(parameters.get("dry_multiplier"))
        if not wanted or (codec := self.codec() if self.has_codec() else None) is None:
            return parameters
        texts = DRY_BREAKERS if given is None else [given] if isinstance(given, str) else given
        if not is_iterable(texts):
            return parameters  # which are refused
        try:
            ids = self._breakers(codec, texts, asked=given is not None)
        except TokenizerError as e:
            msg = f"dry_sequence_breakers={shown(given)}: {e}"
            raise TokenizerError(msg) from None
        return {**parameters, "dry_sequence_breakers": ids}

    @staticmethod
    def _breakers(codec: Codec, texts: Iterable[Any], *, asked: bool) -> list[str | int]:
        """The last id of each; `asked`: by the caller, to whom one without any is an `InputError`."""
        letter = codec.encode("a", add_special_tokens=False)
        ids: list[str | int] = []
        for text in texts:
            if text == "":
                msg = "dry_sequence_breakers: '' is empty, and ends no match; leave it out"
                raise InputError(msg)
            spelled = codec.encode(f"a{text}", add_special_tokens=False) if isinstance(text, str) else [text]
            if spelled != letter:  # else the tokenizer drops it, as T5's does a newline, and the letter would be its id
                ids += spelled[-1:]
            elif asked:
                msg = f"dry_sequence_breakers: the tokenizer has no token for {shown(text)}; leave it out"
                raise InputError(msg)
        return ids


def _no_token(codec: Codec | None, token: str) -> str:
    """Why a token has no id, with special tokens that are spelled alike: a language's are."""
    if codec is None:
        return "this model has no tokenizer; give the id"
    spelled = [name for i in codec.special_ids if (name := codec.id_to_token(i)) is not None]
    near = [name for name in spelled if token in name] or spelled_like(token, spelled)
    return "the tokenizer has no such token" + (f"; did you mean {', '.join(near[:3])}?" if near else "")


#: Of a model without a tokenizer.
NO_TEXT = Text()


def _told(draw: Draw, row: NDArray[np.float32], n: int, token: int) -> tuple[Logprob, ...]:
    """What is asked of id `n` of a text."""
    return () if draw.logprobs is None else (LogProbs(row, n - 1).told(token, draw.logprobs.n_top),)


def _drawn_rows(  # noqa: PLR0913, PLR0917 - what a pass left, and of what
    session: Session, table: Table, draw: Draw, n: int, row: int, drafted: Ids[int] = ()
) -> list[tuple[int, tuple[Logprob, ...]]]:
    """Ids that follow the first `n` of a text, from its rows of logits, with what is told of them; part of a turn.

    After the drafted ids that were right comes one more; slots of the others are forgotten. Errors: `InputError`, where
    no first id can be drawn: where a later one cannot, the next pass says so.
    """
    made: list[tuple[int, tuple[Logprob, ...]]] = []
    for i in range(len(drafted) + 1):
        token = session.greedy(row + i)
        if draw.sampler is not None and (token >= 0 or draw.sampler.repairs):
            token = session.drawn(row + i)
            if token < 0 and not i:
                token = draw.sampler.draw(session.logits[row], n)  # which says why there is none
        if token < 0 and not i:
            raise not_numbers(n - 1)
        if token < 0:
            break
        made.append((token, _told(draw, session.logits[row + i], n + i, token)))
        if i < len(drafted) and drafted[i] != token:
            break
    if drafted:
        session.pages.truncate(table, n + len(made) - 1)
        table.unsure = 0
    return made


def _spelling(codec: Codec, shows: Ids[int] = (), *, tidy: bool = True) -> Spelling:
    """`shows`: special tokens that are a part of the text; `tidy`: it is cleaned up where the tokenizer asks for it."""
    full = partial(codec.spelled, skip_special_tokens=False)
    decode: Callable[[Ids[int]], str] = codec.spelled
    if shows:
        hidden = frozenset(codec.special_ids) - set(shows)
        decode = lambda ids: full([i for i in ids if i not in hidden])  # noqa: E731 - as `full`
    return Spelling(decode, full, codec.unsettled_ids, codec.filtered if tidy else None)


class Sequence:
    """One text on a model, made by `Model.sequence`; several may be open, each with its own pages of the cache.

    `generate`, `stream` and `tokens` go on with the text, `feed` adds ids and returns logits, `fork` copies it,
    `truncate` shortens it, `close` frees it. `ids` is the whole text so far, the last id drawn included. What the cache
    does not hold (another sequence may have needed the pages) is computed when the text goes on. Other sequences may
    be used in other threads at the same time; one sequence belongs to one caller at a time. A call that is refused
    leaves the text as it was. With `overflow="window"` it may outgrow the context (docs/sessions.md). Errors:
    `InputError`.
    """

    def __init__(  # noqa: PLR0913 - keywords
        self,
        session: Session,
        text: Text | None = None,
        *,
        table: Table | None = None,
        ids: Ids[int] = (),
        source: Ids[int] | None = None,
        seed: int | None = None,
        overflow: Overflow | None = None,
        adapter: int = 0,
        salt: str = "",
    ) -> None:
        """Made by `Model.sequence` and `fork`. `source`: checked ids that an encoder reads, of an encoder-decoder.

        `seed`, `overflow`: where a call gives none; `adapter`: its number, `salt`: as in
        `Table`, of a new table. Errors: `InputError`.
        """
        self._overflow = overflow_of(overflow)
        if self._overflow != "error":
            _check_overflow(session, self._overflow, seq2seq=source is not None)
        self._session, self._text, self._ids = session, NO_TEXT if text is None else text, list(ids)
        self._table = session.admit(table)
        if self._overflow == "window":
            self._table.capacity = session.n_context
        if table is None:
            self._table.adapter, self._table.salt = adapter, salt
        if source is not None:
            self._table.source = session.encoded(source, adapter)
        self._seed = seed
        self._following: Iterator[int] | None = None
        self._at_hand: deque[Drawn] = deque()  # drawn in the pass of the last id, after it
        self._speculation: Speculation | None = None
        self._is_ahead = False  # whether the cache may hold more than the ids
        self._closed = False
        self._written_by: str | None = None  # once it is closed
        self._leave = session.left.when_dropped(self, self._table)

    @property
    def ids(self) -> list[int]:
        """The text's ids, a copy."""
        return list(self._ids)

    def __len__(self) -> int:
        """Ids so far."""
        return len(self._ids)

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that it is read and written with; None: the model alone."""
        return self._written_by if self._closed else self._session.adapters.name_of(self._table.adapter)

    @property
    def n_context(self) -> int:
        """Positions that the model has reserved for a text."""
        return self._session.n_context

    @property
    def n_vocab(self) -> int:
        """Entries of the vocabulary."""
        return self._session.n_vocab

    @property
    def n_rows(self) -> int:
        """Rows of logits that a pass can have."""
        return min(self._session.n_logits, self._session.chunk)

    @property
    def table(self) -> Table:
        """For the runtime: its part of the cache."""
        return self._table

    def turn(self, work: Callable[[], T]) -> T:
        """For the runtime: do work while no other sequence is computed; a step, and what is read of it."""
        return self._session.turn(work)

    def awaiting(self, work: Callable[[], T]) -> T:
        """For the runtime: do work, while somebody waits for this text, so that its pages are not taken."""
        return self._session.awaiting(self._table, work)

    def append(self, ids: Ids[int]) -> None:
        """For the runtime: add checked ids, and compute nothing yet. Errors: `InputError`; the text is as it was."""
        self._check_open()
        self._session.check_outside()
        self._session.check_room(self._table.slots(len(self._ids) + len(ids)))
        self._settle()
        self._ids += ids

    def _settle(self) -> None:
        """Forget what was drawn of this text, and not asked for."""
        if self._is_ahead:
            self._at_hand.clear()
            self._session.truncate(self._table, len(self._ids))
            self._speculation, self._is_ahead = None, False

    def advance(self, n_logits: int = 1) -> None:
        """For the runtime: compute what the cache lacks; the session then holds logits of the last `n_logits` ids."""
        self._check_open()
        self._following = None
        self._session.compute(self._table, self._ids, n_logits)
        self._check_open()  # closed between two passes, its pages are another's

    @memory_named("feed")
    def feed(self, ids: object) -> NDArray[np.float32]:
        """Append ids and return the logits after the last, float32 [n_vocab], a copy."""
        wanted = self._checked(ids)
        with self.as_it_was():
            self.append(wanted)
            return self.turn(self._last) if self._session.engine is None else self._fed(self._session.engine)

    def _last(self) -> NDArray[np.float32]:
        self.advance()
        logits: NDArray[np.float32] = self._session.logits[-1].copy()
        return logits

    def _fed(self, engine: Engine) -> NDArray[np.float32]:
        self._table.begin(0)
        want = Want(self._table, self._ids, lambda row: self._session.logits[row].copy())
        engine.serve([want])
        self._check_open()
        logits: NDArray[np.float32] = want.result()
        return logits

    def drawn(self, draw: Draw) -> Drawn:
        """For the runtime: compute what the cache lacks, draw the next id and append it.

        Errors: `InputError` where the logits are no numbers.
        """
        engine = self._session.engine
        if engine is None:
            return self.turn(partial(self._drawn_alone, draw))
        if (drawn := self.at_hand()) is not None:
            return drawn
        want = self.wanted(draw)
        try:
            engine.serve([want])
        except BaseException:
            self.keep(want)
            raise
        return self.taken(want)

    def keep(self, want: Want) -> None:
        """For the runtime: who is struck while he waits for several ids keeps those that were drawn; once."""
        if isinstance(want, Run):
            self._ids += want.drawn

    def wanted(self, draw: Draw) -> Want:
        """For the runtime: the next id, as something to wait for; `taken` appends it."""
        self._check_open()
        self._check_begun()
        if draw.told is not None:
            return self._told(draw, draw.told)
        session, table, sampler, n = self._session, self._table, draw.sampler, len(self._ids)
        if draw.at_once and draw.left > 1 and not draw.first:
            return self._run(draw)
        if draw.guidance is not None and sampler is not None:
            return self._guided(draw, draw.guidance, sampler)
        drafted, ahead = self._drafted(draw)
        masks = draw.steered.ahead(drafted) if drafted and draw.steered is not None else []
        drafted = drafted if draw.steered is None else drafted[: len(masks)]
        check = partial(_drawn_rows, session, table, draw, n)
        draws: list[NDArray[np.int64]] = []
        if sampler is not None and drafted:
            draws = block_words(sampler, n, drafted, masks)
        elif sampler is not None and (words := row_words(sampler, n)) is not None:
            draws = [words]
        return Want(table, self._ids, check, draws=draws, drafted=drafted, check=check, ahead=ahead)

    def guidance(self, params: GenerateParams, first: int) -> Guidance | None:
        """For the runtime: the second text of an answer, which begins with id `first` of this one; None: none is."""
        if params.guidance == 1:
            return None
        return Guidance(self._session, params.guidance, first, self._table)

    def _guided(self, draw: Draw, how: Guidance, sampler: Sampler) -> Guided:
        """The next id, by what follows this text and the second one."""
        session, n = self._session, len(self._ids)

        def drawn(row: NDArray[np.float32], other: NDArray[np.float32]) -> list[tuple[int, tuple[Logprob, ...]]]:
            token = sampler.draw(guided(row, other, how.scale), n)
            return [(token, _told(draw, row, n, token))]

        second = (how.table, self._ids[how.first :])
        return Guided(self._table, self._ids, lambda row: session.logits[row].copy(), drawn, second)

    def _run(self, draw: Draw) -> Run:
        """All ids up to the answer's end, as something to wait for."""
        session, table, sampler = self._session, self._table, draw.sampler

        def drawn(row: int, n: int) -> int:
            return _drawn_rows(session, table, draw, n, row)[0][0]

        self._is_ahead = True
        words = None if sampler is None else row_words(sampler, len(self._ids))
        return Run(table, self._ids, drawn, most=draw.left, ends=draw.ends, words=words)

    def _drafted(self, draw: Draw) -> tuple[list[int], Ahead | None]:
        """Ids that may follow, of which the next pass is to tell; or that it is to draft them itself."""
        speculation, session, n = draw.speculation, self._session, len(self._ids)
        if speculation is None or session.engine is None or draw.first:
            return [], None
        turning = session.program.turning
        # No more than may be asked for; and every row is computed as the plain run would: with the rotation of a text
        # of its length, and before more tokens are left out.
        most = min(draw.left - 1, self._table.until(n - 1) - n, turning - n if n <= turning else draw.left)
        length = speculation.length(self._ids, most, session.engine.n_answers)
        if not length:
            return [], None
        self._speculation, self._is_ahead, first = speculation, True, speculation.in_pass
        if first is not None:
            return [], Ahead(first, length, n, draw.sampler)
        return speculation.guessed(self._ids, length), None

    def at_hand(self) -> Drawn | None:
        """For the runtime: the next id, where the pass of an earlier one drew it too; it is appended."""
        self._check_open()
        if not self._at_hand:
            return None
        drawn = self._at_hand.popleft()
        self._ids.append(drawn.token)
        return drawn

    def _told(self, draw: Draw, told: range) -> Want:
        """As `wanted`, of ids that are there: the rows before them are computed, whatever is cached."""
        session, ids, params = self._session, self._ids[told.start : told.stop], draw.logprobs
        assert params is not None  # noqa: S101 - what `steps` asks

        def take(row: int) -> list[tuple[int, tuple[Logprob, ...]]]:
            return [(-1, told_of(session.logits[row : row + len(told)], ids, told.start, params))]

        return Want(self._table, self._ids[: told.stop - 1], take, len(told))

    def taken(self, want: Want) -> Drawn:
        """For the runtime: what was waited for, at the end of the text. Errors: as `drawn`."""
        self._check_open()
        if isinstance(want, Run):
            try:
                first, *later = want.result()
            except BaseException:
                self.keep(want)
                raise
            self._at_hand.extend(Drawn(token, want.at) for token in later)
            self._ids.append(first)
            return Drawn(first, want.at, want.n_reused)
        made: list[tuple[int, tuple[Logprob, ...]]] = want.result()
        if want.n_checked and self._speculation is not None:
            right = [d == token for d, (token, _) in zip(want.drafted[: want.n_checked], made, strict=False)]
            self._speculation.learn(want.n_checked, sum(right))
        (token, told), *others = made
        self._at_hand.extend(Drawn(token, want.at, 0, told) for token, told in others)
        if token >= 0:
            self._ids.append(token)
        return Drawn(token, want.at, want.n_reused, told)

    @usual_floats()
    def _drawn_alone(self, draw: Draw) -> Drawn:
        """On a backend that has one text at a time: it may work ahead, up to one of the ids that end the answer."""
        self._check_begun()
        session, n, sampler = self._session, len(self._ids), draw.sampler
        if draw.told is not None and draw.logprobs is not None:
            self._following = None
            session.compute(self._table, self._ids[: draw.told.stop - 1], len(draw.told))
            ids = self._ids[draw.told.start : draw.told.stop]
            return Drawn(-1, time.perf_counter(), 0, told_of(session.logits, ids, draw.told.start, draw.logprobs))
        if draw.first:
            self.advance()
        self._check_open()
        at = time.perf_counter()
        if self._table.cached < n - 1 or self._table is not session.ahead_of:
            self._following = None
        here = draw.logprobs is not None or (sampler is not None and sampler.host_only)  # a row is looked at here
        if self._following is None and self._table.cached == n - 1 and not here:
            self._following = session.ahead(self, self._ids[-1], n - 1, draw.left, draw.ends, sampler)
        token = next(self._following, None) if self._following is not None else None
        if token is None:
            if self._table.cached < n or session.last is not self._table:
                session.compute(self._table, self._ids)
                self._check_open()
            token = session.argmax
            if sampler is not None and (token >= 0 or sampler.repairs):
                token = sampler.draw(session.logits[-1], n)
        else:
            self._table.cached = n
        if token < 0:
            self._following = None
            raise not_numbers(n - 1)
        self._ids.append(token)
        return Drawn(token, at, 0, _told(draw, session.logits[-1], n, token) if here else ())

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("tokens")
    def tokens(self, prompt: Prompt | None = None, **parameters: Unpack[GenerateKwargs]) -> Iterator[Token]:
        """Go on: ids, pieces of text, finish reason and timings, a token at a time. Parameters are checked at once.

        A text in `prompt` is encoded with the tokenizer's special tokens only where the sequence begins with it.
        """
        asked = self.asked(prompt, parameters)
        asked = asked.streamed()
        if asked.params.filters is None:
            return Stream(self._read(asked.tokens()))
        filtering = asked.params.filters.filtering()
        return Stream(streamed(asked, filtering, self._read(asked.tokens(filtering))))

    def _read(self, made: Iterator[Token]) -> Generator[Token, None, None]:
        """While the reader asks for a token, he waits for this text; refused before the first, it is as it was."""
        with self.as_it_was():
            token = self._next(made)
        while token is not None:
            yield token
            token = self._next(made)

    def _next(self, made: Iterator[Token]) -> Token | None:
        return self.awaiting(lambda: next(made, None))

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """For the runtime: what is refused leaves the text as it was, be it by a typed error or for want of memory."""
        n = len(self._ids)
        try:
            yield
        except (MiaotuiError, MemoryError) as e:
            if len(self._ids) > n and not isinstance(e, NotNumbersError):
                self._cut(n)
            raise

    def _cut(self, n: int) -> None:
        self._following = None
        self._at_hand.clear()
        self._session.truncate(self._table, n)  # first: what the cache holds may be less than the text, never other
        del self._ids[n:]

    def asked(self, prompt: Prompt | None, parameters: GenerateKwargs) -> Asked:
        """For the runtime: what `generate` will do, checked. Errors: `InputError`."""
        text, is_text = self._text, isinstance(prompt, str)
        if self._table.source is None and parameters.get("forced_bos_token_id") is not None:
            msg = "forced_bos_token_id: of encoder-decoders only; leave it out, or end the prompt with this token"
            raise InputError(msg)
        self._check_adapter(parameters.get("adapter"))
        self._check_salt(parameters.get("cache_salt"))
        given, constraint = text.held(text.with_ids(text.completed(parameters)))
        if self._seed is not None and given.get("seed") is None:
            given = {**given, "seed": self._seed}
        if given.get("overflow") is None:
            given = {**given, "overflow": self._overflow}
        params = self._params(given, constraint, files_beams=parameters.get("num_beams") is None)
        if self._table.source is not None and params.logprobs is not None and params.logprobs.echo:
            msg = "echo: of decoders only; an encoder-decoder's prompt is read by its encoder, which predicts no ids"
            raise InputError(msg)
        if params.overflow != "error":
            _check_overflow(self._session, params.overflow, seq2seq=self._table.source is not None)
        finds = params.stop or params.block or params.filters
        codec = text.codec() if is_text or finds or text.has_codec() else None
        ids: object = prompt
        if isinstance(prompt, str) and codec is not None:
            ids = codec.encode(prompt, add_special_tokens=not self._ids)
            ids = ids if ids or self._ids else list(text.bos_ids[:1])
        checked = check_prompt(self, ids, params, decodes=codec is not None, bos_ids=text.bos_ids)
        if params.overflow == "window":
            self._table.capacity = self.n_context
        self._session.check_room(self._table.slots(len(self._ids) + len(checked)))
        source = self._table.source
        if params.rules.no_repeat_of_source:
            before = self._ids + checked if source is None else source.ids
            params = replace(params, rules=replace(params.rules, source=tuple(before)))
        if source is not None and params.penalties.source_penalty != 1:
            params = replace(params, source=tuple(source.ids))
        read = 0 if source is None or source.table.cached else len(source.ids)
        spelling = None if codec is None else _spelling(codec, params.shows, tidy=constraint is None)
        asked = Asked(self, checked, params, spelling, text.load_s, read, model=text.model)
        self._check_guided(asked)
        return asked

    def _params(self, given: GenerateKwargs, constraint: Constraint | None, *, files_beams: bool) -> GenerateParams:
        text = self._text
        params = params_from(
            eos_ids=text.eos_ids,
            rules=text.rules,
            n_vocab=self.n_vocab,
            constraint=constraint,
            whole=text.whole,
            files_beams=files_beams,
            **given,
        )
        one = params.beams.of_files and not self._session.backend.paged  # a GPU has none
        return params.without_beams() if one else params

    def _check_guided(self, asked: Asked) -> None:
        """That a second text can be read with this one. Errors: `InputError`, `BackendError`."""
        if asked.params.guidance == 1:
            return
        what, session, pages = f"guidance_scale={asked.params.guidance:g}", self._session, self._session.pages
        if session.engine is None:
            msg = f"{what}: {session.backend.name} has one text at a time, and this needs a second; use device='cpu'"
            raise BackendError(msg)
        if self._table.source is not None:
            msg = f"{what}: of decoders only; leave it out"
            raise InputError(msg)
        if asked.params.overflow == "window":
            msg = f"{what}: a second text cannot outgrow the context with the first; leave out overflow='window'"
            raise InputError(msg)
        n_new = max(0, asked.limit()[0])
        length = len(self._ids) + len(asked.prompt) + n_new
        needed = pages.needed(length) + pages.needed(1 + n_new)
        if needed > pages.n_pages:
            msg = (
                f"{what}: a second text is read with the answer, up to {1 + n_new} tokens next to {length}; load with "
            )
            msg += f"cache_tokens={needed * pages.size} (now {pages.n_pages * pages.size}), or give a smaller "
            msg += "max_new_tokens; guidance_scale=1 is off"
            raise InputError(msg)

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("stream")
    def stream(self, prompt: Prompt | None = None, **parameters: Unpack[GenerateKwargs]) -> Iterator[str]:
        """Go on, and return the new text in pieces as it comes."""
        made = self.tokens(prompt, **parameters)
        return Stream(t.text for t in made if t.text)

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("generate")
    def generate(self, prompt: Prompt | None = None, **parameters: Unpack[GenerateKwargs]) -> Generation:
        """Go on to an end: `.text`, `.ids`, `.finish_reason`, `.timings`, `.seed` of what is new."""
        return answers(self._session, [self.asked(prompt, parameters)])[0]

    def speculation(self, params: GenerateParams, number: int) -> Speculation | None:
        """For the runtime: what drafts the ids of an answer; None: nothing does."""
        session, source = self._session, None if self._table.source is None else self._table.source.ids
        before = () if source is None or session.n_text_vocab != self.n_vocab else source
        begun = Begun(source, before, params.sampling, number, self.adapter, self._table.salt)
        return session.drafting.begin(params.draft, begun)

    def go_on_with(self, ids: Ids[int]) -> None:
        """For the runtime: add ids that were drawn from this text; the last may stand one past the context."""
        self._check_open()
        for _ in zip(ids, tuple(self._at_hand), strict=False):
            self._at_hand.popleft()  # which is the same: nothing else may come
        self._ids += ids

    @property
    def seed(self) -> int | None:
        """The seed of calls that draw and give none, as `fork` was given it; None: each draws one afresh."""
        return self._seed

    @memory_named("fork")
    def fork(self, *, seed: int | None = None) -> Sequence:
        """Another sequence that begins with this text and shares its pages.

        `seed`: of its draws, where a call gives none (default: as this sequence has it), taken modulo 2**64.
        """
        self._check_open()
        if seed is None:
            seed = self._seed
        elif not isinstance(seed, Integral) or isinstance(seed, bool):
            msg = f"fork(seed={shown(seed)}): expected an integer, or None"
            raise InputError(msg)
        else:
            seed = int(seed) % 2**64

        def twin() -> Sequence:
            self._settle()
            try:
                table = self._session.pages.share(self._table)
                return Sequence(
                    self._session, self._text, table=table, ids=self._ids, seed=seed, overflow=self._overflow
                )
            except BaseException:
                self._session.pages.torn = True  # the table is perhaps nobody's: the next change counts again
                raise

        return self.turn(twin)

    @memory_named("save")
    def save(self, path: str | PathLike[str]) -> None:
        """Write the text and its part of the cache to a file, from which `Model.load_sequence` goes on.

        One safetensors file (docs/sessions.md), which is there whole or not at all. What another text took of the cache
        is computed again when the text goes on. Errors: `InputError`, `BackendError` (a GPU).
        """
        self._check_open()
        session, write = self._session, self._text.save
        if self._table.adapter and not session.adapters.is_there(self._table.adapter):
            msg = f"save: the adapter {shown(self.adapter)} of this sequence was removed (remove_adapter), so no model "
            msg += "could go on with the file; save it before"
            raise InputError(msg)
        if write is None:
            msg = "save: this sequence was not made by a Model, and nothing knows how to write it; use model.sequence()"
            raise InputError(msg)
        if session.engine is None:
            session.backend.pools(0)  # which says why there are none
        self._settle()
        source = None if self._table.source is None else self._table.source.ids
        outgrew = len(self._ids) > self.n_context + 1 or self._table.gap  # the last may stand one past it, not fed
        context = self.n_context if outgrew or self._overflow == "window" else 0
        text = SequenceState(list(self._ids), source, self._seed, adapter=self.adapter, context=context)
        write(self.turn(lambda: take_out(session, session.program, self._table, text)), path)

    def restore(self, state: SequenceState) -> None:
        """For the runtime: of a sequence that was made with a state's ids, source and seed, its part of the cache."""
        session, table = self._session, self._table
        self.turn(lambda: put_back(session, session.program, table, state))
        table.ids = self._ids  # from now on others may begin like it

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refused: `pickle`, `copy`, `deepcopy`."""
        msg = "a Sequence cannot be copied or pickled; fork() makes another that begins alike, and `ids` is its text"
        raise InputError(msg)

    @memory_named("truncate")
    def truncate(self, n: int) -> None:
        """Keep the first `n` ids."""
        self._check_open()
        whole = isinstance(n, Integral) and not isinstance(n, bool)
        if not whole or not 0 <= n <= len(self._ids):
            msg = f"truncate({shown(n)}): expected 0 to {len(self._ids)}, the ids that the sequence has"
            raise InputError(msg)

        self.turn(partial(self._cut, int(n)))

    @memory_named("close")
    def close(self) -> None:
        """Free the pages, and the place of an adapter whose name is gone. Harmless when done twice."""
        self._written_by = self.adapter
        self._closed, self._following = True, None
        self._leave()
        self._table.adapter = int(self._table.adapter)  # equal, but it holds no place (`Adapters`)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    @memory_named("close")
    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """How long it is."""
        state = "closed" if self._closed else f"{min(self._table.cached, len(self._ids))} in the cache"
        return f"<miaotui.Sequence of {len(self._ids)} ids, {state}>"

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(CLOSED)

    def _check_begun(self) -> None:
        """That there is a last id, whose logits the next is drawn from. Errors: `InputError`."""
        if not self._ids:
            msg = "this answer cannot go on: its sequence was truncated to no ids; call generate again, with a prompt"
            raise InputError(msg)

    def _check_adapter(self, adapter: object) -> None:
        """That a call goes on with the adapter that the text began with. Errors: `InputError`."""
        if adapter is not None and adapter != self.adapter:  # its own, though that was removed
            wanted = self._session.adapters.number(adapter, "generate")
            if wanted != self._table.adapter:
                mine = "no adapter" if self.adapter is None else f"adapter {shown(self.adapter)}"
                msg = f"adapter={shown(adapter)}: this sequence has {mine}, and all of its text is read with that; "
                msg += f"make another with model.sequence(adapter={shown(adapter)})"
                raise InputError(msg)

    def _check_salt(self, salt: object) -> None:
        """That a call goes on with the salt that the text began with. Errors: `InputError`."""
        if salt is not None and salt_of(salt) != self._table.salt:
            msg = f"cache_salt={shown(salt)}: this sequence has another, or none; make one with "
            msg += "model.sequence(cache_salt=...)"
            raise InputError(msg)

    def _checked(self, ids: object) -> list[int]:
        """Ids that fit after those that are there."""
        wanted = check_ids(ids, self.n_vocab, what="ids")
        most, how = self.n_context, "; make it with model.sequence(overflow='window'), or feed fewer"
        if self._overflow == "window":
            most, how = LONGEST, ""
        if len(self._ids) + len(wanted) > most:
            over = len(self._ids) + len(wanted) - most
            msg = f"{len(wanted)} ids after {len(self._ids)}: {over} more than the context of {most}{how}"
            raise InputError(msg)
        return wanted


def _check_overflow(session: Session, overflow: Overflow, *, seq2seq: bool) -> None:
    """Pass what is not "error" and can be. Errors: `InputError`."""
    if overflow == "window" and not seq2seq:
        session.check_outgrows()
    elif seq2seq:
        msg = f"overflow={overflow!r}: {OF_DECODERS}"
        raise InputError(msg)
