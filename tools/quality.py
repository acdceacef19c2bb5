"""What rounding costs: perplexity, and divergence from the exact model, ours beside the peer's on the same weights.

    python -m miaotui.tools.quality [--model DIR --file TEXT] [--peer-python PYTHON] [--out FILE]

Without a file: the demo model on stories that it has not seen. KL is the mean over all positions of
KL(p || q) = sum p log(p / q), p the exact model's distribution (ours, unrounded) and q the rounded one's, in nats.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..model import load
from .bench import print_out, public_command
from .bench_peers import Worker, converted, worker_command
from .demo import path as demo_path
from .demo.corpus import held_out
from .peers.llamacpp import DTYPES
from .roofline import machine, versions

if TYPE_CHECKING:

    from numpy.typing import NDArray

__all__ = ["compare", "main"]

BITS = {"int8": 8.5, "int4": 4.5, "q8_0": 8.5, "q4_0": 4.5}


def compare(
    exact: list[NDArray[np.float64]], rounded: list[NDArray[np.float64]], texts: list[list[int]]
) -> dict[str, float]:
    """Log-probabilities [T, n_vocab] of every text, exact and rounded -> perplexity and mean KL."""
    loss, kl, n = 0.0, 0.0, 0
    for p, q, ids in zip(exact, rounded, texts, strict=True):
        loss -= float(q[np.arange(len(ids) - 1), ids[1:]].sum())
        kl += float((np.exp(p) * (p - q)).sum())
        n += len(ids) - 1
    return {"ppl": float(np.exp(loss / n)), "kl": kl / n, "n_tokens": n}


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Along the last axis, in float64."""
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    z -= np.log(np.exp(z).sum(-1, keepdims=True))
    return z


def _ours(path: Path, how: str | None, texts: list[list[int]]) -> list[NDArray[np.float64]]:
    with load(path, quantize=how) as model:
        return [log_softmax(model.logits(ids[:-1])) for ids in texts]


def _peer(python: str, path: Path, dtype: str, texts: list[list[int]]) -> list[NDArray[np.float64]]:
    """Feed the texts to llama.cpp token by token, the matrices in `dtype`."""
    with tempfile.TemporaryDirectory() as folder:
        gguf = converted(python, "llama.cpp", path, dtype, Path(folder))
        context = -(-max(map(len, texts)) // 256) * 256
        worker = Worker(worker_command(python, "serve", "llama.cpp", gguf, dtype, 2, context))
        out = []
        for ids in texts:
            worker.ask("prefill", ids[:1])
            rows = [worker.logits()]
            for token in ids[1:-1]:
                worker.ask("decode", [token])
                rows.append(worker.logits())
            out.append(log_softmax(np.stack(rows)))
        worker.close()
        return out


def _texts(args: argparse.Namespace) -> list[list[int]]:
    """Ids to predict: windows of the file, or held-out stories with `</s>` behind."""
    with load(args.model) as model:
        if args.file is None:
            return [[*model.tokenizer.encode(s), *model.config.eos_ids[:1]] for s in held_out(args.stories)]
        ids = model.tokenizer.encode(args.file.read_text(encoding="utf-8"))[: args.tokens + 1]
    cut = [ids[at : at + args.window + 1] for at in range(0, len(ids) - 1, args.window)]
    if not cut:
        msg = f"{args.file.name}: {len(ids)} tokens; expected at least 2"
        raise InputError(msg)
    return cut


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.quality", description="what rounding costs")
    parser.add_argument("--model", type=Path, default=demo_path(), help="a checkpoint (default: the demo model)")
    parser.add_argument("--file", type=Path, help="text to predict (default: held-out stories of the demo model)")
    parser.add_argument("--stories", type=int, default=40, help="how many of them (default: 40)")
    parser.add_argument("--window", type=int, default=256, help="tokens of the file at a time (default: 256)")
    parser.add_argument("--tokens", type=int, default=4096, help="most tokens of the file (default: 4096)")
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python and gguf: compare with its rounding")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and print, a line for each way to round."""
    args = _parser().parse_args(argv)
    texts = _texts(args)
    exact = _ours(args.model, None, texts)
    record: dict[str, Any] = {
        "command": public_command("python -m miaotui.tools.quality", argv if argv is not None else sys.argv),
        "machine": machine(),
        "versions": versions(),
        "model": args.model.name,
        "results": [],
    }
    ways: list[tuple[str, str | None, list[NDArray[np.float64]]]] = [("miaotui", None, exact)]
    ways += [("miaotui", how, _ours(args.model, how, texts)) for how in ("int8", "int4,embed=int8", "int4")]
    if args.peer_python:
        for dtype, kind in ((k, v) for k, v in DTYPES.items() if k != "bf16"):  # f32: as stored, like bf16
            ways.append(("llama.cpp", kind, _peer(args.peer_python, args.model, dtype, texts)))
    for engine, how, found in ways:
        result = {"engine": engine, "weights": how or "as stored", **compare(exact, found, texts)}
        if how in BITS:
            result["bits_per_weight"] = BITS[how]
        record["results"].append(result)
        print_out(f"{engine:10s} {result['weights']:16s} perplexity {result['ppl']:.4f}   KL {result['kl']:.3e}")
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
