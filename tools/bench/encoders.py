"""Encoders and encoder-decoders against peers, on the same random weights, in turns, in one command.

    python -m miaotui.tools.bench.encoders --shape minilm-l6 --dtype f32 --peer-python PEERS/bin/python --out FILE

Of an encoder three things are timed: a batch of 8 texts of 128 tokens; 64 texts with the lengths of real sentences, in
the order of the text, in batches of 32 on the peers' side and again sorted by length (which a caller may do where texts
need no answer at once); and one text of 16 tokens. Of an encoder-decoder: a greedy answer of 64 tokens to 64. Every
side is a process that sleeps while another works; all sides take a turn in each round, in an order that turns. What
counts is the median over the rounds of a peer's seconds by ours; before anything is timed the results are compared.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import BackendError, InputError
from ...runtime.encoding import Whole, encoded
from . import compare
from .compare import SPIN, Worker, converted, worker_command
from .encoder_shapes import ENCODERS, SEQ2SEQ, WIKITEXT_LENGTHS
from .peers import ENCODER_PEERS, SEQ2SEQ_PEERS
from .peers.worker import serve
from .roofline import ReadSum, machine, versions
from .shapes import make_checkpoint
from .shared import GB, open_session, paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["Point", "main", "points"]

N_TEXTS, PADDED_BATCH = 64, 32
REPEATS = {"batch": 3, "one": 15}  # in a turn
Batches = list[list[list[int]]]


class OurEncoder:
    """Our side of the protocol `peers.worker.Encoder`."""

    def __init__(self, path: Path, threads: int, **options: str) -> None:
        """Load the model and compile what it needs."""
        start = time.perf_counter()
        self._model, self._session = open_session(path, threads, 128, **options)
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        s = self._session
        return {
            "name": "miaotui",
            "version": versions()["miaotui"],
            "threads": s.threads,
            "pass": s.whole.chunk,
            "load_s": self._load,
        }

    def encode(self, texts: Sequence[Sequence[int]]) -> None:
        """Packed end to end into passes."""
        self._rows = list(encoded(self._session, map(Whole, texts), np.copy))

    def hidden(self) -> NDArray[np.float32]:
        """[tokens, d_model]."""
        return np.concatenate(self._rows)


class OurAnswerer:
    """Our side of the protocol `peers.worker.Answerer`."""

    def __init__(self, path: Path, threads: int, **options: str) -> None:
        """Load the model and compile what it needs."""
        start = time.perf_counter()
        self._model, self._session = open_session(path, threads, 256, **options)
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        own = {"threads": self._session.threads, "load_s": self._load}
        return {"name": "miaotui", "version": versions()["miaotui"], **own}

    def answer(self, ids: Sequence[int], n: int) -> list[int]:
        """Through `Model.generate`."""
        return self._model.generate(ids, max_new_tokens=n, ignore_eos=True).ids


@dataclass(frozen=True)
class Point:
    """One thing that is timed: what a side does in its turn, in seconds; what that is for."""

    name: str
    facts: dict[str, Any]
    ours: Callable[[Worker], float]
    theirs: Callable[[Worker], float]
    repeat: int = 3  # in a turn, whose median counts


def points(shape: str, *, quick: bool = False) -> list[Point]:
    """What is timed of a shape."""
    if shape in SEQ2SEQ:
        source, new = _drawn(shape, [8 if quick else 64])[0], 8 if quick else 64
        facts = {"source": len(source), "new": new}
        answer = partial(_seconds_answered, source=source, n=new)
        return [Point("answer", facts, answer, answer, 1)]
    n, size = (8, 3) if quick else (N_TEXTS, PADDED_BATCH)
    fixed = _drawn(shape, [16] * 2 if quick else [128] * 8)
    real = _drawn(shape, WIKITEXT_LENGTHS[:n])
    ordered = sorted(real, key=len)
    lengths = {"texts": n, "tokens": sum(map(len, real)), "longest": max(map(len, real))}
    rows: list[tuple[str, dict[str, Any], Batches, Batches]] = [
        ("batch", {"texts": len(fixed), "tokens": sum(map(len, fixed))}, [fixed], [fixed]),
        ("sentences", lengths | {"peer_batch": size}, [real], _batches(real, size)),
        ("sentences, the peer's sorted", lengths | {"peer_batch": size}, [real], _batches(ordered, size)),
        ("one", {"texts": 1, "tokens": 16}, [_drawn(shape, [16])], [_drawn(shape, [16])]),
    ]
    return [
        Point(name, facts, partial(_encoded, batches=own), partial(_encoded, batches=peer), REPEATS.get(name, 2))
        for name, facts, own, peer in rows
    ]


def _batches(texts: list[list[int]], size: int) -> Batches:
    return [texts[at : at + size] for at in range(0, len(texts), size)]


def _drawn(shape: str, lengths: Sequence[int]) -> list[list[int]]:
    """Random texts of these lengths; no special id among them."""
    rng = np.random.default_rng(1)
    vocab = (ENCODERS | SEQ2SEQ)[shape]["vocab_size"]
    return [[int(i) for i in rng.integers(3, vocab, n)] for n in lengths]


def _words(texts: Sequence[Sequence[int]]) -> list[int]:
    """As `peers.worker.texts_of` reads them."""
    words = [i for text in texts for i in (*text, -1)]
    return words[:-1]


def _encoded(side: Worker, batches: Batches) -> float:
    return sum(float(side.ask("encode", _words(texts))["seconds"][0]) for texts in batches)


def _answered(side: Worker, source: Sequence[int], n: int) -> tuple[float, list[int]]:
    said = side.ask("answer", [n, *source])
    return float(said["seconds"][0]), said["ids"]


def _seconds_answered(side: Worker, source: Sequence[int], n: int) -> float:
    return _answered(side, source, n)[0]


def agreement(shape: str, ours: Worker, peer: Worker) -> dict[str, Any]:
    """How far results lie apart; this also warms both sides up."""
    if shape in SEQ2SEQ:
        source = _drawn(shape, [24])[0]
        mine, its = (_answered(side, source, 16)[1] for side in (ours, peer))
        same = next((i for i, (x, y) in enumerate(zip(mine, its, strict=True)) if x != y), len(mine))
        return {"ids": len(mine), "equal_before_the_first_difference": same}
    texts, rows = _drawn(shape, [5, 17, 64]), []
    for side in (ours, peer):
        _encoded(side, [texts])
        rows.append(np.frombuffer(base64.b64decode(side.ask("hidden")["logits"]), np.float32))
    a, b = rows
    if a.shape != b.shape:
        msg = f"the peer gives {b.size} numbers, ours {a.size}: expected the same model"
        raise BackendError(msg)
    return {"max_abs_difference": float(np.abs(a - b).max()), "max_abs": float(np.abs(a).max())}


def by_turns(sides: Sequence[Worker], point: Point, rounds: int) -> list[list[float]]:
    """Seconds of each side, one number a round; the first side is ours, and the order turns from round to round."""
    seconds: list[list[float]] = [[] for _ in sides]
    for n in range(rounds):
        for i in range(len(sides)):
            at = (i + n) % len(sides)
            time.sleep(compare.PAUSE)
            do = point.theirs if at else point.ours
            seconds[at].append(statistics.median(do(sides[at]) for _ in range(point.repeat)))
    return seconds


def our_command(model: Path, kind: str, options: dict[str, str], threads: int) -> list[str]:
    """Command of our side's worker; `options` as `load` takes them."""
    words = ["--serve", kind, "--model", str(model), "--options", json.dumps(options), "--threads", str(threads)]
    return [sys.executable, "-m", "miaotui.tools.bench.encoders", *words]


