"""Ours against peers, on the same weights, in turns, in one command.

    python -m miaotui.tools.bench.compare --peer llama.cpp openvino --peer-python venv/bin/python \
        --shape smollm2-135m --dtype f32 bf16 --threads 1 2 --out docs/benchmarks/smollm2-135m.json

Each side is a process of its own that sleeps while the other works (`peers.worker`). A round is a prefill by each and
decoding by turns of a few tokens, with a reading of the machine's bandwidth in every turn; who goes first alternates.
What counts is the median of the ratios of neighbours: both sides of a ratio saw the same machine. Before anything is
timed the logits of both are compared, so that the same maths is measured. A peer that is not there, or lacks the
dtype, is left out and the record says why.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import BackendError, InputError
from .peers import EVERY, PEERS
from .peers.worker import serve
from .roofline import ReadSum, machine, versions
from .shapes import DTYPES, SHAPES, make_checkpoint
from .shared import GB, bytes_per_step, open_session, paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Plan", "Worker", "by_turns", "compare", "main", "our_command"]

QUANTIZED = ("int8", "int4", "int4a")  # every side rounds the BF16 checkpoint in its own way
TURN = 8  # tokens decoded before the other side's turn, unless told; the median of them counts
#: Seconds before a turn: our idle threads looked for work every 50 us for some 0.2 s. With 0.03 s a
#: prefill after the other side's took 5 to 16 % longer than one after its own, with 0.3 s -4 to 7 %.
PAUSE = 0.3
WORKER = Path(__file__).parent / "peers" / "worker.py"
#: OpenMP's threads of the peers spin after their work; they must be asleep before the other side's turn (PAUSE)
SPIN = {"KMP_BLOCKTIME": "10"}


class Ours:
    """Our side of the protocol of `peers.worker`."""

    def __init__(self, path: Path, threads: int, context: int, **options: str) -> None:
        """Load the model and compile what it needs; `options` as `load` takes them."""
        start = time.perf_counter()
        self._model, self._session = open_session(path, threads, context, **options)
        self._options = options
        self._load = time.perf_counter() - start
        self._at = 0

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        s = self._session
        weight_bytes, _ = bytes_per_step(self._model.config, s.weights, 0)
        return {
            "name": "miaotui",
            "version": versions()["miaotui"],
            "threads": s.threads,
            "context": s.n_context,
            "options": self._options,
            "load_s": self._load,
            "n_vocab": s.n_vocab,
            "weight_bytes_per_step": weight_bytes,
        }

    def prefill(self, ids: Sequence[int]) -> None:
        """Feed the ids from position 0."""
        self._session.step(ids, 0)
        self._at = len(ids)

    def step(self, token: int) -> None:
        """Feed one token at the next position."""
        self._session.step([token], self._at)
        self._at += 1

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token."""
        return np.array(self._session.logits[-1])


