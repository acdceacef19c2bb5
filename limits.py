"""What `load` may be asked for, and what it will take: checked, and predicted, before anything is read."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

from .dataclass import dataclass
from .errors import BackendError, InputError, MemoryLimitError, shown
from .loader.paths import as_path
from .runtime.cores import available_threads
from .runtime.kvcache import KV_BYTES, pages_of
from .runtime.parameters import DEFAULT_NEW_TOKENS
from .runtime.precision import WORDS
from .sizes import parse_size

if TYPE_CHECKING:
    from pathlib import Path

    from .loader.load_plan import LoadPlan
    from .loader.prune.options import Prune
    from .runtime.precision import Precision
    from .runtime.program import Program
    from .runtime.spec import Config

__all__ = [
    "AUTO",
    "DEFAULT_CONTEXT",
    "ENCODER_CHUNK",
    "LOGIT_ROWS",
    "PREFILL_CHUNK",
    "USUAL_BEAMS",
    "Request",
    "check_memory",
    "named_adapters",
    "predicted_memory",
]

#: Context reserved where the caller names none: the model's own, at most this.
DEFAULT_CONTEXT = 2048
#: Context that may be reserved of a model with RoPE, whatever it was made for.
MAX_CONTEXT = 2**20

#: Tokens whose logits one pass keeps: what `Model.logits` reads at a time, and what a chunk's head costs at most.
LOGIT_ROWS = 32

#: Tokens of a prompt that one pass takes, by device: a GPU reads the weights once a pass, and multiplies far faster.
PREFILL_CHUNK = {"cpu": 128, "cuda": 1024}

#: Tokens of whole texts that one pass of an encoder takes, at least: its longest text fits in any case.
ENCODER_CHUNK = 512

#: Beams that an encoder-decoder's cache has room for, where the caller names no size.
USUAL_BEAMS = 4

#: Of any count: beyond what a machine has, and what 64 bits count in bytes.
MAX_COUNT = 2**40
MAX_ADAPTERS = 2**16
#: Rank of adapters that come later, where the caller names none.
ADAPTER_RANK = 16
MAX_THREADS = 1024  # more than any machine here has
#: Of `threads`: those of the cores that a step is worth.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a caller of `load` asked for, each value by itself checked; `load` says what they mean.

    Counts may be any integer, NumPy's too; `memory_limit` may be a text such as "2GiB". Errors: `InputError`, and
    `BackendError` for a device that there is no such of. `quantize` and `prune` are checked against a checkpoint.
    """

    device: str = "cpu"
    threads: int | str | None = AUTO  # None: the same
    max_context: int | None = None
    memory_limit: int | str | None = None
    prefill_chunk: int | None = None
    quantize: str | None = None
    prune: Prune | None = None
    kv_cache: str = "f32"
    cache_tokens: int | None = None
    precision: Precision | None = None
    adapter: str | Path | None = None
    adapters: Mapping[str, str | PathLike[str]] | None = None
    adapter_slots: int = 0
    adapter_rank: int = ADAPTER_RANK

    def __post_init__(self) -> None:
        """Check every value."""
        if not isinstance(self.device, str) or self.device not in PREFILL_CHUNK:
            msg = f"device={shown(self.device)}: expected 'cpu' or 'cuda'"
            raise BackendError(msg)
        object.__setattr__(self, "threads", _threads(self.threads))
        for name in ("max_context", "prefill_chunk", "cache_tokens"):
            object.__setattr__(self, name, _count(name, getattr(self, name), MAX_COUNT))
        if self.adapter is not None:
            as_path(self.adapter, "adapter")
        object.__setattr__(self, "memory_limit", _size("memory_limit", self.memory_limit))
        for name, allowed in (("kv_cache", tuple(KV_BYTES)), ("precision", WORDS)):
            value = getattr(self, name)
            if value is None and name == "precision":
                continue
            if not isinstance(value, str) or value not in allowed:
                msg = f"{name}={shown(value)}: expected one of {', '.join(allowed)}"
                raise InputError(msg)
        if self.precision == "bf16" and self.gpu:
            msg = "precision='bf16': a GPU adds in an order of its own; use 'fast', or device='cpu'"
            raise BackendError(msg)
        object.__setattr__(self, "adapters", named_adapters(self.adapters))
        self._check_slots()
        if (self.adapters or self.adapter_slots) and self.gpu:
            name = "adapters" if self.adapters else "adapter_slots"
            msg = f"{name}: the CUDA path has no kernel for adapters that are kept apart; use device='cpu'"
            raise BackendError(msg)

    def _check_slots(self) -> None:
        """Places for adapters that come later."""
        none = self.adapter_slots == 0 and not isinstance(self.adapter_slots, bool)
        slots = 0 if none else _count("adapter_slots", self.adapter_slots) or 0
        if slots + len(self.adapters or ()) > MAX_ADAPTERS:
            msg = f"adapter_slots={shown(slots)}: expected at most {MAX_ADAPTERS}, those of adapters= included"
            raise InputError(msg)
        rank = _count("adapter_rank", self.adapter_rank) or ADAPTER_RANK
        if rank > MAX_ADAPTERS:
            msg = f"adapter_rank={shown(rank)}: expected at most {MAX_ADAPTERS}"
            raise InputError(msg)
        object.__setattr__(self, "adapter_slots", slots)
        object.__setattr__(self, "adapter_rank", rank)

    @property
    def gpu(self) -> bool:
        """Whether steps run on a GPU."""
        return self.device == "cuda"

    @property
    def n_threads(self) -> int:
        """Threads of this process: those asked for, or the cores that it may use."""
        return self.threads if isinstance(self.threads, int) else available_threads()

    @property
    def limit_bytes(self) -> int | None:
        """`memory_limit` in bytes."""
        return _size("memory_limit", self.memory_limit)

    @property
    def rounding(self) -> Precision | None:
        """`precision` as a program is recorded with it: "fast" is none where this CPU has nothing that is faster."""
        if self.gpu or self.precision != "fast":
            return self.precision
        from .runtime.cpu.target import bf16_dot  # noqa: PLC0415 - asks LLVM what the CPU can do

        return "fast" if bf16_dot() else None

    def n_pages(self, context: int, *, beams: int = 1) -> int:
        """Pages of the KV cache: for `cache_tokens` tokens together; or for one text, and `beams` of usual length.

        InputError: of a GPU.
        """
        if self.cache_tokens is None:
            usual = min(context, DEFAULT_NEW_TOKENS + 1)
            return max(pages_of(context), beams * pages_of(usual) if beams > 1 else 0)
        if self.gpu:
            msg = f"cache_tokens={shown(self.cache_tokens)}: a GPU's cache belongs to one text at a time; leave it out"
            raise InputError(msg)
        return pages_of(self.cache_tokens)

    def context(self, config: Config) -> int:
        """Positions to reserve. InputError: more than the model has."""
        wanted = self.max_context
        if wanted is None:
            return min(config.n_context, DEFAULT_CONTEXT)
        if config.positions is not None and wanted > config.n_context:
            msg = f"max_context={shown(wanted)}: this model has learned positions for {config.n_context} tokens only"
            raise InputError(msg)
        if wanted > max(config.n_context, MAX_CONTEXT):
            msg = f"max_context={shown(wanted)}: the model was made for {config.n_context}, "
            msg = f"{msg}expected at most {MAX_CONTEXT}"
            raise InputError(msg)
        return wanted

    def notes(self, config: Config) -> tuple[str, ...]:
        """What a receipt says of the request."""
        notes = []
        if self.max_context is not None and self.max_context > config.n_context:
            notes.append(
                f"max_context={self.max_context} is above the model's own {config.n_context}: it was not made for "
                "longer texts, and its answers to them may make no sense"
            )
        if self.precision == "fast" and self.gpu:
            notes.append(
                "precision=fast: long prompts go to the GPU's tensor core; the bits are not those of other machines"
            )
        elif self.precision == "fast":
            how = "round their input" if self.rounding else "are computed exactly: this CPU has no dot product of pairs"
            pairs = self.kv_cache == "bf16" and config.encoder is None
            what = "products of BF16 matrices" + (" and attention" if pairs else "")
            notes.append(f"precision=fast: {what} {how}; the bits differ between kinds of CPU")
        return tuple(notes)


