"""Answers that are there all at once: sequences and parameters go in, a `Generation` of each comes out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from .beams import Found, Searched, Wanted, search
from .generate import Timings, answer, collect, tokens

if TYPE_CHECKING:
    from collections.abc import Generator

    from .detokenize import Spelling
    from .generate import FinishReason, GenerateParams, Generation, Token
    from .sequence import Sequence
    from .session import Session

__all__ = ["Asked", "answers"]


@dataclass(frozen=True)
class Asked:
    """A sequence, checked ids that it goes on with, and how. `load_s`, `n_source`: for its timings."""

    sequence: Sequence
    prompt: list[int]
    params: GenerateParams
    spelling: Spelling | None
    load_s: float = 0.0
    n_source: int = 0

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return () if self.params.ignore_eos else self.params.eos_ids

    def limit(self) -> tuple[int, FinishReason]:
        """The most ids that an answer may have, and what it is called to reach that."""
        room, wanted = self.sequence.n_context - len(self.sequence) - len(self.prompt) + 1, self.params.max_new_tokens
        limit = room if wanted is None else min(wanted, room)
        return limit, "length" if limit == wanted else "context"

    def tokens(self) -> Generator[Token, None, None]:
        """The answer, an id at a time; of what has no beams."""
        return tokens(
            self.sequence, self.prompt, self.params, self.spelling, load_s=self.load_s, n_source=self.n_source
        )


def answers(session: Session, asked: list[Asked]) -> list[Generation]:
    """The answer to each, in order; the sequences go on with it. Their parameters are alike, but for what they read.

    With beams all are searched together; else one is made after the other. Errors: `InputError`.
    """
    if asked and asked[0].params.beams.n > 1:
        return _searched(session, asked)
    made = []
    for each in asked:
        with each.sequence.as_it_was():
            made.append(each.sequence.awaiting(partial(collect, each.tokens())))
    return made


def _searched(session: Session, asked: list[Asked]) -> list[Generation]:
    """The best answer to each, with the others as its `alternatives`."""
    params, ends = asked[0].params, asked[0].ends
    texts = [a.sequence.ids + a.prompt for a in asked]
    limits = [a.limit() for a in asked]
    wanted = [
        Wanted(a.sequence.table, text, replace(a.params.rules, ends=ends), limit)
        for a, text, (limit, _) in zip(asked, texts, limits, strict=True)
        if limit > 0
    ]
    with ExitStack() as refused:
        for a in asked:
            refused.enter_context(a.sequence.as_it_was())
            a.sequence.append(a.prompt)
        made = iter(search(session, wanted, params.beams, ends, params.sampling.repetition_penalty))
    nothing = Searched([Found([], 0.0)])
    generations = [
        _generation(a, text, next(made) if limit > 0 else nothing, at_limit)
        for a, text, (limit, at_limit) in zip(asked, texts, limits, strict=True)
    ]
    for a, best in zip(asked, generations, strict=True):
        a.sequence.go_on_with(best.ids)
    return generations


def _generation(asked: Asked, text: list[int], result: Searched, at_limit: FinishReason) -> Generation:
    first = result.prefill_s
    spent = Timings(asked.load_s, first, result.decode_s, first, asked.n_source + len(asked.prompt))
    made = [
        replace(answer(a.ids, text, asked.params, asked.spelling, at_limit, spent), score=a.score)
        for a in result.answers
    ]
    return replace(made[0], alternatives=tuple(made[1:]))
