"""What a word of `precision` costs in time: a model with it against the same model without, alternately.

    python -m miaotui.tools.bench.precision [--shape SHAPE] [--dtype DTYPE] [--quantize HOW] [--word WORD] [--out FILE]

Random weights of a real shape. Both models are in one process, and each waits until the other's threads are asleep.
Ratios are paired: over 1, the word is slower by that much.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...runtime.precision import WORDS
from .roofline import machine, versions
from .shapes import DTYPES, SHAPES, make_checkpoint
from .shared import open_session, paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...runtime.session import Session

__all__ = ["compare", "main"]

#: Seconds until the threads of whoever ran last are asleep.
PAUSE = 0.05
#: Tokens that are decoded at a time, and those before them.
TURN, BEHIND = 8, 64


def _taken(session: Session, prompt: int) -> float:
    """Seconds for a prompt, or of 0 tokens for each token decoded after `BEHIND`."""
    if prompt:
        ids = [1 + i % 100 for i in range(prompt)]
        began = time.perf_counter()
        session.step(ids, 0)
        return time.perf_counter() - began
    session.step([1], BEHIND - 1)
    began = time.perf_counter()
    for at in range(BEHIND, BEHIND + TURN):
        session.step([1], at)
    return (time.perf_counter() - began) / TURN


def compare(word: Session, usual: Session, prompt: int, pairs: int) -> dict[str, Any]:
    """Milliseconds of both, and how many times as long the word takes; `prompt` 0: of a token."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for i in range(pairs + 1):
        for side in (0, 1) if i % 2 else (1, 0):
            time.sleep(PAUSE)
            took = _taken((word, usual)[side], prompt)
            if i:  # the first pair warms up
                seconds[side].append(took)
    return {
        "prompt": prompt,
        "word_ms": 1e3 * float(np.median(seconds[0])),
        "usual_ms": 1e3 * float(np.median(seconds[1])),
        "ratio": paired(seconds[1], seconds[0]),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.precision", description="what a word costs")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of the file (default: bf16)")
    parser.add_argument("--quantize", metavar="HOW", help="as load takes it")
    parser.add_argument("--word", choices=WORDS, default="exact", help="that is compared with none (default: exact)")
    parser.add_argument("--prompt", type=int, nargs="*", default=[128, 512], help="tokens of prompts")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print: decode, and each prompt."""
    args = _parser().parse_args(argv)
    if args.pairs < 1:
        msg = f"--pairs {args.pairs}: expected at least 1"
        raise InputError(msg)
    results: list[dict[str, Any]] = []
    context = max(BEHIND + TURN, *args.prompt, 0)
    with tempfile.TemporaryDirectory() as work:
        path = make_checkpoint(Path(work) / "weights", args.shape, args.dtype)
        for threads in args.threads:
            how = {"quantize": args.quantize, "prefill_chunk": context}
            with (
                open_session(path, threads, context, precision=args.word, **how)[0] as word,
                open_session(path, threads, context, **how)[0] as usual,
            ):
                for prompt in (0, *args.prompt):
                    row = {"threads": threads, **compare(word.session, usual.session, prompt, args.pairs)}
                    results.append(row)
                    what, (low, high) = f"prompt of {prompt}" if prompt else "decode", row["ratio"]["quartiles"]
                    print_out(
                        f"{threads} threads, {what}: {row['usual_ms']:.3f} ms, {args.word} {row['word_ms']:.3f} ms, "
                        f"{row['ratio']['median']:.3f} times ({low:.3f} to {high:.3f})"
                    )
    record = {
        "command": public_command("python -m miaotui.tools.bench.precision", sys.argv if argv is None else argv),
        "machine": machine(),
        "versions": versions(),
        **{name: getattr(args, name) for name in ("shape", "dtype", "quantize", "word", "pairs")},
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
