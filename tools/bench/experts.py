"""What of a model with experts a step reads from its file, by the kernel's own account, next to what it goes to.

    python -m miaotui.tools.bench.experts --out docs/benchmarks/experts-mixtral-tiny.json

A random checkpoint of Mixtral's shape, small, is written, and the page cache lets go of its file. Then a first token is
computed, and more after it, one a step: which pages the kernel holds before and after each step (mincore) says what it
has read; the step is watched for the experts that its token goes to. `bound` is what it may read: the bytes of those
experts that no step before went to, and a page for each of their matrices.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError
from ...loader.load_plan import make_load_plan
from ...loader.open import open_model
from ...runtime.arena import Tensor
from ...runtime.experts import ExpertTable
from ..export import write_safetensors
from .roofline import machine, versions
from .shapes import to_bf16
from .shared import open_session, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ...model import Model
    from ...runtime.program import Instruction

__all__ = ["SHAPE", "main", "reads"]

PAGE = mmap.PAGESIZE
STD = 0.02
#: config.json: 8 experts, 2 a token, each of 768 KiB in BF16.
SHAPE: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def _tensors(c: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in the order of the file."""
    d, ff = c["hidden_size"], c["intermediate_size"]
    d_kv = d // c["num_attention_heads"] * c["num_key_value_heads"]
    yield from ((name, (c["vocab_size"], d)) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    for i in range(c["num_hidden_layers"]):
        layer, block = f"model.layers.{i}.", f"model.layers.{i}.block_sparse_moe."
        for e in range(c["num_local_experts"]):
            yield from ((f"{block}experts.{e}.w{n}.weight", (d, ff) if n == 2 else (ff, d)) for n in (1, 2, 3))  # noqa: PLR2004 - w2 is down
        yield f"{block}gate.weight", (c["num_local_experts"], d)
        yield from ((f"{layer}{name}_layernorm.weight", (d,)) for name in ("input", "post_attention"))
        for part, rows in (("k", d_kv), ("o", d), ("q", d), ("v", d_kv)):
            yield f"{layer}self_attn.{part}_proj.weight", (rows, d)
    yield "model.norm.weight", (d,)


def _made(directory: Path) -> Path:
    """Write the checkpoint; its file."""
    rng = np.random.default_rng(0)

    def numbers(shape: tuple[int, ...]) -> Callable[[], NDArray[np.generic]]:
        scale = np.float32(STD)
        return lambda: to_bf16(
            np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * scale
        )

    (directory / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    rows = ((name, "BF16", shape, numbers(shape)) for name, shape in _tensors(SHAPE))
    write_safetensors(directory / "model.safetensors", rows, "pt")
    return directory / "model.safetensors"


def _held(file: Path) -> NDArray[np.bool_]:
    """Which of a file's pages the kernel holds. Errors: `BackendError` where it does not tell."""
    size = file.stat().st_size
    with file.open("rb") as f, mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ) as mapped:
        pages, view = np.zeros(-(-size // PAGE), np.uint8), np.frombuffer(mapped, np.uint8)
        at, out = (ctypes.c_void_p(a.ctypes.data) for a in (view, pages))
        told = ctypes.CDLL(None).mincore(at, ctypes.c_size_t(size), out)
        del view
    if told:
        msg = f"{file}: mincore does not tell which pages are held"
        raise BackendError(msg)
    return (pages & 1).astype(np.bool_)


def _step(model: Model, token: int, start: int) -> dict[int, set[int]]:
    """Compute a token; layer -> the experts that it went to."""
    got: dict[int, set[int]] = {}

    def watch(instruction: Instruction, view: Callable[[Tensor], NDArray[np.float32]]) -> None:
        table, routes = instruction.values.get("table"), instruction.values.get("routes")
        if isinstance(table, ExpertTable) and isinstance(routes, Tensor):
            layer = int(table.weights[0].name.split(".")[1])
            got[layer] = set(view(routes)[:, : routes.width // 2].astype(int).ravel().tolist())

    model.session.watched_step([token], start, watch)
    return got


def reads(directory: Path, n: int) -> dict[str, Any]:
    """Bytes of experts that each of `n` steps reads and may read. `BackendError`: the cache cannot be emptied."""
    file = _made(directory)
    with file.open("rb+") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _held(file).any():
        msg = f"{directory}: this file system keeps pages of a file that is let go of; name another --directory"
        raise BackendError(msg)
    with open_model(directory) as opened:
        experts = [s for s in make_load_plan(opened) if s.expert is not None]
    model, _ = open_session(directory, 1, n)
    with model:
        of = {(int(s.name.split(".")[1]), s.expert, s.role): s.spans[0] for s in experts}
        inside = np.zeros(len(_held(file)), bool)  # pages that hold an expert's bytes and nothing else
        for a, b in of.values():
            inside[-(-a // PAGE) : b // PAGE] = True
        steps, seen = [], set[tuple[int, int]]()
        held = _held(file)
        for i in range(n):
            went = {(layer, e) for layer, some in _step(model, 7 * i % SHAPE["vocab_size"], i).items() for e in some}
            now, first = _held(file), went - seen
            spans = [span for (layer, e, _), span in of.items() if (layer, e) in first]
            steps.append({
                "read_bytes": int(PAGE * np.sum(now & ~held & inside)),
                "bound_bytes": sum(b - a for a, b in spans) + PAGE * len(spans),
                "routed_bytes": sum(b - a for (layer, e, _), (a, b) in of.items() if (layer, e) in went),
            })  # fmt: skip
            held, seen = now, seen | went
    return {"expert_bytes": sum(b - a for a, b in of.values()), "steps": steps}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.experts", description="bytes that a step reads"
    )
    parser.add_argument("--directory", type=Path, help="where to write the checkpoint (default: a temporary one)")
    parser.add_argument("--steps", type=int, default=8, help="tokens to compute (default: 8)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.directory) as place:
        facts = reads(Path(place), args.steps)
    for i, s in enumerate(facts["steps"]):
        line = f"step {i}: read {s['read_bytes']:,} bytes of experts, at most {s['bound_bytes']:,}; goes to "
        print_out(f"{line}{s['routed_bytes']:,} of {facts['expert_bytes']:,}")
    if args.out:
        command = public_command("python -m miaotui.tools.bench.experts", argv if argv is not None else sys.argv)
        record = {"command": command, "machine": machine(), "versions": versions(), "shape": SHAPE, **facts}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
