"""`miaotui serve` next to llama.cpp's own server: both over HTTP on this machine, asked by the same clients in turns.

    python -m miaotui.tools.bench.served --server llama-server --peer-python LLAMA/bin/python \
        --out docs/benchmarks/served-smollm2-135m.json

Several clients at once, each with one question after the other: the prompts begin alike, as with a system prompt, and
end each in its own way. Both servers have the same weights (F16 as stored, or 8 bits as each rounds them), as many
threads, caches of 16 bits, and keep prompts; each is a process that sleeps while the other works. A round has a turn of
each, in an order that turns with it. What counts is the median over the rounds of the ratio of neighbours: tokens a
second of all clients together, and the times that a client sees. A first turn of each does not count, so that what the
prompts begin with is in both caches. Every dtype is a part of the file that is added to what is there; a server that is
missing is left out, and the file says why.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import BackendError, InputError
from . import compare
from .compare import converted
from .engine_load import percentiles, ratios
from .peers import llamaserver
from .roofline import machine, versions
from .shapes import SHAPES, make_checkpoint
from .shared import add_part, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Answer", "OurServer", "asked", "main", "prompts", "seen"]

KV_CACHE = "bf16"  # llama.cpp's has 16 bits too
DTYPES = ("f16", "int8")
#: What is asked of the ratio of tokens a second, at least.
BAR = 1.2
#: Seconds for all answers of a turn. llama.cpp's threads wait for each other by spinning: where something
#: else runs, a turn of theirs takes many times as long.
WITHIN = 180.0
#: What asks llama.cpp for the likeliest token and no more; ours is told so by the temperature.
GREEDY = {"samplers": ["top_k"], "top_k": 1, "cache_prompt": True}


@dataclass(frozen=True)
class Sizes:
    """How much is asked in a turn; `quick` ones show that all works."""

    shape: str = "smollm2-135m"
    system: int = 256  # ids that every prompt begins with
    question: int = 32  # and ids of its own
    new: int = 64
    each: int = 3  # questions of a client, one after the other
    context: int = 512

    @classmethod
    def quick(cls) -> Sizes:
        """Small ones."""
        return cls("tiny", 12, 4, 6, 2, 128)


@dataclass(frozen=True)
class Answer:
    """When it was asked for, when its pieces came, in seconds of one clock; its tokens, and the first piece."""

    at: float
    came: list[float]
    n_tokens: int
    begins: str


class OurServer:
    """`miaotui serve` of one model, for as long as it is open. Errors: `BackendError`, with its last words."""

    def __init__(self, model: Path, dtype: str, *, slots: int, context: int, threads: int) -> None:
        """Start it and wait until it answers. `context`: tokens of each of as many texts as there are `slots`."""
        self.options = ["--threads", str(threads), "--kv-cache", KV_CACHE, "--max-context", str(context)]
        self.options += ["--cache-tokens", str(slots * context), *(["--quantize", dtype] if dtype == "int8" else [])]
        words = [sys.executable, "-m", "miaotui", "serve", "--model", f"{model}=bench", "--port", "0", *self.options]
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed with the server
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self._said, text=True)  # noqa: S603 - ours
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if "http://" not in line:
            self._process.wait()
            self._said.seek(0)
            last = self._said.read().strip().splitlines()[-1:]
            self.close()
            msg = f"miaotui serve ended ({' '.join(last)})"
            raise BackendError(msg)
        self.port = int(line.strip().removesuffix("/v1").rpartition(":")[2])

    def about(self) -> dict[str, Any]:
        """Its version, and how it was started."""
        return {"name": "miaotui serve", "version": versions()["miaotui"], "options": self.options}

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()


def prompts(sizes: Sizes, clients: int, n_vocab: int, seed: int) -> list[list[list[int]]]:
    """Of each client its prompts: ids at random, after those that all begin with whatever the seed."""
    system = np.random.default_rng(1).integers(1, n_vocab, sizes.system).tolist()
    rng = np.random.default_rng([2, seed])
    return [[system + rng.integers(1, n_vocab, sizes.question).tolist() for _ in range(sizes.each)]
            for _ in range(clients)]  # fmt: skip


async def asked(port: int, prompt: Sequence[int], new: int, more: Mapping[str, Any]) -> Answer:
    """The answer of `new` ids by `/v1/completions`, as it comes. Errors: `BackendError`: refused, or fewer came."""
    body = {"model": "bench", "prompt": [*prompt], "max_tokens": new, "temperature": 0, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True}, **more}  # fmt: skip
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {llamaserver.HOST}\r\nContent-Type: application/json\r\n"
    at = time.perf_counter()
    reader, writer = await asyncio.open_connection(llamaserver.HOST, port)
    came, begins, n_tokens, last, said = list[float](), "", 0, at, b""
    try:
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        said = await reader.readline()
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                said = line if line.startswith(b"{") else said  # an error's body
                continue
            now, event = time.perf_counter(), json.loads(line[6:])
            n_tokens = (event.get("usage") or {}).get("completion_tokens", n_tokens)
            for choice in event.get("choices", ()):
                last = now
                if choice["text"]:
                    begins = begins or choice["text"]
                    came.append(now)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    if n_tokens != new:
        msg = f"port {port} answered {n_tokens} ids ({said.decode(errors='replace').strip()}), expected {new}"
        raise BackendError(msg)
    return Answer(at, came or [last], n_tokens, begins)  # bytes that are no text make no piece


async def _turn(
    port: int, of_each: Sequence[Sequence[Sequence[int]]], new: int, more: Mapping[str, Any]
) -> list[Answer]:
    """All clients at once, each one question after the other. Errors: `BackendError`; `TimeoutError`."""

    async def client(own: Sequence[Sequence[int]]) -> list[Answer]:
        return [await asked(port, prompt, new, more) for prompt in own]

    async with asyncio.timeout(WITHIN):
        made = await asyncio.gather(*map(client, of_each))
    return [answer for answers in made for answer in answers]


def seen(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens a second, from the first question to the last piece; p50 and p99 of what clients wait for, in ms."""
    seconds = max(a.came[-1] for a in answers) - min(a.at for a in answers)
    tokens = sum(a.n_tokens for a in answers)
    return {
        "answers": len(answers),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "first_ms": percentiles([a.came[0] - a.at for a in answers]),
        "between_ms": percentiles(np.concatenate([np.diff(a.came) for a in answers])),
    }


