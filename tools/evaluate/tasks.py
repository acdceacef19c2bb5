"""The tasks that are evaluated: what each gives a pipeline, how it reads the result, and what it is judged by."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from .measured import Measured, Outcome
from .metrics_answers import squad_scores
from .metrics_classes import classes, entities
from .metrics_numbers import correlations, perplexity
from .metrics_texts import text_scores
from .tags import entities_of, parted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .examples import Choice, Labelled, Question, Similar, Tagged, Target

__all__ = ["TASKS", "Settings", "Task"]


@dataclass(frozen=True)
class Settings:
    """What a metric or a prediction is told. `labels`: the model's classes, in its order."""

    labels: Sequence[str] = ()
    chinese: bool = False
    tokenize: str | None = None
    template: str = "{question}"
    window: int = 256
    #: What the report should say besides what is measured.
    notes: Sequence[str] = ()
    #: Parameters of the pipeline besides the task's own.
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A task. Examples are of the class that its reader makes; `item` and `outcome` are of tasks that a pipeline does.

    `surface`: an answer as a text; `quotes`: it is made of the example's text.
    """

    name: str
    measure: Callable[[Sequence[Any], Sequence[Outcome], Settings], Measured]
    item: Callable[[Any], Any] | None = None
    outcome: Callable[[Any, Any], Outcome] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    surface: Callable[[Any, Outcome], str] = lambda _, outcome: str(outcome.answer)
    quotes: bool = False


def _pair(example: Labelled) -> str | dict[str, str]:
    return example.text if example.pair is None else {"text": example.text, "text_pair": example.pair}


def _class(_: Labelled, result: Sequence[Mapping[str, Any]]) -> Outcome:
    """Of [{"label", "score"}], the likeliest first."""
    scores = {str(row["label"]): float(row["score"]) for row in result}
    return Outcome(str(result[0]["label"]), float(result[0]["score"]), scores)


def _zero_shot(_: Labelled, result: Mapping[str, Any]) -> Outcome:
    scores = {str(label): float(s) for label, s in zip(result["labels"], result["scores"], strict=True)}
    best = str(result["labels"][0])
    return Outcome(best, scores[best], scores)


def _classes(examples: Sequence[Labelled], outcomes: Sequence[Outcome], settings: Settings) -> Measured:
    return classes([e.label for e in examples], outcomes, settings.labels)


def _tags(example: Tagged, result: Sequence[Mapping[str, Any]]) -> Outcome:
    """A unit has the tag of the first token in it. One that begins inside of a token goes on with its entity.

    Units without a token, of a text that was cut, are outside.
    """
    tokens = sorted((int(r["start"]), int(r["end"]), str(r["entity"])) for r in result if r["start"] is not None)
    tags: list[str] = []
    at = 0
    for start, end in example.offsets():
        while at < len(tokens) and tokens[at][1] <= start:
            at += 1
        begins, _, tag = tokens[at] if at < len(tokens) else (end, end, "O")
        prefix, kind = parted(tag if begins < end else "O")
        prefix = "I" if prefix in "BS" and begins < start and not example.separator else prefix
        tags.append(f"{prefix}-{kind}" if kind else "O")
    return Outcome(frozenset(entities_of(tags)))


def _entities(examples: Sequence[Tagged], outcomes: Sequence[Outcome], _: Settings) -> Measured:
    return entities([e.entities for e in examples], [o.answer for o in outcomes])


def _spelled(example: Tagged, outcome: Outcome) -> str:
    spans = sorted(outcome.answer, key=lambda span: span[1:])
    return "; ".join(f"{kind}: {example.separator.join(example.words[i : j + 1])}" for kind, i, j in spans)


def _question(example: Question) -> dict[str, str]:
    return {"question": example.question, "context": example.context}


def _answer(_: Question, result: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Outcome:
    best: Mapping[str, Any] = result if not isinstance(result, list | tuple) else result[0]  # type: ignore[assignment]  # mypy forgets Mapping here
    return Outcome(str(best["answer"]), float(best["score"]))


def _answers(examples: Sequence[Question], outcomes: Sequence[Outcome], settings: Settings) -> Measured:
    return squad_scores(examples, [o.answer for o in outcomes], chinese=settings.chinese)


def _made(_: Target, result: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Outcome:
    """Of {"generated_text"}, or as the task calls it, in a list or not."""
    first: Any = result if not isinstance(result, list | tuple) else result[0]
    return Outcome(str(next(v for k, v in first.items() if k.endswith("_text"))))


def _texts(examples: Sequence[Target], outcomes: Sequence[Outcome], settings: Settings) -> Measured:
    return text_scores([o.answer for o in outcomes], [e.references for e in examples], settings.tokenize)


def _similar(examples: Sequence[Similar], outcomes: Sequence[Outcome], _: Settings) -> Measured:
    return correlations([e.score for e in examples], [o.score or 0.0 for o in outcomes])


def _choices(examples: Sequence[Choice], outcomes: Sequence[Outcome], _: Settings) -> Measured:
    """Accuracy by log p, by log p a byte (which favours no short choice), and what guessing would reach."""
    n = len(examples)
    right = sum(o.answer == e.answer for e, o in zip(examples, outcomes, strict=True))
    by_byte = 0
    for example, outcome in zip(examples, outcomes, strict=True):
        logs = [outcome.scores[f"{i}/byte"] for i in range(len(example.choices))]
        by_byte += logs.index(max(logs)) == example.answer
    chance = sum(1 / len(e.choices) for e in examples)
    return Measured({"accuracy": right / n, "accuracy_per_byte": by_byte / n, "chance": chance / n})


def _losses(_: Sequence[object], outcomes: Sequence[Outcome], __: Settings) -> Measured:
    return perplexity([o.answer for o in outcomes])


def _none(_: object, __: Outcome) -> str:
    """The answer is a number, and nothing else."""
    return ""


def _generation(name: str, **parameters: object) -> Task:
    parameters = {"truncation": True} | parameters
    return Task(name, _texts, lambda e: e.source, _made, parameters, quotes=True)


TASKS = {
    task.name: task
    for task in (
        Task("text-classification", _classes, _pair, _class, {"top_k": None, "truncation": True}),
        Task("zero-shot-classification", _classes, lambda e: e.text, _zero_shot),
        Task(
            "token-classification", _entities, lambda e: e.text, _tags,
            {"aggregation_strategy": "none", "ignore_labels": []}, _spelled, quotes=True,
        ),
        Task("question-answering", _answers, _question, _answer, quotes=True),
        _generation("text2text-generation"),
        _generation("summarization"),
        _generation("translation"),
        _generation("text-generation", return_full_text=False, do_sample=False),
        Task("sentence-similarity", _similar, surface=_none),
        Task("multiple-choice", _choices),
        Task("perplexity", _losses, surface=_none),
    )
}  # fmt: skip