class Worker:
    """A process that obeys the protocol of `peers.worker`."""

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str] = SPIN, leave_out: Sequence[str] = ()
    ) -> None:
        """Start it and wait until it has loaded. BackendError: it ended, with the last of what it said.

        `environment` is set on top of ours, the variables of `leave_out` are taken away.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(  # noqa: S603 - commands of this module and of its user
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={k: v for k, v in os.environ.items() if k not in leave_out} | dict(environment),
        )
        self.about = self._read()

    def ask(self, command: str, ids: Sequence[int] = ()) -> dict[str, Any]:
        """Send one line, wait for its answer."""
        with contextlib.suppress(BrokenPipeError):  # it ended: _read says why
            self._stdin.write(" ".join([command, *map(str, ids)]) + "\n")
            self._stdin.flush()
        return self._read()

    def seconds(self, command: str, ids: Sequence[int]) -> list[float]:
        """Do one timed command after a pause that lets the other side's threads fall asleep."""
        time.sleep(PAUSE)
        return [float(s) for s in self.ask(command, ids)["seconds"]]

    def logits(self) -> NDArray[np.float32]:
        """Of the last token that was fed."""
        return np.frombuffer(base64.b64decode(self.ask("logits")["logits"]), np.float32)

    def close(self) -> None:
        """End the process; its input ends, so it leaves by itself."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._process.wait()
        self._stdout.close()
        self._errors.close()

    @property
    def _stdin(self) -> Any:  # noqa: ANN401 - Popen's type allows None, which PIPE excludes
        return self._process.stdin

    @property
    def _stdout(self) -> Any:  # noqa: ANN401 - as above
        return self._process.stdout

    def _read(self) -> dict[str, Any]:
        for line in self._stdout:
            if line.startswith("{"):  # libraries may print banners
                answer: dict[str, Any] = json.loads(line)
                return answer
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        self.close()
        msg = f"a worker ended with status {code} ({' '.join(last)}): expected an answer; run its command by hand"
        raise BackendError(msg)


@dataclass(frozen=True)
class Plan:
    """What both sides compute: a prompt, the tokens fed one by one after it, and how often."""

    prompt: list[int]
    new: list[int]
    rounds: int
    prefills: int = 2  # a round; the cache is read from the last one on
    turn: int = TURN


@dataclass(frozen=True)
class Turns:
    """Seconds of both sides, a number for each turn; turns of the same index are neighbours in time."""

    n_prompt: int
    prefill: dict[Worker, list[float]]
    decode: dict[Worker, list[float]]  # a turn's median token
    reads: list[float]  # bytes a second of the machine, in each decode turn

    def figures(self, side: Worker, nbytes: int) -> dict[str, float]:
        """Tokens a second, and of the read bandwidth the share that reading `nbytes` for each token comes to."""
        fractions = [nbytes / s / r for s, r in zip(self.decode[side], self.reads, strict=True)]
        return {
            "prefill_tps": self.n_prompt / statistics.median(self.prefill[side]),
            "decode_tps": 1 / statistics.median(self.decode[side]),
            "read_fraction": statistics.median(fractions),
        }


def by_turns(ours: Worker, peer: Worker, read: ReadSum, plan: Plan) -> Turns:
    """Time both by turns; who goes first alternates."""
    sides = [ours, peer]
    turns = Turns(len(plan.prompt), {ours: [], peer: []}, {ours: [], peer: []}, [])
    for _ in range(plan.rounds):
        for _ in range(plan.prefills):
            sides.reverse()
            for side in sides:
                turns.prefill[side] += side.seconds("prefill", plan.prompt)
        for at in range(0, len(plan.new), plan.turn):
            sides.reverse()
            for side in sides:
                turns.decode[side].append(statistics.median(side.seconds("decode", plan.new[at : at + plan.turn])))
            time.sleep(PAUSE)
            turns.reads.append(read.round())
    return turns


def compare(ours: Worker, peer: Worker, read: ReadSum, plan: Plan) -> dict[str, Any]:
    """Measure both by turns; the figures of one thread count."""
    agreement = _agreement(ours, peer, plan.prompt)
    turns = by_turns(ours, peer, read, plan)
    size = ours.about["weight_bytes_per_step"]
    result: dict[str, Any] = {"agreement": agreement, "read_gbs": statistics.median(turns.reads) / GB}
    for name, side in (("ours", ours), ("theirs", peer)):
        result[name] = turns.figures(side, size) | {"load_s": side.about["load_s"]}
    result["prefill_ratio"] = paired(turns.prefill[ours], turns.prefill[peer])
    result["decode_ratio"] = paired(turns.decode[ours], turns.decode[peer])
    return result


def _agreement(ours: Worker, peer: Worker, prompt: Sequence[int]) -> dict[str, Any]:
    """Compare the logits of the prompt's last token; this also warms both sides up."""
    logits = []
    for side in (ours, peer):
        side.ask("prefill", prompt)
        logits.append(side.logits())
        side.ask("decode", prompt[:2])
    a, b = logits
    if a.shape != b.shape:
        msg = f"the peer gives {b.size} logits, ours {a.size}: expected the same model"
        raise BackendError(msg)
    return {
        "max_abs_difference": float(np.abs(a - b).max()),
        "max_abs_logit": float(np.abs(a).max()),
        "same_argmax": bool(a.argmax() == b.argmax()),
    }


