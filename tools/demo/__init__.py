"""The included models: a small Llama of our own, small models for tasks, and the recipes (README.md in this folder)."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..notes import note

__all__ = ["ADAPTERS", "NAMES", "OF_TASKS", "adapter", "path", "stand_in"]

#: The models; `path` finds them.
NAMES = ("story", "sentiment", "entities", "answers", "encoder", "dates", "chat")
#: Adapters of the story model; `adapter` finds them.
ADAPTERS = ("sea",)
#: Task -> the model that does it where none is given: by `mt.pipeline`, `miaotui run` and `miaotui evaluate` alike.
OF_TASKS = {
    "text-classification": "sentiment",
    "token-classification": "entities",
    "question-answering": "answers",
    "fill-mask": "encoder",
    "feature-extraction": "encoder",
    "sentence-similarity": "encoder",
    "text2text-generation": "dates",
    "summarization": "dates",
    "translation": "dates",
    "text-generation": "chat",
    "chat": "chat",
    "multiple-choice": "story",
    "perplexity": "story",
}
#: What a model does, where that is less than the task's name says.
DOES = {
    "chat": "answers questions about a paragraph",
    "dates": "writes days and amounts in ISO form, and such forms in words",
    "story": "tells small stories",
}


def path(name: str = "story") -> Path:
    """Directory of a demo model, a Hugging Face checkpoint like any other. Errors: `InputError`."""
    here = Path(__file__).resolve().parent
    if name == "story":
        return here / "model"
    if name not in NAMES:
        msg = f"there is no demo model {name!r}; expected one of {', '.join(NAMES)}"
        raise InputError(msg)
    return here / "models" / name


def adapter(name: str = "sea") -> Path:
    """Directory of an adapter of the story model, a PEFT LoRA like any other. Errors: `InputError`."""
    if name not in ADAPTERS:
        msg = f"there is no demo adapter {name!r}; expected one of {', '.join(ADAPTERS)}"
        raise InputError(msg)
    return Path(__file__).resolve().parent / "adapters" / name


def stand_in(task: str, option: str = "model") -> str:
    """The name of the model that does a task where none is given, which a note on standard error tells.

    `option`: what was not given, as the caller would spell it. Errors: `InputError` where no included model does it.
    """
    name = OF_TASKS.get(task)
    if name is None:
        have = ", ".join(OF_TASKS)
        msg = f"{option}: not given, and no included model does {task} (only {have}); give a directory or a hub name"
        raise InputError(msg)
    begin = "note" if option.startswith("--") else "miaotui"
    does = f", which {DOES[name]}" if name in DOES else ""
    note(f"{begin}: no {option} is given; {task} uses the included model {name!r}{does}")
    return name
