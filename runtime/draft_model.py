"""A smaller model as a drafter: it goes on with a copy of the text, which it computes as the text grows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import MiaotuiError
from .engine.first_layers import like
from .engine.prefixes import begins_like
from .generate import Draw
from .sampling import Sampler
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

    def __init__(self, session: Session, begun: Begun, share: float = 1.0) -> None:
        """`session`: the draft model's; `share`: of the model's bytes; of a pass's time too, at first."""
        how, there = begun.sampling, session.adapters
        adapter = there.number(begun.adapter, "draft") if begun.adapter in there.names else 0  # it drafts without, too
        self._text = Sequence(session, source=begun.source, adapter=adapter, salt=begun.salt)
        alike = like(how)
        self._sampler = None if alike is None else Sampler(session.n_vocab, alike, sequence=begun.number)
        self._share, self._ended = share, False
        self.draft_s = self.read_s = 0.0

    def kind(self, ids: Ids[int]) -> int | None:
        """One kind alone; None where the text has outgrown the draft model."""
        return None if self._ended or len(ids) >= self._text.n_context else 0

    def cost(self, n_texts: int, unit: float) -> float:
        """As of all drafters: one text after the other."""
        return n_texts * (self.draft_s / unit if self.draft_s and unit else self._share)

    def missing(self, ids: Ids[int]) -> int:
        """Ids that it has not read."""
        return len(ids) - self._known(ids)

    def _known(self, ids: Ids[int]) -> int:
        """How many of the ids its text begins with; those that it guessed are there too, and may be wrong."""
        return begins_like(self._text.ids, ids, len(ids))

    def draft(self, ids: Ids[int], most: int) -> list[int]:
        """Go on with the text, which may be shorter than before, or another from some id on."""
        text, same = self._text, self._known(ids)
        guess: list[int] = []
        try:
            if len(text) > same:
                text.truncate(same)
            n_read = len(ids) - same
            text.append(ids[same:])
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