def our_command(model: Path, options: Mapping[str, str], threads: int, context: int) -> list[str]:
    """Command of our side's worker; `options` as `load` takes them."""
    words = ["--options", json.dumps(options), "--threads", str(threads), "--context", str(context)]
    return [sys.executable, "-m", "miaotui.tools.bench.compare", "--serve", str(model), *words]


def worker_command(python: str, mode: str, peer: str, *words: str | Path | int) -> list[str]:
    """Command of a peer's worker: "convert" MODEL OUT DTYPE, or "serve" FILE DTYPE THREADS CONTEXT."""
    # -P: the peer's interpreter must not see that folder, whose names are also those of packages
    return [python, "-P", str(WORKER), mode, peer, *map(str, words)]


def converted(python: str, peer: str, model: Path, dtype: str, folder: Path) -> Path:
    """Write what the peer loads into `folder`, once. BackendError: it cannot, with its reason."""
    module = importlib.import_module(f".peers.{EVERY[peer]}", __package__)
    if dtype not in module.DTYPES:
        msg = f"{peer} has no {dtype} here: expected {', '.join(module.DTYPES)}"
        raise BackendError(msg)
    out = folder / f"{model.name}-as-{dtype}.{peer}" if hasattr(module, "convert") else model
    command = worker_command(python, "convert", peer, model.resolve(), out.resolve(), dtype)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - its user named it
    except OSError as error:
        msg = f"{peer}: its interpreter cannot be run ({error.strerror}); expected a Python in --peer-python"
        raise BackendError(msg) from error
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        msg = f"{peer} could not prepare {dtype} ({last}): run its command by hand"
        raise BackendError(msg)
    return out


@dataclass(frozen=True)
class Sides:
    """The two commands of a comparison, less threads and context."""

    peer: str
    python: str
    model: Path
    dtype: str
    options: dict[str, str]  # of ours

    def start(self, file: Path, threads: int, context: int) -> tuple[Worker, Worker]:
        """Start both; BackendError: one of them ended."""
        ours = Worker(our_command(self.model, self.options, threads, context))
        try:
            peer = Worker(worker_command(self.python, "serve", self.peer, file, self.dtype, threads, context))
        except BackendError:
            ours.close()
            raise
        return ours, peer


