"""`watermarking_config`: which of transformers' watermarks a dict asks for, and what each of them can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, Self

from ..errors import InputError, shown
from .sampling_params import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Marking", "Watermark", "watermark_from"]

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


def watermark_from(value: object, n_vocab: int, kept: Sequence[int] | None = None) -> Watermark:
    """From one of transformers' two configs as a dict. `kept`: ids of a cut vocabulary. Errors: `InputError`."""
    if not isinstance(value, Mapping):
        raise refusal(NAME, value, "a dict such as {'bias': 2.0, 'greenlist_ratio': 0.25}, or None")
    unknown = [name for name in value if name not in GREEN + SYNTHID]
    if unknown:
        msg = f"{NAME}: unknown field {shown(unknown[0])}; known are {', '.join(GREEN)}; or, of SynthID's watermark, "
        msg += ", ".join(SYNTHID)
        raise InputError(msg)
    synthid, green = ([name for name in value if name in of] for of in (SYNTHID, GREEN))
    if synthid and green:
        msg = f"{NAME}: {green[0]!r} is a field of green lists, and {synthid[0]!r} one of SynthID's watermark; "
        msg += "leave out those of one"
        raise InputError(msg)
    ids = None if kept is None else tuple(kept)
    if synthid:
        from .synthid import tournament_from  # noqa: PLC0415 - few need it

        return tournament_from(value, ids)
    from .watermark import green_from  # noqa: PLC0415 - few need it

    return green_from(value, n_vocab, ids)
