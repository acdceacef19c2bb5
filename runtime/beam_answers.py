"""Answers by beam search: sequences and parameters go in, the best `Generation` of each comes out, others with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .beams import Found, Searched, Wanted, search
from .exits import Exits
from .generate import Timings, answer
from .settling import settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from .generate import FinishReason, Generation
    from .searching import Asked
    from .session import Session

__all__ = ["searched"]


def searched(session: Session, asked: list[Asked], check: Callable[[], None]) -> list[Generation]:
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
