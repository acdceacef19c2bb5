"""The parts of `tools.bench.engine`: what each times, by turns, and what its rows of figures hold."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import BackendError, InputError
from . import compare
from .compare import Worker, converted, worker_command
from .engine_load import COMMON, arrivals, driven, lengths, ratios, read_text, seen
from .peers.llamaserver import Server
from .shapes import SHAPES, make_checkpoint
from .shared import paired, print_out

if TYPE_CHECKING:
    import argparse
    import contextlib
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from .engine_load import Request

__all__ = ["BARS", "KV_CACHE", "MEASURED", "PARTS", "Run", "Sizes", "by_rounds"]

BATCH, SERVER = "llama.cpp.batch", "llama-server"
KV_CACHE = "bf16"  # llama.cpp's has 16 bits too
#: name -> the dtypes that it is measured with where none are named
PARTS: dict[str, tuple[str, ...]] = {
    "together": ("int8", "bf16"),
    "curve": ("int8", "bf16"),
    "threads": ("int8",),
    "draws": ("int8",),
    "turn": ("int8",),
    "load": ("int8",),
}
#: What is asked of a part's ratios, by name: at least, but for the turn's, which are to be at most this.
BARS = {
    "together": {"peer": 1.3, "single": 3.0},
    "threads": {"single": 2.5},
    "draws": {"greedy": 0.9},
    "turn": {"step": 1.15},
}
#: Temperature and top_p in hundredths. Random weights give all ids nearly the same logits, so that nearly all of them
#: are drawn from; an eighth of the temperature draws as from logits eight times as far apart, as a trained model's are.
DRAWS = {"flat": (80, 95), "peaked": (10, 95)}


@dataclass(frozen=True)
class Sizes:
    """How much is done in a turn; `quick` ones show that all works."""

    shapes: tuple[str, str] = ("smollm2-135m", "smollm2-135m-262k")  # the second for `draws`
    n: int = 8
    curve: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    prompt: int = 128
    new: int = 16  # ids of a turn
    call: tuple[int, int] = (32, 96)  # prompt and new ids of a call of `generate`
    before: int = 1600  # tokens of a conversation before its next turn
    turns: tuple[int, ...] = (16, 64, 256)
    rates: tuple[float, ...] = (1.0, 2.0)  # requests a second
    seconds: float = 60.0
    slots: int = 8

    @classmethod
    def quick(cls) -> Sizes:
        """Small ones."""
        return cls(("tiny", "tiny-wide"), 3, (1, 2), 12, 4, (6, 8), 100, (16,), (40.0,), 0.25, 2)


@dataclass
class Run:
    """What the parts share: the arguments, where checkpoints are kept, and what was left out."""

    args: argparse.Namespace
    sizes: Sizes
    directory: Path
    open_sides: contextlib.ExitStack
    skipped: list[dict[str, str]] = field(default_factory=list)

    def model(self, dtype: str, shape: str | None = None) -> Path:
        """The checkpoint of a dtype, which is rounded while it is read where that is int8."""
        shape, stored = shape or self.sizes.shapes[0], "bf16" if dtype == "int8" else dtype
        return make_checkpoint(self.directory / f"{shape}-{stored}", shape, stored)

    def ours(self, dtype: str, context: int, texts: int, shape: str | None = None) -> Worker:
        """Our side, with room for so many texts."""
        options = {"kv_cache": KV_CACHE, **({"quantize": "int8"} if dtype == "int8" else {})}
        words = ["--serve", str(self.model(dtype, shape)), "--options", json.dumps(options)]
        words += ["--threads", str(self.args.threads), "--context", str(context), "--tokens", str(context * texts)]
        return self._opened(Worker([sys.executable, "-m", "miaotui.tools.bench.engine", *words]))

    def peer(self, dtype: str, context: int) -> Worker | None:
        """llama.cpp's batches; None: it is not there."""
        try:
            file = converted(self.args.peer_python, BATCH, self.model(dtype), dtype, self.directory)
            words = worker_command(self.args.peer_python, "serve", BATCH, file, dtype, self.args.threads, context)
            return self._opened(Worker(words))
        except BackendError as error:
            self.skip(BATCH, error)
            return None

    def filled(self, peer: Worker, texts: Sequence[int]) -> Worker | None:
        """The peer with these texts; None: it ended."""
        try:
            peer.ask("fill", texts)
        except BackendError as error:
            self.skip(BATCH, error)
            return None
        return peer

    def server(self, dtype: str, context: int) -> Server | None:
        """llama.cpp's server; None: it is not there."""
        if self.args.server is None:
            self.skip(SERVER, "no --server PROGRAM was given")
            return None
        try:
            file = converted(self.args.peer_python, SERVER, self.model(dtype), dtype, self.directory)
            how = {"slots": self.sizes.slots, "context": context, "threads": self.args.threads}
            server = Server(self.args.server, file, **how)
        except (BackendError, RuntimeError) as error:
            self.skip(SERVER, error)
            return None
        self.open_sides.callback(server.close)
        return server

    def skip(self, peer: str, why: object) -> None:
        """Leave a peer out."""
        self.skipped.append({"peer": peer, "reason": str(why)})
        print_out(f"{peer}: skipped: {why}")

    def _opened(self, worker: Worker) -> Worker:
        self.open_sides.callback(worker.close)
        return worker


