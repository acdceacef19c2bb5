"""`miaotui bench --profile`: where the time of a step goes, instruction by instruction.

The program of a prefill chunk and of a decode step is run one instruction at a time, in its order, so that caches are
as warm or cold as they are in a whole step. What an empty program costs is taken off each. Bytes count weights once,
the KV cache as far as it is read, and every tensor that an instruction reads or writes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...loader.write import write_whole
from ...runtime.kvcache import cache_bytes
from ...runtime.ops import OPS
from ...runtime.spec import Weight

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ...runtime.program import Instruction
    from ...runtime.session import Session

__all__ = ["Part", "profile", "profile_table", "write_trace"]

REPEAT = 15
#: Kernels that read a weight once a step.
READERS = ("linear",)


@dataclass(frozen=True)
class Part:
    """One instruction: seconds, and what it had to move and to compute."""

    kernel: str
    what: str
    seconds: float
    nbytes: int
    flop: int


def profile(session: Session, prompt: Sequence[int], repeat: int = REPEAT) -> dict[str, list[Part]]:
    """Parts of "prefill" (one chunk of the prompt) and "decode" (one token after it), in the program's order."""
    chunk = list(prompt[: session.chunk])
    session.step(chunk, 0)
    return {
        "prefill": _parts(session, chunk, 0, max(3, repeat // 3)),
        "decode": _parts(session, [session.argmax], len(chunk), repeat),
    }


def _parts(session: Session, ids: Sequence[int], start: int, repeat: int) -> list[Part]:
    seconds = np.median([session.timed_step(ids, start) for _ in range(repeat)], axis=0)
    code = session.program.code
    return [
        Part(ins.kernel, _weight_name(ins), float(s), *_cost(ins, len(ids), start + len(ids)))
        for ins, s in zip(code, seconds, strict=True)
    ]


def _weight_name(ins: Instruction) -> str:
    return next((v.name for v in ins.values.values() if isinstance(v, Weight)), "")


def _cost(ins: Instruction, n: int, keys: int) -> tuple[int, int]:
    """Bytes moved and FLOP for n tokens, the last of which sees `keys` keys."""
    rows = 1 if ins.rows == "R" else n
    dims = {name: int(v) for name, v in ins.values.items() if isinstance(v, int | float)}
    weights = [v for v in ins.values.values() if isinstance(v, Weight)]
    per_row = 4 * sum(t.width for kind in "oi" for t in ins.tensors(kind) if t.part == "activations")
    nbytes = rows * per_row
    if ins.op in READERS:
        nbytes += sum(w.nbytes for w in weights)
    if ins.op in {"attention", "attention_biased", "attention_relative"}:
        seen = min(keys, dims["window"])
        nbytes += 2 * cache_bytes(ins.variant, dims["kv_heads"], seen, dims["d_head"])
        dims["context"] = seen
    return nbytes, rows * OPS[ins.op].flop(dims)


def profile_table(parts: Sequence[Part], read_gbs: float) -> str:
    """A table by kernel, the dearest first; then the share of what reads no weights."""
    groups: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        groups[part.kernel].append(part)
    total = sum(p.seconds for p in parts) or 1e-12
    lines = [f"  {'kernel':20s} {'calls':>5s} {'us':>9s} {'share':>6s} {'GB/s':>7s} {'of read':>7s} {'GFLOP/s':>8s}"]
    for kernel, group in sorted(groups.items(), key=lambda item: -sum(p.seconds for p in item[1])):
        seconds = sum(p.seconds for p in group)
        rate = 1e-9 / seconds if seconds else 0.0
        gbs, gflops = (sum(getattr(p, what) for p in group) * rate for what in ("nbytes", "flop"))
        lines.append(
            f"  {kernel:20s} {len(group):5d} {seconds * 1e6:9.1f} {seconds / total:6.1%} {gbs:7.1f} "
            f"{gbs / read_gbs:7.2f} {gflops:8.1f}"
        )
    rest = sum(p.seconds for p in parts if not p.kernel.startswith(READERS))
    lines.append(f"  {'all':20s} {len(parts):5d} {total * 1e6:9.1f}; not reading weights: {rest / total:.1%}")
    return "\n".join(lines)


def write_trace(file: Path, by_phase: dict[str, list[Part]]) -> None:
    """Write Chrome's trace format (chrome://tracing, Perfetto): a row each for prefill and decode."""
    events: list[dict[str, Any]] = []
    for row, (phase, parts) in enumerate(by_phase.items()):
        at = 0.0
        events.append({"name": "thread_name", "ph": "M", "pid": 0, "tid": row, "args": {"name": phase}})
        for part in parts:
            facts = {"weight": part.what, "bytes": part.nbytes, "flop": part.flop}
            us = part.seconds * 1e6
            events.append({"name": part.kernel, "ph": "X", "pid": 0, "tid": row, "ts": at, "dur": us, "args": facts})
            at += us
    write_whole(file, json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}) + "\n")
