"""The end of a filtered answer: `hold` decides on it, and the audit is told. Outside of the passes, so nobody waits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from .generate import Generation, Token

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from .filters.filters import Filtered, Filtering
    from .searching import Asked

__all__ = ["Answer", "abandoned", "settled", "streamed", "told"]

Answer = TypeVar("Answer", Token, Generation)


def settled(asked: Asked, answer: Answer) -> Answer:
    """A whole answer, or the last token of a stream, as it is shown. Errors: what `hold` and `audit` raise."""
    filters, filtered = asked.params.filters, answer.filtered
    return answer if filters is None or filtered is None else told(asked, answer, filters.decided(filtered))


def told(asked: Asked, answer: Answer, filtered: Filtered) -> Answer:
    """As `settled`, once it is decided on. Errors: what `audit` raises."""
    filters, reason = asked.params.filters, filtered.finish_reason or answer.finish_reason
    assert filters is not None  # noqa: S101 - or nothing was filtered
    filters.tell(filtered, **_about(asked), finish_reason=reason)
    whole = filters.hold is not None or isinstance(answer, Generation)
    return replace(answer, text=filtered.text if whole else answer.text, finish_reason=reason, filtered=filtered)


def streamed(asked: Asked, filtering: Filtering, made: Iterator[Token]) -> Generator[Token, None, None]:
    """The tokens of an answer, the last one settled; the audit is told too of one whose reader goes before that."""
    over = False
    try:
        for token in made:
            over = token.finish_reason is not None
            yield settled(asked, token) if over else token
    finally:
        if not over:
            abandoned(asked, filtering)


def abandoned(asked: Asked, filtering: Filtering) -> None:
    """Tell the audit of an answer that nobody reads to its end. Errors: what `audit` raises."""
    if asked.params.filters is not None:
        asked.params.filters.tell(filtering.abandoned(), **_about(asked), finish_reason=None)


def _about(asked: Asked) -> dict[str, Any]:
    """What an audit says of an answer besides its text."""
    model = None if asked.model is None else asked.model()
    adapter, seed = asked.sequence.adapter, asked.params.sampling.drawn_by
    return {"model": model, "adapter": adapter, "seed": seed, "number": asked.number}