def named_adapters(value: object, call: str = "adapters") -> dict[str, str | PathLike[str]] | None:
    """Paths by name, in order, or None: InputError, which begins with the `call`."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        msg = f"{call}={shown(value)}: expected a dict of names and directories, {{'name': path}}"
        raise InputError(msg)
    for name, path in value.items():
        if not isinstance(name, str) or not name:
            msg = f"{call}: the name {shown(name)}: expected a text of one character at least"
            raise InputError(msg)
        if not isinstance(path, str | PathLike):
            msg = f"{call}: {shown(name)}: {shown(path)} found, expected the path of a directory"
            raise InputError(msg)
    if len(value) > MAX_ADAPTERS:
        msg = f"{call}: {len(value)} of them, expected at most {MAX_ADAPTERS}"
        raise InputError(msg)
    return dict(value) or None


def _threads(value: object) -> int | str:
    """A count, or "auto", for which None stands too: InputError."""
    if value is None or (isinstance(value, str) and value == AUTO):
        return AUTO
    try:
        return _count("threads", value, MAX_THREADS) or AUTO
    except InputError as e:
        msg = f"{e}, or {AUTO!r}"
        raise InputError(msg) from None


def _count(name: str, value: object, most: int | None = None) -> int | None:
    """A whole number of at least 1, or None: InputError."""
    if value is None:
        return None
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # TypeError says so
    except TypeError:
        number = 0
    if number < 1:
        msg = f"{name}={shown(value)}: expected a whole number of at least 1"
        raise InputError(msg)
    if most is not None and number > most:
        msg = f"{name}={shown(value)}: expected at most {most}"
        raise InputError(msg)
    return number


def _size(name: str, value: object) -> int | None:
    """Bytes, as a number or as people write them: InputError."""
    if not isinstance(value, str):
        return _count(name, value)
    try:
        return _count(name, parse_size(value))
    except ValueError as e:
        msg = f"{name}={shown(value)}: expected bytes, for instance 1048576, '500MB' or '2GiB'"
        raise InputError(msg) from e


def predicted_memory(
    plan: LoadPlan, program: Program, device: str = "cpu", adapters: int = 0, copied: int = 0
) -> dict[str, int]:
    """Bytes by part; "allocated" is all but what is mapped from the files. `adapters`: of those that are kept apart.

    `copied`: of arrays that were given and did not lie as in a file.
    With a GPU, "device_" parts are what lies in its memory, together "device_allocated"; the arena lies there alone.
    """
    if device == "cuda":
        from .runtime.cuda.account import device_memory  # noqa: PLC0415 - only where it is asked for

        host = {
            "weights_mapped": plan.mapped_bytes,
            "weights_resident": plan.resident_bytes,
            **({"weights_copied": copied} if copied else {}),
            "constants": program.constant_bytes,
            "allocated": plan.resident_bytes + copied + program.constant_bytes,
        }
        there = {f"device_{part}": n for part, n in device_memory(program).items()}
        return host | there | {"device_allocated": sum(there.values())}
    memory = {
        "weights_mapped": plan.mapped_bytes,
        "weights_resident": plan.resident_bytes,
        **({"weights_copied": copied} if copied else {}),
        **({"adapters": adapters} if adapters else {}),
        "constants": program.constant_bytes,
        **program.memory,
    }
    memory["allocated"] = sum(memory.values()) - plan.mapped_bytes
    return memory


def check_memory(  # noqa: PLR0913 - keywords
    name: str, limit: int | None, memory: dict[str, int], program: Program, *, free: int | None, unsure: int = 0
) -> None:
    """Refuse what is over the limit, in the host's memory or in the GPU's, or over what is free in the latter.

    `unsure`: bytes that may turn out not to be needed.
    """
    less = f"a smaller max_context (now {program.n_context}) or prefill_chunk (now {program.chunk}) needs less"
    for part, where in (("allocated", "besides the mapped files"), ("device_allocated", "of the GPU's memory")):
        needed = memory.get(part, 0) - unsure
        if limit is not None and needed > limit:
            msg = f"{name}: needs {needed:,} bytes {where}, {needed - limit:,} over memory_limit={limit:,}; {less}"
            raise MemoryLimitError(msg)
    needed = memory.get("device_allocated", 0) - unsure
    if free is not None and needed > free:
        msg = f"{name}: needs {needed:,} bytes of the GPU's memory, of which {free:,} are free; {less}"
        raise MemoryLimitError(msg)
