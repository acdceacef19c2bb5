"""A choice of forms for a checkpoint, under a budget that a user gives."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from ...errors import InputError
from ...limits import Request
from ...loader.load_plan import make_load_plan
from ...loader.open import open_model
from ...prepare import prepare
from ...sizes import format_bytes
from .choice import Budget, choose
from .sensitivity import refuse_quantized, sensitivities

if TYPE_CHECKING:
    from pathlib import Path

    from ..importance.methods import Text
    from .choice import Choice

__all__ = ["choice_for"]

#: What a file of statistics ends with that holds sensitivities.
ENDING = ".sensitivities.npz"


def choice_for(
    path: Path,
    text: Text,
    *,
    bits: float | None = None,
    max_memory: int | None = None,
    max_kl: float | None = None,
) -> Choice:
    """What each matrix becomes: `bits` of a weight on average, or what a load takes, or what may be lost.

    `max_memory`: bytes of weights, arena and cache together, as `load` takes them without other options. Errors:
    `InputError` for none or several of these, for one that no forms fit, and `sensitivities`' own.
    """
    given = {"--bits": bits, "--max-memory": max_memory, "--max-kl": max_kl}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        msg = f"{' and '.join(named) or 'no budget'}: expected one of {', '.join(given)}"
        raise InputError(msg)
    wrong = bits is not None and not 0 < bits < math.inf
    if wrong or (max_kl is not None and not 0 <= max_kl < math.inf):
        msg = f"{named[0]} {given[named[0]]}: expected a number {'above 0' if wrong else 'from 0 on'}"
        raise InputError(msg)
    _check(path, named[0], bits, max_memory)
    groups = sensitivities(path, text, None if text.file is None else _beside(text.file))
    told = {
        "asked": f"{named[0]} {given[named[0]]}",
        "text_sha256": hashlib.sha256(text.text.encode()).hexdigest(),
        "window": text.window,
    }
    if max_memory is None:
        return choose(groups, Budget(bits, None, max_kl), **told)
    spare = max_memory - _memory(path, "int8") + sum(g.nbytes.get("int8", g.nbytes["none"]) for g in groups)
    while spare > 0:
        choice = choose(groups, Budget(nbytes=spare), **told)
        needed = _memory(path, choice.quantize)
        if needed <= max_memory:
            return choice
        spare = min(spare, choice.nbytes) - (needed - max_memory)
    msg = f"--max-memory {format_bytes(max_memory)}: found no forms that fit; ask for more"
    raise InputError(msg)


def _beside(file: Path) -> Path:
    """Where sensitivities are kept, next to statistics."""
    return file.with_name(file.name.removesuffix(".npz") + ENDING)


def _check(path: Path, name: str, bits: float | None, max_memory: int | None) -> None:
    """Refuse a budget that the smallest forms do not fit, before anything is measured: `InputError`."""
    asked, least = "", ""
    with open_model(path) as opened:
        refuse_quantized(path, make_load_plan(opened, None))
    if bits is not None:
        with open_model(path) as opened:
            sources = [source for source in make_load_plan(opened, "int4") if source.quantizes]
        smallest = 8 * sum(s.nbytes for s in sources) / max(1, sum(math.prod(s.shape) for s in sources))
        if bits < smallest:
            asked, least = f"{bits:g}", f"{smallest:.2f} bits of a weight"
    if max_memory is not None and max_memory < (needed := _memory(path, "int4")):
        asked, least = format_bytes(max_memory), format_bytes(needed)
    if asked:
        msg = f"{name} {asked}: with every matrix in int4 it is {least}; ask for more, or cut the model first"
        raise InputError(msg)


def _memory(path: Path, how: str) -> int:
    """Bytes that a load takes, mapped ones too."""
    with open_model(path) as opened:
        memory = prepare(opened, Request(quantize=how)).memory
    return memory["allocated"] + memory["weights_mapped"]
