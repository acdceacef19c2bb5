"""POST /v1/decisions: typed decisions in OpenAI's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..decisions import openai_form
from ..decisions.questions import RefusedError
from .deciding import decided
from .errors import Problem, problem_of
from .fields import Field, array
from .generating import MODEL, TEXT
from .wires import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .admission import Ticket
    from .state import State

__all__ = ["WIRE"]

FIELDS = (
    MODEL,
    Field("input", {"anyOf": [TEXT, array({"type": "object"}, least=1)]}, "What the questions are about: a text, or "
          "messages and calls of tools.", required=True),
    Field("questions", array({"type": "object"}, least=1, most=400), "predicate, choice or score.", required=True),
    Field("safety_identifier", TEXT, "Has no effect."),
    Field("prompt_cache_key", TEXT, "Has no effect: what begins alike is computed once in any case."),
    Field("prompt_cache_options", {"type": "object"}, "Has no effect."),
)  # fmt: skip


async def _work(given: dict[str, Any], state: State, ticket: Ticket) -> Mapping[str, Any]:
    said, asked = openai_form.state_of(given["input"]), openai_form.questions_of(given["questions"])
    entry = state.served.find(given.get("model"))
    readings = await decided(entry, state, ticket, said, [each.question for each in asked])
    n = sum(reading.n_tokens for reading in readings)
    usage = {
        "input_tokens": n,
        "input_tokens_details": {"cached_tokens": sum(r.n_reused for r in readings), "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": n,
    }
    answers = [openai_form.answer(each, r.probabilities) for each, r in zip(asked, readings, strict=True)]
    return {"model": entry.name, "answers": answers, "usage": usage}


def _problem(error: BaseException, names: Mapping[str, str]) -> Problem:
    """A fault's place is the parameter."""
    problem = problem_of(error, names)
    if not isinstance(error, RefusedError):
        return problem
    first = error.faults[0]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first.place).removeprefix(".")
    return Problem(400, f"{param}: {first.message}", problem.kind, param, "invalid_value")


WIRE = Work(
    "/v1/decisions", "Typed questions about an input, each with a probability for every answer.", FIELDS, _work,
    names={"prompt": "input"}, problem=_problem,
)  # fmt: skip
