"""Options that say what an answer must be; each answer of `chat` is held to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...errors import BackendError, InputError, shown
from ...loader.files import read_text
from ...loader.paths import as_path
from ...runtime.constraints import CONSTRAINTS

if TYPE_CHECKING:
    import argparse

    from ...model import Model
    from ...runtime.parameters import ConstraintKwargs

__all__ = ["add_constraints", "check_constraints", "constraint"]


def add_constraints(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group(
        "what the text must be",
        "One of these; docs/constrained.md. All but --choices need the grammar extra: pip install 'miaotui[grammar]'.",
    )
    group.add_argument("--schema", type=Path, metavar="FILE", help="JSON that this JSON schema allows")
    group.add_argument(
        "--grammar", type=Path, metavar="FILE", help="a text of this grammar, in Lark's notation or GBNF"
    )
    group.add_argument("--regex", metavar="REGEX", help="a text that matches this regular expression as a whole")
    group.add_argument("--choices", type=Path, metavar="FILE", help="one of this file's lines, a million perhaps")


def check_constraints(args: argparse.Namespace) -> None:
    """Errors: `InputError`: two are given."""
    given = [f"--{name}" for name in CONSTRAINTS if getattr(args, name) is not None]
    if len(given) > 1:
        msg = f"{' and '.join(given)}: a text is held to one of them; give one"
        raise InputError(msg)


def constraint(model: Model, args: argparse.Namespace) -> ConstraintKwargs:
    """What was given, compiled for the model. Errors: `InputError`, `BackendError`, in its options' words."""
    name = next((name for name in CONSTRAINTS if getattr(args, name) is not None), None)
    if name is None:
        return {}
    value: object = getattr(args, name)
    try:
        return _compiled(model, name, value)
    except BackendError as e:  # llguidance is missing
        msg = f"--{e!s}"
        raise BackendError(msg) from e


def _compiled(model: Model, name: str, value: object) -> ConstraintKwargs:
    if name == "regex":
        return {"regex": model.constraint(regex=cast("str", value))}
    file = as_path(value, f"--{name}")
    text = read_text(file, InputError)
    value = _lines(text, file) if name == "choices" else text
    try:
        made = model.constraint(**cast("ConstraintKwargs", {name: value}))
    except InputError as e:
        why = str(e).removeprefix(f"{name}={shown(value, 80)}: ")  # a grammar may hold ": " itself
        why = re.sub(rf"^{name}(=.*?)?: ", "", why, flags=re.DOTALL)
        msg = f"--{name} {file}: {why}"
        raise InputError(msg) from None
    return cast("ConstraintKwargs", {name: made})


def _lines(text: str, file: Path) -> list[str]:
    """Lines that are not empty."""
    lines = [line for each in text.split("\n") if (line := each.removesuffix("\r"))]
    if not lines:
        msg = f"--choices {file}: no line has a text; give one choice a line"
        raise InputError(msg)
    return lines