def measure(args: argparse.Namespace, directory: Path, record: dict[str, Any]) -> None:
    """Convert for every peer, start all sides, and time what is asked for; what a peer lacks goes to "skipped"."""
    model = make_checkpoint(directory / f"{args.shape}-f32", args.shape, "f32")
    known, kind = (SEQ2SEQ_PEERS, "answers") if args.shape in SEQ2SEQ else (ENCODER_PEERS, "encodes")
    options = {} if args.dtype == "f32" else {"quantize": args.dtype}
    with contextlib.ExitStack() as open_sides:
        sides = [Worker(our_command(model, kind, options, args.threads))]
        open_sides.callback(sides[0].close)
        names = []
        for peer in args.peer or known:
            try:
                file = converted(args.peer_python, peer, model, args.dtype, directory)
                words = worker_command(args.peer_python, "serve", peer, file, args.dtype, args.threads, 512)
                sides.append(Worker(words, SPIN))
                open_sides.callback(sides[-1].close)
                names.append(peer)
            except BackendError as error:
                record["skipped"].append({"peer": peer, "reason": str(error)})
                print_out(f"{peer}: skipped: {error}")
        record["about"] = [side.about for side in sides]
        with ReadSum(args.threads) as read:
            record["read_gbs"] = statistics.median(read.round() for _ in range(5)) / GB
        record["agreement"] = {n: agreement(args.shape, sides[0], s) for n, s in zip(names, sides[1:], strict=True)}
        for point in points(args.shape, quick=args.quick):
            if args.only and point.name not in args.only:
                continue
            seconds = by_turns(sides, point, args.rounds)
            result = {"what": point.name, **point.facts, "ours_ms": _ms(seconds[0]), "peers": {
                name: {"ms": _ms(theirs), "ratio": paired(seconds[0], theirs)}
                for name, theirs in zip(names, seconds[1:], strict=True)}}  # fmt: skip
            record["results"].append(result)
            print_out(_summary_line(result))
            if args.out:  # what was measured is kept if the rest is stopped
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _ms(seconds: Sequence[float]) -> float:
    return 1e3 * statistics.median(seconds)


def _summary_line(result: dict[str, Any]) -> str:
    against = ", ".join(f"{name} {p['ms']:.2f} ({p['ratio']['median']:.2f}x)" for name, p in result["peers"].items())
    return f"{result['what']}: {result['ours_ms']:.2f} ms; {against}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.encoders", description="ours against peers")
    parser.add_argument("--shape", choices=[*ENCODERS, *SEQ2SEQ], default="minilm-l6")
    parser.add_argument("--dtype", choices=["f32", "int8"], default="f32")
    parser.add_argument("--peer", choices=[*ENCODER_PEERS, *SEQ2SEQ_PEERS], nargs="*", help="default: all of the kind")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peers' packages")
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="of what is timed, by name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small batches: to see that all works, not for figures")
    parser.add_argument("--work", type=Path, help="keep the checkpoints here (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--serve", choices=["encodes", "answers"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the comparison, or, with --serve, be our side of it."""
    args = _parser().parse_args(argv)
    if args.serve:
        side = OurEncoder if args.serve == "encodes" else OurAnswerer
        serve(side(args.model, args.threads, **args.options))
        return 0
    if min(args.rounds, args.threads) < 1:
        msg = "--rounds, --threads: expected at least 1 each"
        raise InputError(msg)
    record: dict[str, Any] = {
        "command": public_command("python -m miaotui.tools.bench.encoders", argv if argv is not None else sys.argv),
        "machine": machine(), "versions": versions(), "shape": args.shape, "dtype": args.dtype,
        "threads": args.threads, "rounds": args.rounds, "results": [], "skipped": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.work or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        measure(args, directory, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
