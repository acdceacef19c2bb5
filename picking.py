"""What `load` is told by a profile, and what `load(auto=True)` picks from predictions alone: nothing is measured.

Rounding: the first of `LADDER` with which everything that is predicted, mapped weights too,
takes at most `SHARE` of the free memory; a model that fits as it is stays as it is. What the caller gave stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .dataclass import dataclass
from .errors import BackendError, MemoryLimitError, PlanError
from .machine import free_memory
from .notices import warn
from .prepare import prepare
from .sizes import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from .limits import Request
    from .load_options import Asked
    from .loader.open import Opened
    from .prepare import Prepared
    from .profiles import Profile

__all__ = ["LADDER", "Picked", "pick", "settled"]

#: From what loses nothing to what takes least: how matrices are rounded, and how the KV cache is kept.
LADDER: tuple[tuple[str | None, str], ...] = (
    (None, "f32"),
    ("int8", "f32"),
    ("int8", "bf16"),
    ("int4a,embed=int8", "bf16"),
    ("int4a", "int8"),
    ("int4", "int8"),
)
#: Of the free memory: the rest is for Python, the tokenizer, and whatever else runs.
SHARE = 0.8


@dataclass(frozen=True)
class Picked:
    """What `load(auto=True)` chose: keywords of `load`, and why, a sentence each."""

    options: dict[str, Any]
    why: tuple[str, ...]

    def __str__(self) -> str:
        """One line: "auto: quantize=int8, kv_cache=f32 (...)"."""
        told = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"auto: {told or 'nothing to pick, all was given'}" + (f" ({'; '.join(self.why)})" if self.why else "")


def settled(asked: Asked, opened: Opened, free: int | None) -> tuple[Request, Profile | None, Picked | None]:
    """The request for this model: a profile is compared with it, and what is left to us is picked.

    `free`: bytes that the GPU has, where one is asked for. Errors: `ProfileError`, and those of `prepare`.
    """
    if asked.profile is not None:
        asked.profile.check(opened)
        if other := asked.profile.measured_otherwise(opened):
            warn(f"profile: {other}, which may lose more, or be slower; run miaotui tune as you load to be sure")
        if told := asked.profile.differences():
            words = "; ".join(told)
            warn(
                f"profile: was measured on another machine, and may not be the best here ({words}); "
                "run miaotui tune here to be sure"
            )
    if not asked.auto:
        return asked.request, asked.profile, None
    there = free if asked.request.gpu else free_memory()
    request, picked = pick(opened, asked.request, asked.given, there)
    return request, asked.profile, picked


def pick(opened: Opened, request: Request, given: Collection[str], free: int | None) -> tuple[Request, Picked]:
    """The request with what `given` does not name picked for `free` bytes. Errors: those of `prepare`."""
    room = None if free is None else int(free * SHARE)
    limit = request.limit_bytes
    plain = replace(request, memory_limit=None)
    least: tuple[Request, int] | None = None
    for wanted in _rungs(plain, given):
        try:
            prepared = prepare(opened, wanted)
        except (PlanError, BackendError):  # quantised before, or a kind that the GPU lacks
            if least is None and (wanted.quantize, wanted.kv_cache) == (request.quantize, request.kv_cache):
                raise  # what the caller asked for, and no pick of ours
            continue
        takes, allocated = _takes(prepared)
        if least is None or takes < least[1]:
            least = wanted, takes
        if (room is None or takes <= room) and (limit is None or allocated <= limit):
            why = "fits as it is" if wanted.quantize is None else "rounded, as more does not fit"
            return _picked(wanted, request, given, f"{why}: {_sizes(takes, room)}")
    if least is None:  # no rung could be prepared: let the plain request say why
        prepare(opened, plain)
        return request, Picked({}, ())
    if limit is not None and (allocated := _takes(prepare(opened, least[0]))[1]) > limit:
        msg = (
            f"{opened.directory.name}: auto=True: the least that it needs is {allocated:,} bytes besides the mapped "
            f"files, {allocated - limit:,} over memory_limit={limit:,}; a smaller max_context needs less"
        )
        raise MemoryLimitError(msg)
    warn(
        f"auto=True: {opened.directory.name} takes {format_bytes(least[1])} at the least, more than "
        f"{format_bytes(room or 0)} ({SHARE:.0%} of the free memory); it may be slow, or be ended by the system"
    )
    return _picked(least[0], request, given, f"the least of all: {_sizes(least[1], room)}")


def _rungs(request: Request, given: Collection[str]) -> Iterator[Request]:
    """The request at every rung that the caller left open, each once."""
    seen = set[tuple[str | None, str]]()
    for quantize, kv_cache in LADDER:
        rung = (
            request.quantize if "quantize" in given else quantize,
            request.kv_cache if "kv_cache" in given else kv_cache,
        )
        if rung not in seen:
            seen.add(rung)
            yield replace(request, quantize=rung[0], kv_cache=rung[1])


def _picked(wanted: Request, request: Request, given: Collection[str], why: str) -> tuple[Request, Picked]:
    """The request, and what was picked of it."""
    options = {name: getattr(wanted, name) for name in ("quantize", "kv_cache") if name not in given}
    return replace(wanted, memory_limit=request.memory_limit), Picked(options, (why,))


def _takes(prepared: Prepared) -> tuple[int, int]:
    """Bytes in the memory that matters, mapped weights too, and of them what a memory limit counts."""
    memory = prepared.memory
    if "device_allocated" in memory:
        return memory["device_allocated"], max(memory["device_allocated"], memory["allocated"])
    return memory["allocated"] + memory["weights_mapped"], memory["allocated"]


def _sizes(takes: int, room: int | None) -> str:
    return format_bytes(takes) + ("" if room is None else f" of {format_bytes(room)} that are free to take")
