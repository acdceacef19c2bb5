"""`mt.pipeline`: a task by name, and a model that does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ...errors import InputError, shown
from ...load_options import LOAD_DEFAULTS
from ...model import Model, load
from .. import demo
from .foreign import as_ours
from .registry import task_of, usual_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Pipeline
    from .feature_extraction import FeatureExtraction
    from .fill_mask import FillMask
    from .question_answering import QuestionAnswering
    from .registry import Task
    from .sentence_similarity import SentenceSimilarity
    from .text_classification import TextClassification
    from .text_ranking import TextRanking
    from .token_classification import TokenClassification
    from .zero_shot_classification import ZeroShotClassification

    Given = str | Path | Model | None

__all__ = ["pipeline"]


@overload
def pipeline(
    task: Literal["text-classification", "sentiment-analysis"], model: Given = None, **options: object
) -> TextClassification: ...
@overload
def pipeline(
    task: Literal["token-classification", "ner"], model: Given = None, **options: object
) -> TokenClassification: ...
@overload
def pipeline(task: Literal["question-answering"], model: Given = None, **options: object) -> QuestionAnswering: ...
@overload
def pipeline(task: Literal["fill-mask"], model: Given = None, **options: object) -> FillMask: ...
@overload
def pipeline(task: Literal["feature-extraction"], model: Given = None, **options: object) -> FeatureExtraction: ...
@overload
def pipeline(
    task: Literal["zero-shot-classification"], model: Given = None, **options: object
) -> ZeroShotClassification: ...
@overload
def pipeline(task: Literal["sentence-similarity"], model: Given = None, **options: object) -> SentenceSimilarity: ...
@overload
def pipeline(task: Literal["text-ranking", "rerank"], model: Given = None, **options: object) -> TextRanking: ...
@overload
def pipeline(task: str | None = None, model: Given = None, **options: object) -> Pipeline: ...
def pipeline(task: str | None = None, model: Given = None, **options: object) -> Pipeline:
    """Do a task with a model: `pipeline("sentiment-analysis", "path/or/hub-name")("We liked it.")`.

    `task`: one of docs/pipelines.md, by default what the model's class is made for. `model`: a directory, a hub name,
    or a `Model` that is loaded (which the pipeline does not close); by default the task's included one, if there is.
    `options`: those of `load`, and the task's parameters, which a call may give too. Names, parameters, defaults and
    results are those of transformers 4.57.6; `adapter`, of a call or next to a loaded model, is the name of one of its
    adapters, and of `load` the path of one that is merged; `device` may be -1 (the CPU) or 0 (the GPU), as there.
    Errors: `InputError`, and those of `load`.
    """
    row, said = (None, {}) if task is None else task_of(task)
    options = as_ours(options, model)
    loading: dict[str, Any] = {key: value for key, value in options.items() if key in LOAD_DEFAULTS}
    given = said | {key: value for key, value in options.items() if key not in LOAD_DEFAULTS}
    if isinstance(model, Model):
        given |= {"adapter": loading.pop("adapter")} if "adapter" in loading else {}  # one of those that it has
        if loading:
            msg = f"{next(iter(loading))}: an option of load, and this model is loaded; give its path, or leave it out"
            raise InputError(msg)
        return _of(row, model, given, owned=False)
    loaded = load(_where(row, model), **loading)
    try:
        return _of(row, loaded, given, owned=True)
    except BaseException:
        loaded.close()
        raise


def _of(row: Task | None, model: Model, given: Mapping[str, object], *, owned: bool) -> Pipeline:
    task = row or task_of(usual_task(model.config))[0]
    return task.cls(model, task.name, {**task.defaults, **given}, owned=owned)


def _where(row: Task | None, model: object) -> str | Path:
    """The model's path; without one, the included model of the task, which a note on stderr names."""
    if isinstance(model, str | Path):
        return model
    if model is not None:
        msg = f"model={shown(model)}: expected a directory, a hub name, or a loaded Model"
        raise InputError(msg)
    if row is None:
        msg = "pipeline: neither task nor model is given; expected one of them at least"
        raise InputError(msg)
    return demo.path(demo.stand_in(row.name))
