"""What the measurements share: pairs compared, bytes that a step reads, peak memory, and lines for the record."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...runtime.kvcache import cache_bytes
from ...runtime.spec import weights_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...model import Model
    from ...runtime.session import Session
    from ...runtime.spec import Config, Weight, Weights

__all__ = [
    "GB",
    "add_part",
    "bytes_per_step",
    "open_session",
    "paired",
    "peak_memory",
    "print_out",
    "process_age",
    "public_command",
]

GB = 1e9


def open_session(path: Path, threads: int, context: int, **how: Any) -> tuple[Model, Session]:  # noqa: ANN401
    """Load a model for `context` positions, with `load`'s other arguments `how`, and give its session."""
    from ...model import load  # noqa: PLC0415 - the command line's help must not wait for numba

    model = load(path, threads=threads, max_context=context, **how)
    return model, model.session


def bytes_per_step(config: Config, weights: Weights, position: int, kv_cache: str = "f32") -> tuple[int, int]:
    """Bytes that one decode step reads: of weights, and of the KV cache at `position`.

    Every weight is read whole, except tables of which one row is looked up: an embedding that is not also the head, and
    learned positions; and experts, of which a token goes to some.
    """
    total = sum(weight.nbytes for weight in weights)
    own = weights.stack
    for i, layer in enumerate(own.layers):  # one that runs twice is read twice
        total += sum(w.nbytes for w in weights_in(layer)) if any(layer is other for other in own.layers[:i]) else 0
        total -= _unrouted(config, i, weights_in(tuple(s.experts for s in layer)))
    looked_up = weights.head is None or own.embed is not weights.head.w
    tables = [own.positions, own.embed if looked_up else None]
    total -= sum(t.nbytes - t.nbytes // t.shape[0] for t in tables if t is not None)
    cache = 0
    for i in range(config.n_layers):
        attention = config.stack.attention(i)
        if attention is not None:
            keys = min(position, attention.window or position)
            cache += 2 * cache_bytes(kv_cache, attention.n_kv_heads, keys, attention.d_head)
    return total, cache


def _unrouted(config: Config, layer: int, experts: Iterable[Weight]) -> int:
    """Bytes of a layer's experts to which a token does not go."""
    ffn = config.stack.feed_forward(layer)
    if ffn is None or ffn.experts is None:
        return 0
    return sum(w.nbytes for w in experts) // ffn.experts.n * (ffn.experts.n - ffn.experts.per_token)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Compare seconds taken in turn: quartiles of theirs / ours, pair by pair; over 1 means that ours was faster."""
    if len(ours) != len(theirs) or not ours:
        msg = f"{len(ours)} and {len(theirs)} measurements: expected pairs, at least one"
        raise InputError(msg)
    low, middle, high = np.quantile(np.divide(theirs, ours), (0.25, 0.5, 0.75))
    return {"median": float(middle), "quartiles": [float(low), float(high)], "pairs": len(ours)}


def public_command(program: str, argv: Sequence[str]) -> str:
    """Give the command for the record: interpreter and program by name, no directory of this machine."""
    words = [program]
    for word in argv[1:] if argv[1:2] != program.split()[1:] else argv[2:]:
        option, sign, value = word.partition("=")
        words.append(option + sign + _base(value) if sign else _base(word))
    return " ".join(words)


def _base(word: str) -> str:
    return os.path.basename(word.rstrip("/")) if word.startswith(("/", "~", "..")) else word  # noqa: PTH119 - a word


def add_part(out: Path, part: str, figures: dict[str, Any]) -> None:
    """Put a part's figures into a file of several, in the place of older ones."""
    out.parent.mkdir(parents=True, exist_ok=True)
    there = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"parts": {}}
    there["parts"][part] = figures
    out.write_text(json.dumps(there, indent=1) + "\n", encoding="utf-8")


def print_out(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def peak_memory() -> int:
    """Bytes of the process's largest resident set so far, mapped files included; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage begins with what the parent held
        peaks = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return int(peaks[0].split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 - POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_age() -> float:
    """Seconds since this process was started, to 10 ms; 0 where the system does not say."""
    stat = Path("/proc/self/stat")
    if not stat.exists() or not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    started = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
