"""What `load` may be asked for, and what it will take: checked, and predicted, before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError, MemoryLimitError
from .runtime.cores import available_threads
from .runtime.kvcache import KV_BYTES

if TYPE_CHECKING:
    from .loader.load_plan import LoadPlan
    from .runtime.program import Program
    from .runtime.spec import Config

__all__ = [
    "DEFAULT_CONTEXT",
    "LOGIT_ROWS",
    "PREFILL_CHUNK",
    "check_counts",
    "check_kv_cache",
    "check_memory",
    "check_precision",
    "precision_notes",
    "predicted_memory",
    "reserved",
    "threads_of",
]

#: Context reserved where the caller names none: the model's own, at most this.
DEFAULT_CONTEXT = 2048

#: Tokens whose logits one pass keeps: what `Model.logits` reads at a time, and what a chunk's head costs at most.
LOGIT_ROWS = 32

#: Tokens of a prompt that one pass takes, by device: a GPU reads the weights once a pass, and multiplies far faster.
PREFILL_CHUNK = {"cpu": 128, "cuda": 1024}


def predicted_memory(plan: LoadPlan, program: Program, device: str = "cpu") -> dict[str, int]:
    """Bytes by part; "allocated" is all but what is mapped from the files.

    With a GPU, "device_" parts are what lies in its memory, together "device_allocated"; the arena lies there alone.
    """
    if device == "cuda":
        from .runtime.cuda.account import device_memory  # noqa: PLC0415 - only where it is asked for

        host = {
            "weights_mapped": plan.mapped_bytes,
            "weights_resident": plan.resident_bytes,
            "constants": program.constant_bytes,
            "allocated": plan.resident_bytes + program.constant_bytes,
        }
        there = {f"device_{part}": n for part, n in device_memory(program).items()}
        return host | there | {"device_allocated": sum(there.values())}
    memory = {
        "weights_mapped": plan.mapped_bytes,
        "weights_resident": plan.resident_bytes,
        "constants": program.constant_bytes,
        **program.memory,
    }
    memory["allocated"] = sum(memory.values()) - plan.mapped_bytes
    return memory


def check_kv_cache(dtype: object) -> None:
    """Refuse a dtype that the KV cache does not have: InputError."""
    if dtype not in KV_BYTES:
        msg = f"kv_cache={dtype!r}: expected one of {', '.join(KV_BYTES)}"
        raise InputError(msg)


def check_precision(precision: object, *, gpu: bool) -> bool:
    """Whether products may round their input to BF16: asked for, and possible. InputError: no such precision."""
    if precision not in ("exact", "fast"):
        msg = f"precision={precision!r}: expected 'exact' or 'fast'"
        raise InputError(msg)
    if precision == "exact":
        return False
    if gpu:
        return True
    from .runtime.cpu.target import bf16_dot  # noqa: PLC0415 - asks LLVM what the CPU can do

    return bf16_dot()


def precision_notes(precision: str, *, fast: bool, gpu: bool) -> tuple[str, ...]:
    """What a receipt says of `precision`."""
    if precision == "exact":
        return ()
    if gpu:
        return ("precision=fast: long prompts go to the GPU's tensor core; the bits are not those of other machines",)
    if not fast:
        return ("precision=fast: this CPU has no BF16 dot; computed exactly",)
    return ("precision=fast: products of BF16 matrices are this CPU's own; the bits differ between machines",)


def check_counts(**counts: object) -> None:
    """Refuse what is no whole number of at least 1: InputError."""
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            msg = f"{name}={value!r}: expected a whole number of at least 1"
            raise InputError(msg)


def check_memory(  # noqa: PLR0913 - keywords
    name: str, limit: int | None, memory: dict[str, int], *, context: int, chunk: int, free: int | None,
    unsure: int = 0,
) -> None:  # fmt: skip
    """Refuse what is over the limit, in the host's memory or in the GPU's, or over what is free in the latter."""
    less = f"a smaller max_context (now {context}) or prefill_chunk (now {chunk}) needs less"
    for part, where in (("allocated", "beside the mapped files"), ("device_allocated", "of the GPU's memory")):
        needed = memory.get(part, 0) - unsure
        if limit is not None and needed > limit:
            msg = f"{name}: needs {needed:,} bytes {where}, {needed - limit:,} over memory_limit={limit:,}; {less}"
            raise MemoryLimitError(msg)
    needed = memory.get("device_allocated", 0) - unsure
    if free is not None and needed > free:
        msg = f"{name}: needs {needed:,} bytes of the GPU's memory, of which {free:,} are free; {less}"
        raise MemoryLimitError(msg)


def reserved(config: Config, wanted: int | None) -> int:
    """Positions to reserve. InputError: more than the model has."""
    if wanted is None:
        return min(config.n_context, DEFAULT_CONTEXT)
    if config.positions is not None and wanted > config.n_context:
        msg = f"max_context={wanted}: this model has learned positions for {config.n_context} tokens only"
        raise InputError(msg)
    if wanted > max(config.n_context, 2**20):
        msg = f"max_context={wanted}: the model was made for {config.n_context}"
        raise InputError(msg)
    return wanted


def threads_of(wanted: int | None) -> int:
    """Threads of a step. InputError: too many."""
    if wanted is not None and wanted > 1024:  # noqa: PLR2004 (more than any machine here has)
        msg = f"threads={wanted}: at most 1024"
        raise InputError(msg)
    return wanted or available_threads()
