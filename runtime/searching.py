"""Answers that are there all at once: sequences and parameters go in, a `Generation` of each comes out."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..dataclass import dataclass
from ..errors import InputError
from ..handlers import raised_in_handler
from .beams import Found, Searched, Wanted, search
from .exits import Exits
from .generate import Timings, Token, answer, collect, most_ids, steps, tokens
from .pages import Caller
from .processors import ends_one_text
from .settling import settled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .detokenize import Spelling
    from .engine.scheduler import Engine
    from .engine.wants import Want
    from .filters.filters import Filtering
    from .generate import Draw, Drawn, FinishReason, GenerateParams, Generation
    from .sequence import Sequence
    from .session import Session

__all__ = ["Asked", "answers", "gathered", "spread"]


@dataclass(frozen=True)
class Asked:
    """A sequence, checked ids that it goes on with, and how. `load_s`, `n_source`: for its timings."""

    sequence: Sequence
    prompt: list[int]
    params: GenerateParams
    spelling: Spelling | None
    load_s: float = 0.0
    n_source: int = 0
    number: int = 0  # of several answers
    model: Callable[[], str] | None = None  # which it is, for an audit

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return () if self.params.ignore_eos else self.params.eos_ids

    def limit(self) -> tuple[int, FinishReason]:
        """The most ids that an answer may have, and what it is called to reach that."""
        room = most_ids(self.sequence, self.params) - len(self.sequence) - len(self.prompt) + 1
        wanted = self.params.max_new_tokens
        limit = room if wanted is None else min(wanted, room)
        return limit, "length" if limit == wanted else "context"

    def tokens(self, filtering: Filtering | None = None, *, at_once: bool = False) -> Generator[Token, None, None]:
        """The answer, an id at a time; of what has no beams. `at_once`: as of `steps`."""
        return tokens(self.sequence, self.steps(filtering, at_once=at_once))

    def streamed(self) -> Asked:
        """For who reads it as it comes: without beams, where the model's files alone ask for them.

        Errors: `InputError` for what is known at its end.
        """
        beams = self.params.beams
        if beams.of_files:
            return replace(self, params=self.params.without_beams()).streamed()
        if beams.n > 1 or beams.n_return > 1:
            what = f"num_beams={beams.n}: beams" if beams.n > 1 else f"{beams.n_return} answers"
            msg = f"{what} are known at their end; use generate"
            raise InputError(msg)
        return self

    def steps(
        self, filtering: Filtering | None = None, *, at_once: bool = False
    ) -> Generator[Token | Draw, Drawn, None]:
        """The same, as what is to be drawn and what came of it. `at_once`: nobody reads it before its end."""
        self.sequence.table.begin(self.params.priority)
        guidance = self.sequence.guidance(self.params, len(self.sequence) + len(self.prompt) - 1)
        made = steps(
            self.sequence,
            self.prompt,
            self.params,
            self.spelling,
            load_s=self.load_s,
            number=self.number,
            n_source=self.n_source,
            filtering=filtering,
            speculation=self.sequence.speculation(self.params, self.number),
            at_once=at_once,
            guidance=guidance,
        )
        return made if guidance is None else guidance.during(made)


def answers(session: Session, asked: list[Asked], check: Callable[[], None] = lambda: None) -> list[Generation]:
    """The answer to each, in order; the sequences go on with it. Their parameters are alike, but for what they read.

    They go on together, as many as there is room for. `check`: beams call it before each step and while
    they wait for room, and end with what it raises. Errors: `InputError`; where one answer cannot go on, the others
    come to their end before it is raised.
    """
    if asked and asked[0].params.beams.n > 1:
        return _searched(session, asked, check)
    with Exits() as opened:
        each = [one for several in asked for one in spread(several, opened)]
        if session.engine is not None and len(each) > 1:
            made = _together(session.engine, each, session.n_logits)
        else:
            made = []
            for one in each:
                with one.sequence.as_it_was():
                    made.append(one.sequence.awaiting(partial(collect, one.tokens(at_once=True))))
    made = [settled(one, generation) for one, generation in zip(each, made, strict=True)]
    n = len(made) // len(asked) if asked else 1
    return [gathered(one, made[i * n : (i + 1) * n]) for i, one in enumerate(asked)]


def spread(asked: Asked, opened: Exits) -> list[Asked]:
    """Each of the answers that are asked for: the first goes on with the sequence, the others with copies.

    The prompt's log-probabilities are the first's alone; `gathered` hands them on.
    """
    twins = [opened.enter_context(asked.sequence.fork()) for _ in range(1, asked.params.beams.n_return)]
    params, told = asked.params, asked.params.logprobs
    if told is not None and told.echo:
        params = replace(params, logprobs=replace(told, echo=False))
    others = (replace(asked, sequence=twin, number=i, params=params) for i, twin in enumerate(twins, 1))
    return [asked, *others]


def gathered(asked: Asked, made: list[Generation]) -> Generation:
    """The first of the answers to one prompt, with the others."""
    first, *others = made
    told = asked.params.logprobs
    if told is not None and told.echo and first.logprobs is not None:
        prompt = first.logprobs[: len(asked.prompt)]
        others = [replace(each, logprobs=[*prompt, *(each.logprobs or ())] or None) for each in others]
    return replace(first, alternatives=tuple(others))


def _together(engine: Engine, asked: list[Asked], most: int) -> list[Generation]:
    """Answers that share passes, `most` at a time."""
    caller, runs = Caller(), [_Going(each) for each in asked]
    later, going = deque(runs), list[_Going]()
    with caller.going(), Exits() as opened:
        while later or going:
            while later and len(going) < most:
                run = later.popleft()
                opened.enter_context(run.sequence.as_it_was())
                opened.callback(caller.leaves, run.sequence.table)
                opened.callback(run.end)
                caller.waits_for(run.sequence.table)
                run.begin()
                going.append(run)
            waiting = [(run, run.want) for run in going if run.want is not None]
            if waiting:
                _served(engine, waiting)
            for run, want in waiting:
                if want.done:
                    run.go_on(want)
            for run in going:
                if run.want is None:  # it ended: others may have its pages
                    caller.leaves(run.sequence.table)
            going = [run for run in going if run.want is not None]
    errors = [run.error for run in runs if run.error is not None]
    if errors:
        runs.clear()  # nobody holds what is raised
        raise errors.pop(0)
    return [collect(run.tokens) for run in runs]


def _served(engine: Engine, waiting: list[tuple[_Going, Want]]) -> None:
    """Wait until one of them is done; who is struck keeps what was drawn."""
    try:
        engine.serve([want for _, want in waiting])
    except BaseException:
        for run, want in waiting:
            run.sequence.keep(want)
        raise


class _Going:
    """One answer on its way: what it waits for, the tokens that it has, or why it ended before its time."""

    def __init__(self, asked: Asked) -> None:
        self.want: Want | None = None
        self.tokens: list[Token] = []
        self.error: BaseException | None = None
        self.sequence, self._steps = asked.sequence, asked.steps(at_once=True)

    def end(self) -> None:
        """Nothing more comes of it: what it has besides its text is others' now."""
        self._steps.close()

    def begin(self) -> None:
        """Go on to the first draw."""
        self._until_it_waits(next(self._steps, None))

    def go_on(self, want: Want) -> None:
        """With what was waited for."""
        self.want = None
        try:
            self._until_it_waits(self._steps.send(self.sequence.taken(want)))
        except BaseException as e:  # a caller's function may raise anything: it ends this text alone
            if not ends_one_text(e):
                raise
            raised_in_handler(e)
            self.error, self.want = e, None

    def _until_it_waits(self, step: Token | Draw | None) -> None:
        while step is not None:
            if isinstance(step, Token):
                self.tokens.append(step)
                step = next(self._steps, None)
            elif (drawn := self.sequence.at_hand()) is not None:
                step = self._steps.send(drawn)
            else:
                break
        self.want = None if step is None else self.sequence.wanted(step)


