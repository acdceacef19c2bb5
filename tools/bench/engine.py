"""Many sequences at once: ours against one sequence, and against llama.cpp's batches and server, in turns.

    python -m miaotui.tools.bench.engine --peer-python LLAMA/bin/python --server llama-server \
        --text wiki.test.raw --out docs/benchmarks/engine-smollm2-135m.json

The parts (`--only`), each on random weights at SmolLM2-135M's shape, with caches of 16 bits on every side:

    together  8 sequences decoding in one pass, int8 and BF16: against llama.cpp's, and against our own single one
    curve     the same for 1 to 64 sequences
    threads   8 threads that each call `generate`, against one thread alone
    draws     8 sequences with temperature 0.8 and top_p 0.95, against 8 greedy ones, for two sizes of vocabulary
    turn      the next turn of a conversation by `generate`, against its new tokens by `step` after a text that is there
    load      requests that arrive by chance: tokens a second and the times that callers see, next to llama-server's

Every side is a process that sleeps while another works. A round has a turn of each, in an order that turns with it;
what counts is the median over the rounds of the ratio of neighbours. A part's figures are added to the file that is
there; a peer that is missing is left out, and the file says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .engine_parts import BARS, KV_CACHE, MEASURED, PARTS, Run, Sizes
from .peers.worker import serve
from .roofline import machine, versions
from .shared import add_part, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["main"]


def measured(args: argparse.Namespace, part: str, sizes: Sizes, directory: Path) -> Iterator[dict[str, Any]]:
    """The figures of a part, whenever there is a row more."""
    figures: dict[str, Any] = {"bars": BARS.get(part, {}), "results": [], "skipped": []}
    for dtype in args.dtype or PARTS[part]:
        with contextlib.ExitStack() as open_sides:
            run = Run(args, sizes, directory, open_sides, figures["skipped"])
            for row in MEASURED[part](run, dtype):
                figures["results"].append({"dtype": dtype, **row})
                yield figures
                if len(row) > 1:
                    print_out(f"{part}, {dtype}: {_said(row)}")


def _said(row: Mapping[str, Any]) -> str:
    """A row without what only the file needs."""
    words = []
    for name, value in row.items():
        if isinstance(value, dict) and "median" in value:
            words.append(f"{name} {value['median']:.2f}x ({value['quartiles'][0]:.2f} to {value['quartiles'][1]:.2f})")
        elif isinstance(value, dict) and name in {"tokens_per_s", "ratios"}:
            words.append(f"{name} {_said(value)}")
        elif isinstance(value, dict) and name == "rounds":
            words += [f"{side} {_said(rows[len(rows) // 2])}" for side, rows in value.items()]
        elif isinstance(value, dict):
            words.append(f"{name} {value['p50']:.1f} / {value['p99']:.1f}")
        elif not isinstance(value, list):
            words.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.engine", description="many sequences at once, against one and against peers"
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="parts (default: all)")
    parser.add_argument("--dtype", choices=["int8", "bf16"], nargs="+", help="default: each part's own")
    parser.add_argument("--counts", type=int, nargs="+", help="sequences of the curve (default: 1 to 64)")
    parser.add_argument("--rates", type=float, nargs="+", help="requests a second of the load (default: 1 2)")
    parser.add_argument("--seconds", type=float, help="of arrivals, for each rate and round (default: 60)")
    parser.add_argument("--text", type=Path, help="a text whose paragraphs give the load its lengths")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with llama-cpp-python and gguf")
    parser.add_argument("--server", metavar="PROGRAM", help="llama.cpp's llama-server")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--load-rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny model: to see that all works, not for figures")
    parser.add_argument("--work", type=Path, help="keep the checkpoints here (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, with other parts' that are there")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, default=256, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=256, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    return parser


def _sizes(args: argparse.Namespace) -> Sizes:
    """What is asked for. InputError: less than there can be."""
    given = {"curve": args.counts, "rates": args.rates, "seconds": args.seconds}
    sizes = replace(Sizes.quick() if args.quick else Sizes(), **{k: v for k, v in given.items() if v is not None})
    if min(args.rounds, args.load_rounds, args.threads, *sizes.curve) < 1:
        msg = "--rounds, --load-rounds, --threads, --counts: expected at least 1 each"
        raise InputError(msg)
    if not min(*sizes.rates, sizes.seconds) > 0:
        msg = "--rates, --seconds: expected more than 0 each"
        raise InputError(msg)
    return sizes


def main(argv: list[str] | None = None) -> int:
    """Measure the parts, or, with --serve, be our side."""
    args = _parser().parse_args(argv)
    if args.serve:
        from .engine_side import Ours  # noqa: PLC0415 - help must not wait for the runtime

        serve(Ours(args.serve, args.threads, args.context, args.tokens, **args.options))
        return 0
    sizes = _sizes(args)
    command = public_command("python -m miaotui.tools.bench.engine", argv if argv is not None else sys.argv)
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.work or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        for part in args.only:
            about = {"command": command, "machine": machine(), "versions": versions(), "threads": args.threads}
            about |= {"shape": sizes.shapes[0], "kv_cache": KV_CACHE, "rounds": args.rounds}
            for figures in measured(args, part, sizes, directory):
                if args.out:  # what was measured is kept if the rest is stopped
                    add_part(args.out, part, about | figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
