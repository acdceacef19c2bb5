"""A model's own first layers as a drafter: what they cost, and how their ids are drawn; `ahead.py` runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..drawing import row_words
from ..sampling import Sampler
from ..sampling_params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .costs import Costs
    from .speculative import Begun

__all__ = ["FirstLayers", "like"]


def like(how: SamplingParams) -> SamplingParams | None:
    """How a drafter draws that guesses what is drawn so; None: it takes the largest logit's id."""
    alike = SamplingParams(how.temperature, how.top_k, how.top_p, how.min_p, do_sample=True, seed=how.seed or 0)
    return None if how.greedy else alike


class FirstLayers:
    """A drafter of one answer; its ids are guessed by `ahead.look_ahead`, with the answer's own numbers."""

    computes = False
    read_s = 0.0

    def __init__(self, seconds: Costs, share: float, n_vocab: int, begun: Begun) -> None:
        """`seconds`: of passes of the first layers; `share`: of a whole pass that one takes, until it was measured."""
        how = like(begun.sampling)
        self._sampler = None if how is None else Sampler(n_vocab, how, sequence=begun.number)
        self._seconds, self._share = seconds, share

    def missing(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        """None: the cache has them."""
        return 0

    def kind(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        """One alone."""
        return 0

    def cost(self, n_texts: int, unit: float) -> float:
        """As of all drafters: the texts are drafted for together."""
        seconds = self._seconds.seconds(n_texts)
        return seconds / unit if seconds and unit else self._share

    def draft(self, ids: Sequence[int], most: int) -> list[int]:  # noqa: ARG002 - as of all drafters
        """Nothing: the pass drafts."""
        return []

    def words(self, position: int) -> NDArray[np.int64] | None:
        """How the id at a position is drawn; None: the largest logit's."""
        return None if self._sampler is None else row_words(self._sampler, position)
