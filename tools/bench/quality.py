"""What rounding costs: perplexity, and divergence from the exact model, ours next to the peer's on the same weights.

    python -m miaotui.tools.bench.quality [--model DIR --file TEXT] [--how HOW ...] [--rounded DIR ...]
        [--precision WORD ...] [--kv-cache DTYPE] [--peer-python PYTHON] [--out FILE]

Without a file: the demo model on stories that it has not seen. KL is the mean over all positions of
KL(p || q) = sum p log(p / q), p the exact model's distribution (ours, unrounded) and q the rounded one's, in nats.
Bits a weight are counted over all matrices, as each side stores them; the peer leaves those whose rows are no whole
blocks of 32. With `--precision` each way to round is measured with each of these words (docs/precision.md), where its
matrices take it; `--how none` rounds no weight. `--rounded`: the same model as `miaotui quantize` has written it.
`--kv-cache` is that of the rounded ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import InputError
from ...loader.checkpoint import open_checkpoint
from ...loader.header import DTYPES
from ...model import load
from ...runtime.kvcache import KV_BYTES
from ...runtime.precision import WORDS
from ..demo import path as demo_path
from ..demo.corpus import held_out
from .compare import Worker, converted, worker_command
from .peers.llamacpp import DTYPES as KINDS
from .roofline import machine, versions
from .shared import print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ...runtime.precision import Precision

    #: Engine, how it rounds, bits a weight, log-probabilities of each text.
    Way = tuple[str, str | None, float, list[NDArray[np.float64]]]

__all__ = ["compare", "main"]

WAYS = ("int8", "int4a,embed=int8", "int4a", "int4,embed=int8", "int4")
BITS = {"q8_0": 8.5, "q4_0": 4.5, "q4_1": 5.0}


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


def _ours(
    path: Path,
    how: str | None,
    texts: list[list[int]],
    precision: Precision | None = None,
    kv_cache: Literal["f32", "bf16", "int8"] = "f32",
) -> tuple[float, list[NDArray[np.float64]]]:
    with load(path, quantize=how, precision=precision, kv_cache=kv_cache) as model:
        matrices = [w for w in model.session.weights if len(w.shape) > 1]
        bits = 8 * sum(w.nbytes for w in matrices) / sum(math.prod(w.shape) for w in matrices)
        return bits, [log_softmax(model.logits(ids[:-1])) for ids in texts]


def _peer_bits(path: Path, kind: str | None) -> float:
    """Of the matrices as `peer_gguf` writes them."""
    with open_checkpoint(path) as checkpoint:
        matrices = [t for t in checkpoint.tensors.values() if len(t.shape) > 1]
    whole = [BITS[kind] if kind and t.shape[1] % 32 == 0 else 8 * DTYPES[t.dtype] for t in matrices]
    sizes = [math.prod(t.shape) for t in matrices]
    return sum(bits * n for bits, n in zip(whole, sizes, strict=True)) / sum(sizes)


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
    """Ids to predict: windows of the file, or held-out stories with `</s>` after each."""
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
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.quality", description="what rounding costs")
    parser.add_argument("--model", type=Path, default=demo_path(), help="a checkpoint (default: the demo model)")
    parser.add_argument("--file", type=Path, help="text to predict (default: held-out stories of the demo model)")
    parser.add_argument("--stories", type=int, default=40, help="how many of them (default: 40)")
    parser.add_argument("--window", type=int, default=256, help="tokens of the file at a time (default: 256)")
    parser.add_argument("--tokens", type=int, default=4096, help="most tokens of the file (default: 4096)")
    parser.add_argument("--how", nargs="*", default=WAYS, help=f"our ways to round (default: {' '.join(WAYS)})")
    parser.add_argument("--rounded", nargs="+", type=Path, default=[], help="the model, rounded before: checkpoints")
    parser.add_argument("--precision", nargs="+", choices=WORDS, help="words of it, each measured (default: none)")
    parser.add_argument("--kv-cache", choices=tuple(KV_BYTES), default="f32", help="of ours (default: f32)")
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python and gguf: compare with its rounding")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def _ways(args: argparse.Namespace, texts: list[list[int]]) -> Iterator[Way]:
    """Each of ours; a word that a matrix cannot take is left out, in words."""
    ways = [(args.model, None if how == "none" else how, "as stored" if how == "none" else how) for how in args.how]
    ways += [(path, None, path.name) for path in args.rounded]
    for (path, weights, name), word in itertools.product(ways, args.precision or (None,)):
        told = f"{name}{f' {word}' if word else ''}"
        try:
            yield "miaotui", told, *_ours(path, weights, texts, word, args.kv_cache)
        except InputError as e:
            print_out(f"left out: {told}: {e}")


def main(argv: list[str] | None = None) -> int:
    """Measure and print, a line for each way to round."""
    args = _parser().parse_args(argv)
    texts = _texts(args)
    stored, exact = _ours(args.model, None, texts)
    record: dict[str, Any] = {
        "command": public_command("python -m miaotui.tools.bench.quality", argv if argv is not None else sys.argv),
        "machine": machine(),
        "versions": versions(),
        "model": args.model.name,
        "results": [],
    }
    kinds = {kind: dtype for dtype, kind in KINDS.items() if dtype != "bf16"}  # f32: as stored, like bf16
    peers: Iterator[Way] = (
        ("llama.cpp", kind, _peer_bits(args.model, kind), _peer(args.peer_python, args.model, dtype, texts))
        for kind, dtype in (kinds if args.peer_python else {}).items()
    )
    ours: Way = ("miaotui", None, stored, exact)
    for engine, how, bits, quality in itertools.chain([ours], _ways(args, texts), peers):  # one at a time is held
        result = {"engine": engine, "weights": how or "as stored", "bits_per_weight": round(bits, 2)}
        result |= compare(exact, quality, texts)
        record["results"].append(result)
        print_out(
            f"{engine:10s} {result['weights']:23s} {bits:5.2f} bits a weight   perplexity {result['ppl']:.4f}   "
            f"KL {result['kl']:.3e}"
        )
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
