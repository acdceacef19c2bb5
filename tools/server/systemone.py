"""POST /v1/systemone: typed decisions in System One's form. What is wrong with a request is 422, with every place."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import ConfigError
from ..decisions import system_one
from ..decisions.questions import Fault, RefusedError
from ..decisions.reading import reader_of
from .deciding import decided
from .errors import Problem, RequestError, problem_of
from .fields import Field
from .wires import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .admission import Ticket
    from .served import Entry
    from .state import State

__all__ = ["WIRE"]

#: What the clients of that API call the model where nobody says otherwise: here the first that decides.
_ALIAS = "jev-"
_MODEL = Field("model", {"type": "string"}, "A model's name; jev-latest is the first that decides.", required=True)
_STATE: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "array"}]}
FIELDS = (
    _MODEL,
    Field("state", _STATE, "What the questions are about.", required=True),
    Field("questions", {"type": "object"}, "Questions by name: noul, choice or score.", required=True),
)


@dataclass(frozen=True)
class _Refusal(Problem):
    """A request that cannot be read."""

    faults: tuple[Fault, ...] = field(default=())


def _read(_: tuple[Field, ...], body: dict[str, Any]) -> dict[str, Any]:
    """All of the body: fields that nobody knows change nothing in this form."""
    return body


async def _work(body: dict[str, Any], state: State, ticket: Ticket) -> Mapping[str, Any]:
    said, questions = system_one.request_of(body)
    entry = _entry(body["model"], state)
    readings = await decided(entry, state, ticket, said, [*questions.values()])
    answers = {
        name: system_one.answer(question, body["questions"][name].get("criteria"), reading.probabilities)
        for (name, question), reading in zip(questions.items(), readings, strict=True)
    }
    usage = {"input_tokens": sum(reading.n_tokens for reading in readings), "output_tokens": 0}
    return {"model": entry.name, "answers": answers, "usage": usage}


def _entry(name: str, state: State) -> Entry:
    """By the request's model. Errors: `RequestError` 404."""
    if name.startswith(_ALIAS) and all(entry.name != name for entry in state.served):
        for entry in state.served:
            try:
                state.kept(entry.model, reader_of)
            except (ValueError, ConfigError):
                continue
            return entry
    return state.served.find(name)


def _problem(error: BaseException, names: Mapping[str, str]) -> Problem:
    """The body's faults are 422."""
    problem = problem_of(error, names)
    if isinstance(error, RefusedError):
        faults = tuple(error.faults)
    elif isinstance(error, RequestError) and error.code != "invalid_json":
        return problem
    elif problem.status == 400:  # noqa: PLR2004 - HTTP's
        place = () if problem.param is None else (problem.param,)
        faults = (Fault(place, problem.message, "json_invalid" if problem.code == "invalid_json" else "value_error"),)
    else:
        return problem
    return _Refusal(422, problem.message, problem.kind, problem.param, problem.code, problem.headers, faults)


def _told(problem: Problem) -> dict[str, Any]:
    """As that API tells errors."""
    if isinstance(problem, _Refusal):
        told = [{"loc": ["body", *f.place], "msg": f.message, "type": f.kind} for f in problem.faults]
        return {"detail": told}
    return {"detail": {"error_type": problem.kind, "message": problem.message}}


WIRE = Work(
    "/v1/systemone", "Typed questions about a state, each with a probability for every answer.", FIELDS, _work, _told,
    names={"prompt": "state"}, read=_read, problem=_problem,
)  # fmt: skip