def _searched(session: Session, asked: list[Asked], check: Callable[[], None]) -> list[Generation]:
    """The best answer to each, with the others as its `alternatives`."""
    params, ends = asked[0].params, asked[0].ends
    texts = [a.sequence.ids + a.prompt for a in asked]
    limits = [a.limit() for a in asked]
    wanted = [_wanted(a, text, limit) for a, text, (limit, _) in zip(asked, texts, limits, strict=True) if limit > 0]
    with Exits() as refused:
        for a in asked:
            refused.enter_context(a.sequence.as_it_was())
            a.sequence.append(a.prompt)
        penalty = params.sampling.repetition_penalty
        made = iter(search(session, wanted, params.beams, ends, penalty, check=check))
    nothing = Searched([Found([], 0.0)])
    generations = [
        _generation(a, text, next(made) if limit > 0 else nothing, at_limit)
        for a, text, (limit, at_limit) in zip(asked, texts, limits, strict=True)
    ]
    for a, best in zip(asked, generations, strict=True):
        a.sequence.go_on_with(best.ids)
    return generations


def _wanted(asked: Asked, text: list[int], limit: int) -> Wanted:
    params, table = asked.params, asked.sequence.table
    rules = replace(params.rules, ends=asked.ends)
    return Wanted(
        table, text, rules, limit, params.penalties, params.source, watermark=params.watermark, repairs=params.repairs
    )


def _generation(asked: Asked, text: list[int], result: Searched, at_limit: FinishReason) -> Generation:
    first = result.prefill_s
    spent = Timings(asked.load_s, first, result.decode_s, first, asked.n_source + len(asked.prompt))
    made = [
        replace(answer(a.ids, text, asked.params, asked.spelling, at_limit, spent), score=a.score)
        for a in result.answers
    ]
    made = [settled(replace(asked, number=i), each) for i, each in enumerate(made)]
    return replace(made[0], alternatives=tuple(made[1:]))
