"""An answer's ids become text, a piece at a time: nothing is shown that is withdrawn later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .blocks import BlockEnd
from .detokenize import Spelling, StopStrings, TextStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .filters.filters import Filtered, Filtering
    from .generate import FinishReason, GenerateParams

__all__ = ["Writer"]


class Writer:
    """Ids to pieces of text: detokeniser, stop strings, a block's end, then filters, then what is held back at the end.

    Stop strings are looked for in the text with its special tokens; what is shown has none.
    """

    def __init__(
        self,
        spelling: Spelling | Callable[[Sequence[int]], str] | None,
        prompt: list[int],
        params: GenerateParams,
        filtering: Filtering | None = None,
    ) -> None:
        """After a prompt. `filtering`: what the text goes through; None: made here, where there are filters."""
        how = Spelling(spelling) if callable(spelling) else spelling
        self._shown = None if how is None else TextStream(how, prompt)
        self._searched = None if how is None or not params.stop else TextStream(how, prompt, full=True)
        self._stop, self._block = StopStrings(params.stop), None
        self._filtering = params.filters.filtering() if filtering is None and params.filters is not None else filtering
        self.plain = ""  # the last piece, before filters
        if params.block is not None and how is not None:
            line = params.block.line
            self._block = BlockEnd(how.decode(prompt).rpartition("\n")[2] if line is None else line)

    def write(self, token: int, *, shows: bool = True) -> tuple[str, FinishReason | None]:
        """Return text that is safe to show, and what ends it: a stop string, a filter. `shows`: `token` has a text."""
        piece, stopped = self._written(token, shows=shows)
        if self._block is not None:
            piece = self._block.push(piece) + (self._block.flush() if stopped else "")
            stopped = stopped or self._block.stopped
        return self._through(piece, stopped)

    def end(self) -> tuple[str, FinishReason | None]:
        """Return what was held back, and what ended the text: a stop string or a filter."""
        piece, stopped = self._rest()
        if self._block is not None:
            piece = self._block.push(piece) + self._block.flush()
            stopped = stopped or self._block.stopped
        piece, reason = self._through(piece, stopped)
        if self._filtering is None:
            return piece, reason
        piece += self._filtering.end()
        return piece, self._filtering.finish_reason or reason

    def filtered(self) -> Filtered | None:
        """The text, where there are filters."""
        return None if self._filtering is None else self._filtering.filtered()

    def _through(self, piece: str, stopped: bool) -> tuple[str, FinishReason | None]:  # noqa: FBT001 - what `_written` returns
        self.plain = piece
        if self._filtering is not None:
            piece = self._filtering.push(piece)
            if self._filtering.finish_reason is not None:
                return piece, self._filtering.finish_reason
        return piece, "stop" if stopped else None

    def _written(self, token: int, *, shows: bool) -> tuple[str, bool]:
        """Text without stop strings, and whether one was completed."""
        piece = self._shown.push(token) if shows and self._shown is not None else ""
        if self._searched is None:
            return piece, False
        out = self._stop.push(self._searched.push(token), piece)
        if self._stop.completed_by(self._searched.pending()):
            out += self._rest()[0]
        return out, self._stop.stopped

    def _rest(self) -> tuple[str, bool]:
        """Return what was held back, and whether it completed a stop string."""
        if self._shown is None or self._stop.stopped:
            return "", self._stop.stopped
        rest = self._shown.flush()
        if self._searched is None:
            return rest, False
        text = self._stop.push(self._searched.flush(), rest)
        return text + self._stop.flush(), self._stop.stopped
