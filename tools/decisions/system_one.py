"""`POST /v1/systemone`: its request, and its answers.

    {"model", "state": text, object or array, "questions": {name: question}}
    {"model", "answers": {name: answer}, "usage": {"input_tokens", "output_tokens": 0}}

Sources: jevcompat 0.1.1 (its 48 requirements), transformers 5.24 `cli/serving/systemone.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import shown
from . import answers
from .questions import Fault, RefusedError, as_text, questions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .questions import Question

__all__ = ["answer", "request_of"]


def request_of(body: object) -> tuple[str, dict[str, Question]]:
    """The state as the model reads it, and the questions. Other fields are not looked at. Errors: `RefusedError`."""
    if not isinstance(body, Mapping):
        raise RefusedError([Fault((), f"{shown(body, 80)} found, expected an object", "dict_type")])
    faults = [Fault((key,), "is missing", "missing") for key in ("model", "state", "questions") if key not in body]
    if "model" in body and not isinstance(body["model"], str):
        faults.append(Fault(("model",), f"{shown(body['model'], 80)} found, expected a text", "string_type"))
    if "state" in body and not isinstance(body["state"], str | Mapping | list):
        found = f"{shown(body['state'], 80)} found, expected a text, an object or an array"
        faults.append(Fault(("state",), found, "union_type"))
    if body.get("assets"):
        faults.append(Fault(("assets",), "images are not read; leave them out", "extra_forbidden"))
    questions: dict[str, Question] = {}
    if "questions" in body:
        try:
            questions = questions_of(body["questions"])
        except RefusedError as e:
            faults += e.faults
    if faults:
        raise RefusedError(faults)
    return as_text(body["state"]), questions


def answer(question: Question, criteria: object, p: Sequence[float]) -> dict[str, Any]:
    """Of one question, by its options' probabilities. `criteria`: as they were given, for a score's legend."""
    if question.kind == "noul":
        return {"type": "noul", "noul": p[question.options.index("true")]}
    by_option = dict(zip(question.options, p, strict=True))
    if question.kind == "choice":
        return {
            "type": "choice",
            "choice": question.options[answers.best(p)],
            "confidence": answers.choice_confidence(p),
            "probabilities": by_option,
        }
    levels = criteria if isinstance(criteria, list) else question.descriptions
    return {
        "type": "score",
        "score": answers.expected(p),
        "legend": dict(zip(question.options, levels, strict=True)),
        "confidence": answers.score_confidence(p),
        "probabilities": by_option,
    }
