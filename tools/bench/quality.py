"""What rounding costs: perplexity, and divergence from the exact model, ours next to the peer's on the same weights.

    python -m miaotui.tools.bench.quality [--model DIR --file TEXT] [--how HOW ...] [--rounded DIR ...]
        [--precision WORD ...] [--kv-cache DTYPE] [--peer-python PYTHON] [--out FILE]
        [--gguf FILE --llama-bin DIR --calibration TEXT [--chunks N] [--kinds KIND ...]]

Without a file: the demo model on stories that it has not seen. KL is the mean over all positions of
KL(p || q) = sum p log(p / q), p the exact model's distribution (ours, unrounded) and q the rounded one's, in nats;
top-1 is how often both put the same id first. Bits a weight are counted over all matrices as each side stores them, and
apart over the embedding with the head, and over all others; the peer leaves matrices whose rows are no whole blocks
of 32. With `--precision` each way to round is measured with each of these words (docs/precision.md), where its matrices
take it; `--how none` rounds no weight. `--rounded`: the same model as `miaotui quantize` has written it. `--kv-cache`
is that of the rounded ones.

With `--gguf`, a GGUF file of the same model, llama.cpp's own programs round too: the file's matrices are replaced by
the checkpoint's, llama-imatrix reads the calibration, and llama-quantize makes each kind. These are compared with what
llama.cpp itself answers in F32.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import InputError
from ...loader.checkpoint import open_checkpoint
from ...loader.header import DTYPES
from ...model import load
from ...runtime.kvcache import KV_BYTES
from ...runtime.precision import WORDS
from ...runtime.spec import weights_in
from ..demo import path as demo_path
from ..demo.corpus import held_out
from .compare import Worker, converted, worker_command
from .llama_kinds import KINDS, dressed, matrices, requantized
from .peers.gguf import OUTER, gguf_name
from .peers.llamacpp import DTYPES as FORMS
from .roofline import machine, versions
from .shared import print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from ...runtime.precision import Precision

    #: By what is counted.
    Bits = dict[str, float]
    #: Engine, how it rounds, bits a weight, logits [T, n_vocab] of each text in turn.
    Way = tuple[str, str | None, Bits, Iterable[NDArray[np.float32]]]

__all__ = ["compare", "main"]

WAYS = ("int8", "int4a,embed=int8", "int4a", "int4,embed=int8", "int4")
BITS = {"q8_0": 8.5, "q4_0": 4.5, "q4_1": 5.0}


def compare(
    exact: Iterable[NDArray[np.floating]], rounded: Iterable[NDArray[np.floating]], texts: list[list[int]]
) -> dict[str, float]:
    """Logits [T, n_vocab] of every text, exact and rounded -> perplexity, mean KL and the share of equal first ids."""
    loss, kl, top, n = 0.0, 0.0, 0, 0
    for of_exact, of_rounded, ids in zip(exact, rounded, texts, strict=True):
        for one, other, after in zip(of_exact, of_rounded, ids[1:], strict=True):
            p, q = log_softmax(one), log_softmax(other)
            loss -= float(q[after])
            kl += float((np.exp(p) * (p - q)).sum())
            top += int(p.argmax() == q.argmax())
            n += 1
    return {"ppl": float(np.exp(loss / n)), "kl": kl / n, "top1": top / n, "n_tokens": n}


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
) -> tuple[Bits, Iterator[NDArray[np.float32]]]:
    with ExitStack() as closing:
        model = closing.enter_context(load(path, quantize=how, precision=precision, kv_cache=kv_cache))
        weights = model.session.weights
        outer = {id(w) for part in (weights.stack.embed, weights.head) for w in weights_in(part)}
        sizes = [(id(w) in outer, math.prod(w.shape), w.nbytes) for w in weights if len(w.shape) > 1]
        return bits_of(sizes), _each(closing.pop_all(), lambda: (model.logits(ids[:-1]) for ids in texts))


def bits_of(matrices: Iterable[tuple[bool, int, int]]) -> Bits:
    """Of matrices (is it the embedding or the head, numbers, bytes): bits a weight of all, of those, of the others."""
    every = list(matrices)

    def mean(some: list[tuple[bool, int, int]]) -> float:
        return 8 * sum(n for *_, n in some) / max(sum(n for _, n, _ in some), 1)

    return {
        "bits_per_weight": round(mean(every), 2),
        "bits_embedding": round(mean([m for m in every if m[0]]), 2),
        "bits_layers": round(mean([m for m in every if not m[0]]), 2),
    }


def _each(closing: ExitStack, logits: Callable[[], Iterable[NDArray[np.float32]]]) -> Iterator[NDArray[np.float32]]:
    """A text's at a time; what computes them is closed after the last."""
    with closing:
        yield from logits()


def _peer_bits(path: Path, kind: str | None) -> Bits:
    """Of the matrices as `peer_gguf` writes them."""
    with open_checkpoint(path) as checkpoint:
        matrices = {name: t for name, t in checkpoint.tensors.items() if len(t.shape) > 1}
    whole = {n: BITS[kind] if kind and t.shape[1] % 32 == 0 else 8 * DTYPES[t.dtype] for n, t in matrices.items()}
    sizes = {name: math.prod(t.shape) for name, t in matrices.items()}
    return bits_of((gguf_name(name) in OUTER, n, int(whole[name] * n / 8)) for name, n in sizes.items())


