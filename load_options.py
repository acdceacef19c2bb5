"""Options of `load` as users type them (PEP 692), their defaults, and the check of their names."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypedDict

from .limits import Request
from .runtime.parameters import check_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .drafting import Draft
    from .loader.prune.options import Prune

__all__ = ["LOAD_DEFAULTS", "LoadKwargs", "parse_options"]


class LoadKwargs(TypedDict, total=False):
    """Keywords of `load`. NumPy's integers are as good as Python's."""

    device: Literal["cpu", "cuda"]
    """Where to compute: "cpu", or "cuda" for an NVIDIA GPU (the cuda extra), whose memory then holds weights and
    arena."""
    threads: int | SupportsIndex | None
    """Threads of a step; None: the cores that this process may use."""
    max_context: int | SupportsIndex | None
    """Positions to reserve; None: the model's, at most 2048."""
    memory_limit: int | SupportsIndex | str | None
    """Most bytes to allocate, as a number or as "2GiB"; None: no limit. A model that needs more is not loaded."""
    revision: str | None
    """Branch, tag or commit of a hub name; None: its main branch."""
    prefill_chunk: int | SupportsIndex | None
    """Tokens of a prompt that one pass takes; None: 128, with a GPU 1024."""
    quantize: str | None
    """Round every matrix while reading: "int8", "int4" or "int4a"; or by role: "int4,embed=int8"."""
    prune: Prune | None
    """What to keep: a `PrunePlan`, a plan's file (docs/plans.md), or short forms: "keep-layers=0-2; ffn=0.75"."""
    kv_cache: Literal["f32", "bf16", "int8"]
    """How keys and values are kept."""
    cache_tokens: int | SupportsIndex | None
    """Tokens that the KV cache holds for all open texts together; None: one text of `max_context`."""
    draft: Draft | Literal[False] | None
    """Guess ids ahead and check several in a pass; no answer changes (docs/speculation.md): "ngram", from what the text
    repeats; short forms of a plan ("keep-layers=0-2"), by that part of the model; or the path of a smaller model."""
    precision: Literal["exact", "fast"]
    """With "fast", products round their input to BF16 where the CPU multiplies such pairs; on a GPU see `load`."""


#: The defaults.
LOAD_DEFAULTS = {field.name: field.default for field in fields(Request)} | {"revision": None, "draft": None}


def parse_options(given: Mapping[str, object]) -> tuple[Request, str | None, Draft | None]:
    """Check the options of `load`: the request, the revision of a hub name, and the draft. InputError."""
    check_names(given, LOAD_DEFAULTS, "option of load")
    values: dict[str, Any] = dict(given)
    revision: str | None = values.pop("revision", None)
    draft = values.pop("draft", None)
    return Request(**values), revision, None if draft is False else draft
