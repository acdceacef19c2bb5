"""Options of `load` as users type them (PEP 692), their defaults, and the check of their names."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypedDict

from .dataclass import dataclass
from .errors import InputError
from .limits import Request
from .runtime.parameters import check_names, switch

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from os import PathLike

    from .drafting import Draft
    from .loader.prune.options import Prune
    from .profiles import Profile

__all__ = ["LOAD_DEFAULTS", "Asked", "LoadKwargs", "parse_options"]


class LoadKwargs(TypedDict, total=False):
    """Keywords of `load`. NumPy's integers are as good as Python's."""

    device: Literal["cpu", "cuda"]
    """Where to compute: "cpu", or "cuda" for an NVIDIA GPU (the cuda extra), whose memory then holds weights and
    arena."""
    threads: int | SupportsIndex | Literal["auto"] | None
    """Threads of a step; "auto", or None: as many of the cores that this process may use as the step is worth."""
    max_context: int | SupportsIndex | None
    """Positions to reserve; None: the model's, at most 2048."""
    memory_limit: int | SupportsIndex | str | None
    """Most bytes to allocate, as a number or as "2GiB"; None: no limit. A model that needs more is not loaded."""
    revision: str | None
    """Branch, tag or commit of a hub name; None: its main branch."""
    prefill_chunk: int | SupportsIndex | None
    """Tokens of a prompt that one pass takes; None: 128, with a GPU 1024."""
    quantize: str | None
    """Round every matrix while reading: "int8", "int4" or "int4a"; or by role or layer: "int4,embed=int8,0=int8"."""
    prune: Prune | None
    """What to keep: a `PrunePlan`, a plan's file (docs/plans.md), or short forms: "keep-layers=0-2; ffn=0.75"."""
    kv_cache: Literal["f32", "bf16", "int8"]
    """How keys and values are kept."""
    cache_tokens: int | SupportsIndex | None
    """Tokens that the KV cache holds for all open texts together; None: one text of `max_context`."""
    adapter: str | PathLike[str] | None
    """A PEFT LoRA adapter, a directory or hub name, that is merged into the weights while they are read
    (docs/adapters.md)."""
    adapters: Mapping[str, str | PathLike[str]] | None
    """Adapters that are kept apart: directories of PEFT's by name, of which each text may choose one."""
    adapter_slots: int | SupportsIndex
    """Places for this many adapters more, that `Model.add_adapter` brings later (docs/adapters.md)."""
    adapter_rank: int | SupportsIndex
    """The largest rank of these."""
    draft: Draft | Literal[False] | None
    """Guess ids ahead and check several in a pass; no answer changes (docs/speculation.md): "ngram", from what the text
    repeats; short forms of a plan ("keep-layers=0-2"), by that part of the model; or the path of a smaller model."""
    precision: Literal["exact", "int8", "bf16", "fast"] | None
    """How products round their input (docs/precision.md); None: not at all for floats, to int8 for integers."""

    profile: Profile | str | os.PathLike[str] | None
    """What `miaotui tune` chose, a `Profile` or its file (docs/tuning.md); keywords that are given win over it."""
    auto: bool
    """Pick what is not given by prediction (docs/tuning.md): rounding, where the model does not fit."""


#: The defaults.
LOAD_DEFAULTS = {field.name: field.default for field in fields(Request)}
LOAD_DEFAULTS |= {"revision": None, "draft": None, "profile": None, "auto": False}


@dataclass(frozen=True)
class Asked:
    """What a caller of `load` asked for. `request` has the profile's options too; `given`: names that are settled."""

    request: Request
    revision: str | None = None
    profile: Profile | None = None
    auto: bool = False
    given: frozenset[str] = frozenset()
    draft: Draft | None = None


def parse_options(given: Mapping[str, object]) -> Asked:
    """Check the options of `load`; a profile's file is read. Errors: `InputError`, `ProfileError`."""
    check_names(given, LOAD_DEFAULTS, "option of load")
    values: dict[str, Any] = dict(given)
    revision: str | None = values.pop("revision", None)
    profile, auto = values.pop("profile", None), switch("auto", values.pop("auto", False))
    if profile is not None:
        if auto:
            msg = "auto=True: a profile is given too, which says what to pick; leave one of them out"
            raise InputError(msg)
        from .profiles import read_profile  # noqa: PLC0415 - few need it

        profile = read_profile(profile)
        values = profile.load | values
    settled = frozenset(values)
    draft = values.pop("draft", None)
    return Asked(Request(**values), revision, profile, auto, settled, None if draft is False else draft)