def _peer(python: str, file: Path, texts: list[list[int]]) -> Iterator[NDArray[np.float32]]:
    """Feed the texts to llama.cpp token by token."""
    context = -(-max(map(len, texts)) // 256) * 256
    worker = Worker(worker_command(python, "serve", "llama.cpp", file, "f32", 2, context))
    with closing(worker):
        for ids in texts:
            worker.ask("prefill", ids[:1])
            rows = [worker.logits()]
            for token in ids[1:-1]:
                worker.ask("decode", [token])
                rows.append(worker.logits())
            yield np.stack(rows)


def _converted(python: str, path: Path, texts: list[list[int]]) -> Iterator[Way]:
    """llama.cpp's simplest forms, written by its Python package."""
    for dtype, kind in FORMS.items():
        if dtype != "bf16":  # f32: as stored, like bf16
            with tempfile.TemporaryDirectory() as folder:
                file = converted(python, "llama.cpp", path, dtype, Path(folder))
                yield "llama.cpp", kind, _peer_bits(path, kind), _peer(python, file, texts)


def _texts(args: argparse.Namespace) -> list[list[int]]:
    """Ids to predict: windows of the file, each begun as a text is, or held-out stories with `</s>` after each."""
    with load(args.model) as model:
        if args.file is None:
            return [[*model.tokenizer.encode(s), *model.config.eos_ids[:1]] for s in held_out(args.stories)]
        if not 1 <= args.window <= model.n_context:
            msg = f"--window {args.window}: expected 1 to {model.n_context}, the model's positions"
            raise InputError(msg)
        ids = model.tokenizer.encode(args.file.read_text(encoding="utf-8"))[: args.tokens + 1]
        begin = model.tokenizer.encode("")[:1]
    cut = [ids[at : at + args.window + 1] for at in range(0, len(ids) - 1, args.window)]
    cut = [window if window[: len(begin)] == begin else begin + window[1:] for window in cut]
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
    parser.add_argument("--gguf", type=Path, help="a GGUF file of the same model: compare with llama.cpp's programs")
    parser.add_argument("--llama-bin", type=Path, default=Path(), help="where llama-imatrix and llama-quantize are")
    parser.add_argument("--calibration", type=Path, help="text for llama-imatrix (with --gguf)")
    parser.add_argument("--chunks", type=int, default=32, help="how much of it, in 512 tokens (default: 32)")
    parser.add_argument("--kinds", nargs="+", default=KINDS, help=f"what to make (default: {' '.join(KINDS)})")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def _kinds(args: argparse.Namespace, file: Path, texts: list[list[int]]) -> Iterator[Way]:
    """What llama-quantize makes of a file."""
    for kind, made in requantized(args.llama_bin, file, args.calibration, args.chunks, tuple(args.kinds)):
        sizes = matrices(args.peer_python, made).items()
        bits = bits_of((name in OUTER.values() or name == "output.weight", *of) for name, of in sizes)
        yield "llama.cpp", kind, bits, _peer(args.peer_python, made, texts)


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


def _measured(args: argparse.Namespace, texts: list[list[int]]) -> Iterator[tuple[list[NDArray[np.float32]], Way]]:
    """Exact logits of every text, and one of the ways to be compared with these."""
    bits, logits = _ours(args.model, None, texts)
    exact = list(logits)
    yield exact, ("miaotui", None, bits, exact)
    peers = _converted(args.peer_python, args.model, texts) if args.peer_python and not args.gguf else ()
    for way in itertools.chain(_ways(args, texts), peers):
        yield exact, way
    if args.gguf:
        with tempfile.TemporaryDirectory() as folder:
            file = dressed(args.peer_python, args.gguf, args.model, Path(folder))
            exact[:] = _peer(args.peer_python, file, texts)  # in the place of ours: they may be gigabytes
            yield exact, ("llama.cpp", None, {"bits_per_weight": 32.0}, exact)
            for way in _kinds(args, file, texts):
                yield exact, way


def main(argv: list[str] | None = None) -> int:
    """Measure and print, a line for each way to round."""
    args = _parser().parse_args(argv)
    if args.gguf and not (args.peer_python and args.calibration):
        msg = "--gguf: it needs --peer-python, an interpreter with llama-cpp-python and gguf, and --calibration, a text"
        raise InputError(msg)
    texts = _texts(args)
    record: dict[str, Any] = {
        "command": public_command("python -m miaotui.tools.bench.quality", argv if argv is not None else sys.argv),
        "machine": machine(),
        "versions": versions(),
        "model": args.model.name,
        "results": [],
    }
    for exact, (engine, how, bits, logits) in _measured(args, texts):  # one at a time is held
        result = {"engine": engine, "weights": how or "as stored", **bits, **compare(exact, logits, texts)}
        record["results"].append(result)
        apart = f" ({bits['bits_embedding']:.2f}, {bits['bits_layers']:.2f})" if "bits_layers" in bits else ""
        print_out(
            f"{engine:10s} {result['weights']:23s} {bits['bits_per_weight']:5.2f}{apart:15s} bits a weight   "
            f"perplexity {result['ppl']:.4f}   KL {result['kl']:.3e}   top-1 {result['top1']:.4f}"
        )
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
