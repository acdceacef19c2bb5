"""The included models: a small Llama of our own, small models for tasks, and the recipes (README.md in this folder)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ...errors import InputError
from ..notes import note

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

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
    if name == "story":
        return _on_disk("model")
    if name not in NAMES:
        msg = f"there is no demo model {name!r}; expected one of {', '.join(NAMES)}"
        raise InputError(msg)
    return _on_disk("models", name)


def adapter(name: str = "sea") -> Path:
    """Directory of an adapter of the story model, a PEFT LoRA like any other. Errors: `InputError`."""
    if name not in ADAPTERS:
        msg = f"there is no demo adapter {name!r}; expected one of {', '.join(ADAPTERS)}"
        raise InputError(msg)
    return _on_disk("adapters", name)


def _on_disk(*parts: str) -> Path:
    """A folder next to this module, whose files can be mapped; of an archive it is unpacked first."""
    folder = Path(__file__).resolve().parent.joinpath(*parts)
    return folder if folder.is_dir() else _unpacked(*parts)


#: What was unpacked: it is removed when the process ends.
_UNPACKED: list[TemporaryDirectory[str]] = []


@cache
def _unpacked(*parts: str) -> Path:
    from importlib.resources import files  # noqa: PLC0415 - 15 ms, and archives are rare

    packed = files(__package__).joinpath(*parts)
    if not packed.is_dir():
        msg = f"the included files {'/'.join(parts)} are missing; install miaotui again"
        raise InputError(msg)
    try:
        _UNPACKED.append(TemporaryDirectory(prefix="miaotui-", ignore_cleanup_errors=True))
        folder = Path(_UNPACKED[-1].name, parts[-1])
        _write(packed, folder)
    except OSError as e:
        msg = (
            f"the included files {'/'.join(parts)} lie in an archive, and could not be unpacked ({e}); let TMPDIR name "
            "a directory that can be written, or unpack the archive"
        )
        raise InputError(msg) from e
    return folder


def _write(packed: Traversable, place: Path) -> None:
    """Copy a file or a folder of an archive."""
    if not packed.is_dir():
        place.write_bytes(packed.read_bytes())
        return
    place.mkdir()
    for each in packed.iterdir():
        _write(each, place / each.name)


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