def measured(args: argparse.Namespace, sizes: Sizes, dtype: str, directory: Path) -> Iterator[dict[str, Any]]:
    """The figures of a dtype, after each number of clients."""
    figures: dict[str, Any] = {"bar": BAR, "results": [], "skipped": []}
    model = make_checkpoint(directory / f"{sizes.shape}-f16", sizes.shape, "f16")
    slots = max(args.clients)
    with contextlib.ExitStack() as opened:
        how = {"slots": slots, "context": sizes.context, "threads": args.threads}
        ours = OurServer(model, dtype, **how)
        opened.callback(ours.close)
        sides: dict[str, OurServer | llamaserver.Server] = {"ours": ours}
        try:
            sides["server"] = _theirs(args, model, dtype, directory, how)
            opened.callback(sides["server"].close)
        except (BackendError, RuntimeError) as error:
            figures["skipped"].append({"peer": "llama-server", "reason": str(error)})
            print_out(f"llama-server: skipped: {error}")
        figures["about"] = [side.about() for side in sides.values()]
        for clients in args.clients:
            figures["results"].append(_compared(args.rounds, sizes, clients, sides))
            yield figures
            print_out(f"{dtype}: {_said(figures['results'][-1])}")


def _theirs(args: argparse.Namespace, model: Path, dtype: str, directory: Path, how: dict[str, int]) -> Any:  # noqa: ANN401 - a Server
    """llama.cpp's server. Errors: `BackendError`, `RuntimeError`: it is not there."""
    if args.server is None:
        msg = "no --server PROGRAM was given"
        raise BackendError(msg)
    file = converted(args.peer_python, "llama-server", model, dtype, directory)
    return llamaserver.Server(args.server, file, **how)


def _compared(
    rounds: int, sizes: Sizes, clients: int, sides: Mapping[str, OurServer | llamaserver.Server]
) -> dict[str, Any]:
    n_vocab, names = SHAPES[sizes.shape]["vocab_size"], [*sides]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    alike, n = 0, 0
    for i in range(rounds + 1):
        of_each = prompts(sizes, clients, n_vocab, 1000 * clients + i)  # no question comes twice: it would be cached
        names.reverse()
        made: dict[str, list[Answer]] = {}
        for name in names:
            time.sleep(compare.PAUSE)  # until the other side's threads sleep
            more = {} if name == "ours" else GREEDY
            try:
                made[name] = asyncio.run(_turn(sides[name].port, of_each, sizes.new, more))
            except TimeoutError as error:
                msg = f"{name}: {clients} clients had no answers within {WITHIN:g} s; is the machine quiet?"
                raise BackendError(msg) from error
            if i:
                rows[name].append(seen(made[name]))
        if len(made) > 1:
            alike += sum(a.begins == b.begins for a, b in zip(made["ours"], made["server"], strict=True))
            n += len(made["ours"])
    row: dict[str, Any] = {"clients": clients, "system": sizes.system, "question": sizes.question, "new": sizes.new,
                           "questions_each": sizes.each, "rounds": rows}  # fmt: skip
    if len(sides) > 1:
        row |= {"ratios": ratios(rows["ours"], rows["server"]), "same_first": [alike, n]}
    return row


def _said(row: Mapping[str, Any]) -> str:
    words = [f"{row['clients']} clients"]
    for name, rows in row["rounds"].items():
        middle = sorted(rows, key=lambda r: r["tokens_per_s"])[len(rows) // 2]
        words.append(f"{name} {middle['tokens_per_s']:.0f} tokens/s, first {middle['first_ms']['p50']:.0f} ms")
    for name, ratio in row.get("ratios", {}).items():
        words.append(f"{name} {ratio['median']:.2f}x ({ratio['quartiles'][0]:.2f} to {ratio['quartiles'][1]:.2f})")
    return ", ".join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.served", description="our server next to llama.cpp's, over HTTP"
    )
    parser.add_argument("--server", metavar="PROGRAM", help="llama.cpp's llama-server")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with gguf")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--clients", type=int, nargs="+", default=[8], help="at once (default: 8)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a tiny model: to see that all works, not for figures")
    parser.add_argument("--work", type=Path, help="keep the checkpoints here (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, with other dtypes' that are there")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure each dtype."""
    args = _parser().parse_args(argv)
    if min(args.rounds, args.threads, *args.clients) < 1:
        msg = "--rounds, --threads, --clients: expected at least 1 each"
        raise InputError(msg)
    sizes = Sizes.quick() if args.quick else Sizes()
    command = public_command("python -m miaotui.tools.bench.served", argv if argv is not None else sys.argv)
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.work or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        for dtype in args.dtype:
            about = {"command": command, "machine": machine(), "versions": versions(), "threads": args.threads}
            about |= {"shape": sizes.shape, "kv_cache": KV_CACHE, "rounds": args.rounds}
            for figures in measured(args, sizes, dtype, directory):
                if args.out:  # what was measured is kept if the rest is stopped
                    add_part(args.out, dtype, about | figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
