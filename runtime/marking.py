"""What a watermark can do, and the fields of `watermarking_config` that ask for one of the two that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GREEN", "NAME", "SYNTHID", "Marking", "Watermark"]

NAME = "watermarking_config"
#: The fields of `WatermarkingConfig`, and of `SynthIDTextWatermarkingConfig`; any of these asks for SynthID's.
GREEN = ("greenlist_ratio", "bias", "hashing_key", "seeding_scheme", "context_width")
SYNTHID = (
    "ngram_len", "keys", "context_history_size", "sampling_table_seed", "sampling_table_size", "skip_first_ngram_calls",
    "debug_mode",
)  # fmt: skip


class Marking(Protocol):
    """A watermark on one text, whose ids it is told."""

    def observe(self, ids: Iterable[int], *, answer: bool) -> None:
        """Add ids: of the answer, or of the text before it."""

    def copy(self) -> Self:
        """Another that goes on from here by itself."""

    def mark(self, scores: NDArray[np.float32]) -> None:
        """Change [n_vocab] scores of what comes next, the last of all that do; -inf stays."""


class Watermark(Protocol):
    """How a text is marked."""

    def begin(self) -> Marking:
        """On a text of which nothing is seen yet."""
