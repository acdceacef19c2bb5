"""Tuning from end to end: a checkpoint and what is asked of it, to a profile."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError, MemoryLimitError
from ...profiles import Profile, identity
from ...sizes import format_bytes
from .measure import ModelMeter
from .search import search
from .table import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ...loader.open import Opened
    from .knobs import Knobs
    from .records import Limits, Result
    from .subject import Subject

__all__ = ["Tuned", "tune"]


@dataclass(frozen=True)
class Tuned:
    """`profile` None: nothing within the limits was measured, and `rows` say why. `ended`: as in `Result`."""

    profile: Profile | None
    rows: list[dict[str, Any]]
    ended: str
    seconds: float


def tune(  # noqa: PLR0913 - keywords
    path: Path,
    opened: Opened,
    knobs: Knobs,
    subject: Subject,
    limits: Limits,
    *,
    generate: dict[str, Any] | None = None,
    previous: Profile | None = None,
    command: str = "",
    seed: int = 0,
    told: Callable[[int, int], None] = lambda *_: None,
) -> Tuned:
    """Look for the best settings; the limit of time counts from here. Errors: those of loading the model as it is.

    `previous`: what was chosen before, which stays where it is nearly as good. A profile of another model is not read.
    """
    began = time.perf_counter()
    kept = None
    if previous is not None and {"adapter": None} | dict(previous.model) == identity(opened):  # older ones name none
        drawn = {name: how for name, how in previous.generate.items() if (generate or {}).get(name) != how}
        kept = knobs.near(previous.load, int(previous.chosen.get("batch", 1)), drawn)
    with ModelMeter(path, opened, knobs, subject) as meter:
        left = replace(limits, seconds=limits.seconds - (time.perf_counter() - began))
        result = search(knobs.space, meter, left, previous=kept, told=told)
    rows = rows_of(knobs.space, result)
    profile = _profile(opened, knobs, subject, limits, result, rows, generate or {}, command, seed)
    return Tuned(profile, rows, result.ended, time.perf_counter() - began)


def _profile(  # noqa: PLR0913, PLR0917 - all that stands in it
    opened: Opened,
    knobs: Knobs,
    subject: Subject,
    limits: Limits,
    result: Result,
    rows: list[dict[str, Any]],
    generate: dict[str, Any],
    command: str,
    seed: int,
) -> Profile | None:
    chosen = result.chosen
    if chosen is None:
        return None
    asked = {"memory": limits.memory, "loss": limits.loss, "seconds": limits.seconds}
    return Profile(
        model=identity(opened),
        load=knobs.saved(chosen.point),
        generate=generate | knobs.parameters(chosen.point),
        goal=knobs.goal,
        limits={name: value for name, value in asked.items() if value != float("inf")} | {"of": subject.loses},
        chosen=next(row for row in rows if row["chosen"])
        | {"unit": subject.unit, "batch": knobs.batch(chosen.point), "ended": result.ended},
        table=rows,
        command=command,
        seed=seed,
    )


def nothing_fits(tuned: Tuned, limits: Limits, name: str) -> InputError | MemoryLimitError:
    """What to say where no profile came of it."""
    sizes = [row["memory"] for row in tuned.rows if row["memory"] is not None]
    least = f"; the least of what was looked at takes {format_bytes(min(sizes))}" if sizes else ""
    asked = f"memory {format_bytes(int(limits.memory))}" if limits.memory < float("inf") else "the limits"
    if tuned.ended == "time":
        msg = (
            f"--max-seconds {limits.seconds:g}: were over before settings within {asked} were measured; give more, and "
            "compile the kernels first: miaotui warm"
        )
        return InputError(msg)
    return MemoryLimitError(f"{name}: no settings are within {asked}{least}; allow more, or vary more")
