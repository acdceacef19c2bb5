"""A smaller model as a drafter: it goes on with a copy of the text, which it computes as the text grows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import MiaotuiError
from .generate import Draw
from .sampling import Sampler, SamplingParams
from .sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Sequence as Ids

    from .engine.speculative import Begun
    from .session import Session

__all__ = ["ModelDrafter"]

_FADE = 0.75  # of what is known of the time, with each further measurement


class ModelDrafter:
    """Drafts of another model with the same vocabulary, drawn with the answer's own numbers.

    The same draw of a distribution that is nearly the same is nearly always the same id, so sampled answers are drafted
    as well as greedy ones; penalties and rules are left to the model itself. What ends the draft model's own text (its
    context, logits that are no numbers, a cache without room) ends the drafts of this answer alone.
    """

    computes = True

    def __init__(self, session: Session, begun: Begun) -> None:
        """`session`: the draft model's."""
        how, there = begun.sampling, session.adapters
        adapter = there.number(begun.adapter, "draft") if begun.adapter in there.names else 0  # it drafts without, too
        self._text = Sequence(session, source=begun.source, adapter=adapter)
        alike = SamplingParams(how.temperature, how.top_k, how.top_p, how.min_p, do_sample=True, seed=how.seed or 0)
        self._sampler = None if how.greedy else Sampler(session.n_vocab, alike, sequence=begun.number)
        self._n_given, self._guess = 0, list[int]()  # ids of the answer that it has read, and what it guessed next
        self._ended = False
        self.draft_s = self.read_s = 0.0

    def kind(self, ids: Ids[int]) -> int | None:
        """One kind alone; None where the text has outgrown the draft model."""
        return None if self._ended or len(ids) >= self._text.n_context else 0

    def missing(self, ids: Ids[int]) -> int:
        """Ids that it has not read."""
        return len(ids) - self._n_given

    def draft(self, ids: Ids[int], most: int) -> list[int]:
        """Go on with the text."""
        text, same = self._text, self._n_given
        for guessed, token in zip(self._guess, ids[same:], strict=False):
            if guessed != token:
                break
            same += 1
        guess: list[int] = []
        try:
            if len(text) > same:
                text.truncate(same)
            n_read = len(ids) - same
            text.append(ids[same:])
            self._n_given, self._guess = len(ids), guess
            for i in range(min(most, text.n_context + 1 - len(ids))):
                began = time.perf_counter()
                guess.append(text.drawn(Draw(self._sampler, most - i, ())).token)
                self._took(time.perf_counter() - began, n_read if i == 0 else 1)
        except MiaotuiError:
            self._ended = True
        return guess

    def _took(self, seconds: float, n_read: int) -> None:
        """A pass that read so many ids."""
        if n_read > 1:
            each = max(0.0, seconds - self.draft_s) / (n_read - 1)
            self.read_s = self.read_s * _FADE + each * (1 - _FADE) if self.read_s else each
        else:
            self.draft_s = self.draft_s * _FADE + seconds * (1 - _FADE) if self.draft_s else seconds
