"""Parameters of `beams.py` as callers and files give them, checked."""

from __future__ import annotations

import sys
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, shown
from .parameters import switch
from .sampling import real

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BEAMS", "Beams", "beams_from"]

#: `GenerationConfig`'s name -> the field of `Beams`.
BEAMS = {
    "num_beams": "n",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "num_return_sequences": "n_return",
    "renormalize_logits": "renormalized",
}
#: Answers to one prompt: each is a text of its own from the first, so that more would take all memory first.
MOST_ANSWERS = 1 << 16


@dataclass(frozen=True)
class Beams:
    """How many go on, how length counts, when to stop, and how many answers are returned."""

    n: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    n_return: int = 1
    renormalized: bool = False  # scores are logarithms of probabilities again, once all else has changed them
    of_files: bool = False  # the model's files say so, and no call does


def beams_from(given: Mapping[str, Any], asked_as: str = "num_return_sequences", *, of_files: bool = False) -> Beams:
    """From checked names. `asked_as`: what the caller wrote for num_return_sequences. Errors: `InputError`.

    `of_files`: num_beams is the files'; where more answers are asked for, there are no beams.
    """
    for name, limit in (("num_beams", sys.maxsize), ("num_return_sequences", MOST_ANSWERS)):
        value = given.get(name, 1)
        if not isinstance(value, Integral) or isinstance(value, bool) or not 1 <= int(value) <= limit:
            wrote = asked_as if name == "num_return_sequences" else name
            most = f", at most {limit:,}" if isinstance(value, Integral) and int(value) > limit else ""
            msg = f"{wrote}={shown(value)}: expected an integer >= 1{most}"
            raise InputError(msg)
    penalty, early = given.get("length_penalty", 1.0), given.get("early_stopping", False)
    power = real(penalty)
    if power is None:
        msg = f"length_penalty={shown(penalty)}: expected a number"
        raise InputError(msg)
    if not isinstance(early, bool | np.bool_) and not (isinstance(early, str) and early == "never"):
        msg = f"early_stopping={shown(early)}: expected True, False or 'never'"
        raise InputError(msg)
    n, n_return = int(given.get("num_beams", 1)), int(given.get("num_return_sequences", 1))
    if n_return > n > 1 and of_files:
        n = 1
    if n_return > n > 1:
        msg = f"{asked_as}={n_return}: needs as many beams, and num_beams is {n}"
        raise InputError(msg)
    renormalized = switch("renormalize_logits", given.get("renormalize_logits", False))
    stops: bool | Literal["never"] = "never" if isinstance(early, str) else bool(early)
    return Beams(n, power, stops, n_return, renormalized, of_files and n > 1)