def by_rounds(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each turn, a number a round; the order turns, and a first time of each does not count."""
    names, seconds = list(turns), {name: list[float]() for name in turns}
    for name in names:
        turns[name]()
    for _ in range(rounds):
        names.reverse()
        for name in names:
            seconds[name].append(turns[name]())
    return seconds


def _asked(side: Worker, command: str, *words: int) -> float:
    return side.seconds(command, words)[0]


def _drawn(n_vocab: int, n: int, length: int) -> list[int]:
    """Random texts, as `peers.worker.texts_of` reads them."""
    rng = np.random.default_rng(1)
    words = [i for _ in range(n) for i in (*(int(i) for i in rng.integers(1, n_vocab, length)), -1)]
    return words[:-1]


def decoding(run: Run, part: str, dtype: str) -> Iterator[dict[str, Any]]:
    """`together` and `curve`: tokens a second of several sequences, of one, and of the peer's."""
    sizes, shape = run.sizes, SHAPES[run.sizes.shapes[0]]
    counts = sizes.curve if part == "curve" else (sizes.n,)
    context = -(-(sizes.prompt + sizes.new * (run.args.rounds + 2)) // 64) * 64
    ours, peer = run.ours(dtype, context, max(counts) + 1), run.peer(dtype, context)
    for n in counts:
        texts = _drawn(shape["vocab_size"], n + 1, sizes.prompt)
        ours.ask("fill", texts)
        turns = {
            "ours": partial(_asked, ours, "together", sizes.new, 0, n),
            "single": partial(_asked, ours, "together", sizes.new, n, 1),
        }
        row: dict[str, Any] = {"sequences": n, "prompt": sizes.prompt, "new": sizes.new}
        if peer is not None:
            peer = run.filled(peer, _drawn(shape["vocab_size"], n, sizes.prompt))
        if peer is not None:
            turns["peer"] = partial(_asked, peer, "together", sizes.new, 0, n)
            row |= {"peer_cache": peer.ask("layout")["layout"], "same_first_ids": _same_first(ours, peer, n)}
        seconds = by_rounds(turns, run.args.rounds)
        per_s = {name: sizes.new * (1 if name == "single" else n) / statistics.median(s) for name, s in seconds.items()}
        row |= {"tokens_per_s": per_s, "single": paired([s / n for s in seconds["ours"]], seconds["single"])}
        if peer is not None:
            row["peer"] = paired(seconds["ours"], seconds["peer"])
        yield row
    yield {"about": [side.about for side in (ours, peer) if side is not None]}


def _same_first(ours: Worker, peer: Worker, n: int) -> int:
    """Of how many sequences both draw the same next id; each goes on by one."""
    firsts = [[ids[0] for ids in side.ask("together", [1, 0, n])["ids"]] for side in (ours, peer)]
    return sum(a == b for a, b in zip(*firsts, strict=True))


def threads(run: Run, dtype: str) -> Iterator[dict[str, Any]]:
    """Threads that each call `generate`, against one alone."""
    sizes = run.sizes
    n_prompt, new = sizes.call
    side = run.ours(dtype, -(-(n_prompt + new) // 64) * 64, 2 * sizes.n)
    turns = {name: partial(_asked, side, "threads", n, n_prompt, new) for name, n in (("ours", sizes.n), ("single", 1))}
    seconds = by_rounds(turns, run.args.rounds)
    per_s = {name: (sizes.n if name == "ours" else 1) * new / statistics.median(s) for name, s in seconds.items()}
    row = {"threads": sizes.n, "prompt": n_prompt, "new": new, "tokens_per_s": per_s}
    yield row | {"single": paired([s / sizes.n for s in seconds["ours"]], seconds["single"]), "about": [side.about]}


def draws(run: Run, dtype: str) -> Iterator[dict[str, Any]]:
    """Sequences whose ids are drawn, against greedy ones."""
    sizes = run.sizes
    context = -(-(sizes.prompt + sizes.new * (run.args.rounds + 2)) // 64) * 64
    for shape in sizes.shapes:
        n, n_vocab = sizes.n, SHAPES[shape]["vocab_size"]
        side = run.ours(dtype, context, 2 * n, shape)
        for name, (temperature, top_p) in DRAWS.items():
            side.ask("fill", _drawn(n_vocab, 2 * n, sizes.prompt))
            turns = {
                "greedy": partial(_asked, side, "together", sizes.new, 0, n),
                "drawn": partial(_asked, side, "drawn", sizes.new, n, n, temperature, top_p),
            }
            seconds = by_rounds(turns, run.args.rounds)
            per_s = {name: sizes.new * n / statistics.median(s) for name, s in seconds.items()}
            how = {"n_vocab": n_vocab, "logits": name, "temperature": temperature / 100, "top_p": top_p / 100}
            yield {"sequences": n, **how, "tokens_per_s": per_s, "greedy": paired(seconds["drawn"], seconds["greedy"])}
        yield {"about": [side.about]}
        side.close()


def turn(run: Run, dtype: str) -> Iterator[dict[str, Any]]:
    """The next turn of a conversation, with its new tokens alone to compute."""
    sizes = run.sizes
    side = run.ours(dtype, -(-(sizes.before + max(sizes.turns) + 1) // 64) * 64, 4)
    for n in sizes.turns:
        side.ask("begin", [sizes.before])  # what earlier rounds left is given up in time
        reused: list[int] = []

        def next_turn(n: int = n, reused: list[int] = reused) -> float:
            time.sleep(compare.PAUSE)
            said = side.ask("turn", [n])
            reused.append(said["reused"])
            return float(said["seconds"][0])

        seconds = by_rounds({"turn": next_turn, "stepped": partial(_asked, side, "stepped", n)}, run.args.rounds)
        if min(reused) < sizes.before:
            msg = f"a turn found {min(reused)} of {sizes.before} tokens in the cache: nothing to compare"
            raise BackendError(msg)
        ms = {f"{name}_ms": 1e3 * statistics.median(s) for name, s in seconds.items()}
        yield {"before": sizes.before, "new": n, **ms, "step": paired(seconds["stepped"], seconds["turn"])}
    yield {"about": [side.about]}


def load(run: Run, dtype: str) -> Iterator[dict[str, Any]]:
    """Mixed load on our model, in its callers' own process, and on the peer's server, over HTTP."""
    sizes, n_vocab = run.sizes, SHAPES[run.sizes.shapes[0]]["vocab_size"]
    if run.args.text is None:
        msg = "--only load: the lengths are those of a text; name one with --text FILE"
        raise InputError(msg)
    pairs = lengths(read_text(run.args.text), *((16, 8) if run.args.quick else ()))
    context = 128 if run.args.quick else 1024
    side, server = run.ours(dtype, context, sizes.slots), run.server(dtype, context)
    for number, rate in enumerate(sizes.rates):
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ours", *(["server"] if server else []))}
        for i in range(run.args.load_rounds):
            seed = 100 * number + i  # no prompt comes twice to one side: it would be in the cache
            how: dict[str, Any] = {"rate": rate, "seconds": sizes.seconds, "n_vocab": n_vocab, "seed": seed}
            requests = arrivals(pairs, common=8 if run.args.quick else COMMON, **how)
            for name in rounds if i % 2 else reversed(rounds):
                time.sleep(compare.PAUSE)
                rounds[name].append(seen(requests, _came(requests, side if name == "ours" else server)))
        row: dict[str, Any] = {"rate": rate, "rounds": rounds}
        if server is not None:
            row["ratios"] = ratios(rounds["ours"], rounds["server"])
        yield row
    yield {"about": [side.about, *([] if server is None else [server.about()])]}


def _came(requests: Sequence[Request], side: Worker | Server | None) -> list[list[float]]:
    if isinstance(side, Server):
        return asyncio.run(driven(requests, side.stream))
    assert side is not None  # noqa: S101 - `load` asks those that are there
    words = [word for request in requests for word in (*request.words, -1)]
    times: list[list[float]] = side.ask("load", words[:-1])["times"]
    return times


MEASURED: dict[str, Callable[[Run, str], Iterator[dict[str, Any]]]] = {
    "together": lambda run, dtype: decoding(run, "together", dtype),
    "curve": lambda run, dtype: decoding(run, "curve", dtype),
    "threads": threads,
    "draws": draws,
    "turn": turn,
    "load": load,
}
