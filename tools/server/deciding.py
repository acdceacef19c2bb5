"""What both forms of typed decisions share: the questions of one request, one after the other."""

from __future__ import annotations

from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from ...errors import ConfigError, InputError, TokenizerError
from ..decisions.reading import Call, reader_of
from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..decisions.questions import Question
    from ..decisions.reading import Reading
    from .admission import Ticket
    from .served import Entry
    from .state import State

__all__ = ["decided"]


async def decided(
    entry: Entry, state: State, ticket: Ticket, said: str, questions: Sequence[Question]
) -> list[Reading]:
    """How likely each option is. The state's tokens are computed once, by the first question.

    A client that goes away is not answered any further. Errors: `RequestError`, for a model that decides nothing too.
    """
    ticket.hold(entry.model.n_context)
    try:
        reader = await state.prepare(partial(state.kept, entry.model, reader_of))
    except (ConfigError, InputError, TokenizerError) as e:
        raise RequestError(str(e), param="model", code="not_supported") from e
    gone = Event()
    call = Call(entry.adapter, gone, ticket.salt)
    try:
        return [await state.compute(partial(reader.read, said, question, call)) for question in questions]
    finally:
        gone.set()
