"""What the workers of tests do in place of a model: each is pickled by name and called in a process of its own."""

from __future__ import annotations

import os
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.errors import CheckpointError, InputError, MemoryLimitError, MiaotuiWarning
from miaotui.tools.batch.inputs import Inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from miaotui.tools.batch.outcomes import Predict

__all__ = ["broken", "deadly", "upper"]


def told(value: Any) -> Any:
    """What becomes of a text: its capitals; some texts do other things."""
    match value.partition(" "):
        case "bad", _, _:
            msg = "no good"
            raise InputError(msg)
        case "kill", _, _:
            os.kill(os.getpid(), signal.SIGKILL)
        case "once", _, name if not Path(name).exists():
            Path(name).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "room", _, _:
            msg = "no room"
            raise MemoryLimitError(msg)
        case "bug", _, _:
            return 1 / 0
    return value.upper()


def predicted(values: list[Any]) -> Iterable[Any]:
    """Of each."""
    return map(told, values)


@contextmanager
def upper(task: str = "fill-mask") -> Iterator[tuple[Predict, Inputs]]:
    """A model that is there at once, and has something to say."""
    warnings.warn("it speaks", MiaotuiWarning, stacklevel=2)
    yield predicted, Inputs(task)


@contextmanager
def broken() -> Iterator[tuple[Predict, Inputs]]:
    """One whose file is damaged."""
    msg = "config.json: it is damaged"
    raise CheckpointError(msg)
    yield predicted, Inputs("fill-mask")


@contextmanager
def deadly() -> Iterator[tuple[Predict, Inputs]]:
    """One that takes all memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield predicted, Inputs("fill-mask")
