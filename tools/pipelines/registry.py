"""The tasks: a row each. To add one, write its class (a `Pipeline`) and its row here."""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import InputError, shown, spelled_like
from .feature_extraction import FeatureExtraction
from .fill_mask import FillMask
from .question_answering import QuestionAnswering
from .sentence_similarity import SentenceSimilarity
from .text2text_generation import Summarization, Text2TextGeneration, Translation
from .text_classification import TextClassification
from .text_generation import TextGeneration
from .text_ranking import TextRanking
from .token_classification import TokenClassification
from .zero_shot_classification import ZeroShotClassification

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import Config
    from .base import Pipeline

__all__ = ["TASKS", "Task", "task_of", "usual_task"]


@dataclass(frozen=True)
class Task:
    """`name`, other names for it, the class that does it, and parameters that differ from the class's defaults.

    `pattern`: a form of names that say parameters too, by its named groups: "translation_en_to_de".
    """

    name: str
    cls: type[Pipeline]
    aliases: tuple[str, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)
    pattern: str | None = None


TASKS = (
    Task("text-classification", TextClassification, ("sentiment-analysis",)),
    Task("token-classification", TokenClassification, ("ner",)),
    Task("question-answering", QuestionAnswering),
    Task("fill-mask", FillMask),
    Task("feature-extraction", FeatureExtraction),
    Task("zero-shot-classification", ZeroShotClassification),
    Task("sentence-similarity", SentenceSimilarity),
    Task("text-ranking", TextRanking, ("rerank",)),
    Task("text-generation", TextGeneration),
    Task("text2text-generation", Text2TextGeneration),
    Task("summarization", Summarization),
    Task("translation", Translation, pattern=r"(?P<spelled>translation_(?P<src_lang>[^_]+)_to_(?P<tgt_lang>[^_]+))"),
)  # fmt: skip

#: The task of a model with such a head.
OF_HEADS = {
    "classes": "text-classification",
    "token_classes": "token-classification",
    "spans": "question-answering",
    "masked_lm": "fill-mask",
}


def task_of(name: object) -> tuple[Task, dict[str, str]]:
    """A task by any of its names, and the parameters that the name says. Errors: `InputError`, with all names."""
    spelled = name if isinstance(name, str) else ""
    for task in TASKS:
        if spelled in (task.name, *task.aliases):
            return task, {}
        matched = re.fullmatch(task.pattern, spelled) if task.pattern else None
        if matched:
            return task, matched.groupdict()
    known = [known for task in TASKS for known in (task.name, *task.aliases)]
    near = spelled_like(spelled, known, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    msg = f"task={shown(name)}: no such task{meant}; known are {', '.join(known)}"
    raise InputError(msg)


def usual_task(config: Config) -> str:
    """The task that a model's class is made for. Errors: `InputError` where its head is for none."""
    if config.writes and config.seq2seq:
        return "text2text-generation"
    if config.writes:
        return "text-generation" if config.lm_head else "feature-extraction"
    if config.head is None:
        return "feature-extraction"
    name = OF_HEADS.get(config.head.kind)
    if name is None:
        known = ", ".join(OF_HEADS.values())
        msg = f"task: not given, and a head for {config.head.kind} is made for none; name one of {known}"
        raise InputError(msg)
    return name