def _run(args: argparse.Namespace, directory: Path, dtype: str, peer: str) -> list[dict[str, Any]]:
    """Every thread count on one dtype against one peer. BackendError: the peer cannot."""
    stored = "bf16" if dtype in QUANTIZED else dtype
    model = make_checkpoint(directory / f"{args.shape}-{stored}", args.shape, stored)
    wanted = {"precision": args.precision, "kv_cache": args.kv_cache, "quantize": dtype if dtype in QUANTIZED else None}
    options = {k: v for k, v in wanted.items() if v is not None}
    python = pythons(args.peer_python)
    sides = Sides(peer, python.get(peer, python[""]), model, dtype, options)
    file = converted(sides.python, peer, model, dtype, directory)
    context = -(-(args.prompt + args.new) // 256) * 256
    vocab = SHAPES[args.shape]["vocab_size"]
    ids = [int(i) for i in np.random.default_rng(1).integers(0, vocab, args.prompt + args.new)]
    plan = Plan(ids[: args.prompt], ids[args.prompt :], args.rounds, args.prefills, args.turn)
    results = []
    for threads in args.threads:
        ours, theirs = sides.start(file, threads, context)
        with ReadSum(threads) as read:
            result = {"peer": peer, "dtype": dtype, "threads": threads} | compare(ours, theirs, read, plan)
        result["about"] = {"ours": ours.about, "theirs": theirs.about}
        ours.close()
        theirs.close()
        print_out(_summary_line(result))
        results.append(result)
    return results


def pythons(words: Sequence[str]) -> dict[str, str]:
    """`PYTHON` and `NAME=PYTHON` -> {"": PYTHON, NAME: PYTHON}; InputError: no such peer."""
    interpreters = {"": sys.executable}
    for word in words:
        name, sign, path = word.partition("=")
        if sign and name not in PEERS:
            msg = f"--peer-python {name}=…: expected one of {', '.join(PEERS)}"
            raise InputError(msg)
        interpreters |= {name: path} if sign else {"": word}
    return interpreters


def _summary_line(r: dict[str, Any]) -> str:
    a, b, p, d, g = r["ours"], r["theirs"], r["prefill_ratio"], r["decode_ratio"], r["agreement"]
    return (
        f"{r['peer']}, {r['dtype']}, threads {r['threads']}: logits differ by {g['max_abs_difference']:.2g} "
        f"of {g['max_abs_logit']:.2g}, argmax {'equal' if g['same_argmax'] else 'differs'}\n"
        f"  prefill {a['prefill_tps']:.0f} against {b['prefill_tps']:.0f} tokens/s: {p['median']:.2f}x "
        f"({p['quartiles'][0]:.2f} to {p['quartiles'][1]:.2f}, {p['pairs']} pairs)\n"
        f"  decode {a['decode_tps']:.1f} against {b['decode_tps']:.1f} tokens/s: {d['median']:.2f}x "
        f"({d['quartiles'][0]:.2f} to {d['quartiles'][1]:.2f}, {d['pairs']} pairs)\n"
        f"  of the read bandwidth, {r['read_gbs']:.1f} GB/s: {a['read_fraction']:.2f} against {b['read_fraction']:.2f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.compare", description="ours against peers")
    parser.add_argument("--peer", choices=PEERS, nargs="+", default=["llama.cpp"])
    parser.add_argument(
        "--peer-python", nargs="+", default=[], metavar="[PEER=]PYTHON", help="interpreter with the peers' packages"
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=[*DTYPES, *QUANTIZED], nargs="+", default=["f32", "bf16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefills", type=int, default=2, help="in a round (default: 2; 1 where they take long)")
    parser.add_argument("--turn", type=int, default=TURN,
                        help=f"tokens that a side decodes in its turn (default: {TURN}; more for a model that fits the"
                        " caches, which the other side's turn empties)")  # fmt: skip
    parser.add_argument("--precision", help="of ours, as load() takes it")
    parser.add_argument("--kv-cache", help="dtype of our KV cache, as load() takes it")
    parser.add_argument("--work", type=Path, help="keep the checkpoints here (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, default=256, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the comparison, or, with --serve, be our side of it."""
    args = _parser().parse_args(argv)
    if args.serve:
        serve(Ours(args.serve, args.threads[0], args.context, **args.options))
        return 0
    if min(args.prompt, args.new, args.rounds, args.prefills, args.turn, *args.threads) < 1:
        msg = "--prompt, --new, --rounds, --prefills, --turn, --threads: expected at least 1 each"
        raise InputError(msg)
    record: dict[str, Any] = {
        "command": public_command("python -m miaotui.tools.bench.compare", argv if argv is not None else sys.argv),
        "machine": machine(),
        "versions": versions(),
        "shape": args.shape,
        "peers": args.peer,
        "prompt": args.prompt,
        "new": args.new,
        "rounds": args.rounds,
        "turn": args.turn,
        "results": [],
        "skipped": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.work or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        for dtype, peer in itertools.product(args.dtype, args.peer):
            try:
                record["results"] += _run(args, directory, dtype, peer)
            except BackendError as error:
                record["skipped"].append({"peer": peer, "dtype": dtype, "reason": str(error)})
                print_out(f"{peer}, {dtype}: skipped: {error}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
