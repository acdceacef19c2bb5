"""Texts through an encoder: packed end to end into passes, without padding; each sees itself alone.

A text's bits do not depend on what else is in its pass, nor on its place there: its keys begin at a whole block of the
attention's order (`kvcache.KEYS`), and its positions at 0.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError
from .sequence import Sequence
from .sharing import Ask, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from .session import Session
    from .spec import Config, Head

__all__ = ["Whole", "encoded", "fed", "judged_ids", "scored"]

#: Texts that are taken from their source at a time: what a pass can hold, and no more is waited for.
MOST = 256


@dataclass(frozen=True)
class Whole:
    """A text that is fed at once: ids, and each token's type (None: all are 0).

    `rows`: the tokens whose results are asked for, of a head that gives each token some (None: all). `adapter`: the
    number of the one that it is read with; 0: none.
    """

    ids: Ids[int]
    types: Ids[int] | None = None
    rows: Ids[int] | None = None
    adapter: int = 0

    @property
    def asked(self) -> Ids[int]:
        """The tokens whose results are asked for."""
        return range(len(self.ids)) if self.rows is None else self.rows


def encoded(
    session: Session, texts: Iterable[Whole], use: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> Generator[NDArray[np.float32], None, None]:
    """`use(hidden)` of each text, in order; hidden is float32 [its tokens, d_model], a view that `use` may not keep.

    Texts are taken from their source a pass at a time. Errors: `InputError`, by the text's number, before its pass.
    """
    return _passes(session, texts, "hidden", partial(_hidden, session), use)


def fed(
    session: Session,
    texts: Iterable[Whole],
    use: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    last: bool,
) -> Generator[NDArray[np.float32], None, None]:
    """As `encoded`, of a decoder: its tokens see those before them alone. `last`: `use` gets the last token's row.

    Then as many texts as fit a pass go together; all have one adapter. Errors: `InputError`, by the text's number.
    """
    waiting: list[Whole] = []
    for n, text in enumerate(texts):
        check_whole(session, text, f"text {n}")
        if not last:
            yield use(session.hidden_rows(text.ids, text.adapter))
            continue
        if waiting and not session.fits([*(len(t.ids) for t in waiting), len(text.ids)]):
            yield from (use(row[None]) for row in session.last_hidden([t.ids for t in waiting], text.adapter))
            waiting = []
        waiting.append(text)
    if waiting:
        yield from (use(row[None]) for row in session.last_hidden([t.ids for t in waiting], waiting[0].adapter))


def _passes(
    session: Session,
    texts: Iterable[Whole],
    kind: str,
    run: Callable[[list[Whole]], Iterable[NDArray[np.float32]]],
    use: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Generator[NDArray[np.float32], None, None]:
    """`use` of each array of `run` of as many texts as fit a pass, again and again; threads share passes."""
    waiting: list[Whole] = []
    chunk = session.whole.chunk
    source, n = iter(texts), 0
    more = True
    while more or waiting:
        while more and len(waiting) < MOST and sum(len(t.ids) for t in waiting) < chunk:
            text = next(source, None)
            if text is None:
                more = False
                break
            check_whole(session, text, f"text {n}")
            waiting.append(text)
            n += 1
        if waiting:
            size = session.whole.fitting([len(t.ids) for t in waiting])
            yield from shared(session, Ask(kind, waiting[:size], partial(_fit, session), run, use))
            del waiting[:size]


def scored(session: Session, config: Config, texts: Iterable[Whole]) -> Generator[NDArray[np.float32], None, None]:
    """The head's results for each text, in order: [n_out] of a head that reads a text, [its rows, n_out] of others.

    Errors: `InputError`, as `encoded`; for a model without a head.
    """
    if config.head is None:
        msg = f"this {config.family} model has no head (architectures in config.json names none): use hidden or encode"
        raise InputError(msg)
    if config.seq2seq:
        return _judged(session, config, config.head, texts)
    return _passes(session, texts, "scores", partial(_scores, session, config.head), lambda scores: scores)


def _fit(session: Session, texts: list[Whole]) -> bool:
    return session.whole.fitting([len(t.ids) for t in texts]) == len(texts)


def _judged(
    session: Session, config: Config, head: Head, texts: Iterable[Whole]
) -> Generator[NDArray[np.float32], None, None]:
    """As `scored`, of an encoder-decoder: its decoder reads each text too, up to the place that the head reads."""
    for n, text in enumerate(texts):
        check_whole(session, text, f"text {n}")
        read = judged_ids(config, head, list(text.ids), f"text {n}")
        with Sequence(session, source=list(text.ids), adapter=text.adapter) as sequence:
            yield sequence.feed(read)


def judged_ids(config: Config, head: Head, ids: list[int], what: str) -> list[int]:
    """What an encoder-decoder's decoder reads of a text, whose last token its head then reads. Errors: `InputError`."""
    assert head.shifted is not None  # noqa: S101 - what loaders make
    assert config.decoding is not None  # noqa: S101 - as above
    end = head.shifted.end
    if end not in ids:
        msg = f"{what} lacks the id {end} (eos_token_id), at whose last place this {config.family}'s head reads"
        raise InputError(msg)
    first = ids[place_of(head, ids)] if head.shifted.wraps else config.decoding.start
    return [first, *ids[: len(ids) - 1 - ids[::-1].index(end)]]


def _scores(session: Session, head: Head, texts: list[Whole]) -> list[NDArray[np.float32]]:
    starts = np.cumsum([0, *(len(text.ids) for text in texts)]).tolist()
    if head.pooled:
        rows = [at + place_of(head, text.ids) for at, text in zip(starts, texts, strict=False)]
        return list(session.whole.scores(texts, rows))
    rows = [at + row for at, text in zip(starts, texts, strict=False) for row in text.asked]
    scores = session.whole.scores(texts, rows)
    ends = np.cumsum([0, *(len(text.asked) for text in texts)]).tolist()
    return [scores[a:b] for a, b in pairwise(ends)]


def place_of(head: Head, ids: Ids[int]) -> int:
    """The token that a head which gives a text something reads; of padding alone the first, as transformers."""
    if head.pooling != "last":
        return 0
    return next((i for i in reversed(range(len(ids))) if ids[i] != head.padding), 0)


def _hidden(session: Session, texts: list[Whole]) -> Iterator[NDArray[np.float32]]:
    """Each text's rows: views, which the next pass overwrites."""
    rows, at = session.whole.hidden(texts), 0
    for text in texts:
        yield rows[at : at + len(text.ids)]
        at += len(text.ids)


def check_whole(session: Session, text: Whole, what: str) -> None:
    """Ids, types and length are such as a pass takes: no kernel checks them again. Errors: `InputError`."""
    n = len(text.ids)
    if not 1 <= n <= session.n_context:
        msg = f"{what} has {n} tokens; this model takes 1 to {session.n_context}"
        raise InputError(msg)
    low, high, last = min(text.ids), max(text.ids), session.n_text_vocab - 1
    if low < 0 or high > last:
        msg = f"{what}: token id {low if low < 0 else high} is outside the vocabulary 0 .. {last}"
        raise InputError(msg)
    if text.types is None:
        return
    if len(text.types) != n:
        msg = f"{what} has {n} tokens and {len(text.types)} token types; expected one for each"
        raise InputError(msg)
    types = max(session.program.n_types, 1)
    if min(text.types) < 0 or max(text.types) >= types:
        msg = f"{what}: token type {max(text.types)}; this model has {types}"
        raise InputError(msg)
