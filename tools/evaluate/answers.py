"""A model's answers to examples: by the task's pipeline, or by what the model itself says of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ..pipelines.make import pipeline
from ..pipelines.registry import task_of
from . import scoring
from .examples import Labelled, Question
from .labels import as_the_model_s
from .tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ...model import Model
    from .evaluation import Predict
    from .examples import Example
    from .measured import Outcome
    from .tasks import Settings, Task

__all__ = ["fitted", "included", "of_model"]

#: How a pipeline says which item an error is about.
_ITEM = re.compile(r"\(item (\d+) of the input, counted from 0\)")


def included(task: str) -> str | None:
    """The directory of the included model that does a task; None: the included language model does.

    Errors: `InputError` where no included model does it.
    """
    if task in ("perplexity", "multiple-choice"):
        return None
    directory, _ = task_of(task)[0].included("--model")
    return str(directory)


def fitted(
    task: str, examples: Sequence[Example], model: Model, settings: Settings, labels: Mapping[str, str] | None = None
) -> tuple[list[Example], Settings]:
    """The examples with their classes as the model calls them, and settings that the examples decide.

    `labels`: the file's class -> the model's, where the names do not tell. Errors: `InputError`.
    """
    if task == "zero-shot-classification":
        classes = sorted({e.label for e in examples if isinstance(e, Labelled)})
        parameters = {"candidate_labels": classes} | dict(settings.parameters)
        return list(examples), replace(settings, labels=classes, parameters=parameters)
    own = list(model.config.labels)
    if task == "text-classification" and own:  # without any the pipeline refuses the model
        names = as_the_model_s([e for e in examples if isinstance(e, Labelled)], own, labels)
        named = [replace(e, label=names[e.label]) for e in examples if isinstance(e, Labelled)]
        return [*named], replace(settings, labels=own)
    if task == "question-answering" and any(isinstance(e, Question) and not e.answers for e in examples):
        settings = replace(settings, parameters={"handle_impossible_answer": True} | dict(settings.parameters))
    return list(examples), settings


def of_model(task: str, model: Model, settings: Settings) -> Predict:
    """What `evaluate` asks. Errors: `InputError` for a model that cannot do the task."""
    if task == "perplexity":
        return lambda examples: scoring.texts(model, _as(examples), settings.window)
    if task == "multiple-choice":
        return lambda examples: scoring.choices(model, _as(examples), settings.template)
    if task == "sentence-similarity":
        return lambda examples: scoring.similarities(model, _as(examples))
    pipe = pipeline(task, model)
    return lambda examples: _piped(TASKS[task], pipe, examples, dict(settings.parameters))


def _as(examples: Sequence[Example]) -> Any:  # noqa: ANN401 - of the task's class, as its reader made them
    return examples


def _piped(task: Task, pipe: Any, examples: Sequence[Example], given: Mapping[str, Any]) -> Iterator[Outcome]:  # noqa: ANN401 - any pipeline
    if task.item is None or task.outcome is None:
        msg = f"{task.name}: no pipeline does it"
        raise InputError(msg)
    try:
        results = pipe((task.item(e) for e in examples), **task.parameters, **given)
        for example, result in zip(examples, results, strict=True):
            yield task.outcome(example, result)
    except InputError as e:
        msg = _ITEM.sub(lambda item: f"({examples[int(item[1])].place})", str(e))
        raise InputError(msg) from e
