"""How much memory a model takes, as the system counts it, next to what the plan says.

    python -m miaotui.tools.bench.footprint --model DIR [--quantize HOW] [--prune PLAN] [--context N] [--new N]

Two fresh processes, one after the other, each with the same steps: load, read a prompt of as many tokens as a pass
takes, decode some more, and ask the system for its largest resident set (which counts the pages of mapped files that
were touched). The first loads the demo model: less that model's own weights and arena, it is the baseline (interpreter,
modules, kernels). What the second had beyond that is compared with the weights, mapped and resident, and the arena;
`ratio` is their quotient. A process that is not counted goes before, so that compiling is not part of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...errors import BackendError
from ..demo import path as demo_path
from .roofline import machine, versions
from .shared import open_session, peak_memory, print_out, public_command

__all__ = ["footprint", "main"]

KEYS = ("weights_mapped", "weights_resident", "kv_cache", "activations")


def serve(  # noqa: PLR0913, PLR0917 - one for each of the command's arguments
    path: Path, quantize: str | None, prune: Path | None, context: int, new: int, threads: int
) -> dict[str, int]:
    """Load and decode in this process; its peak, and the plan's bytes by part."""
    model, session = open_session(path, threads, context, quantize=quantize, prune=prune)
    prompt = min(model.session.chunk, context - new)
    session.step([0] * prompt, 0)
    for at in range(prompt, prompt + new):
        session.step([session.argmax], at)
    facts = {"peak": peak_memory(), **{key: model.memory[key] for key in KEYS}}
    model.close()
    return facts


def footprint(  # noqa: PLR0913 - keywords
    path: Path, quantize: str | None, *, context: int, new: int, threads: int = 2, prune: Path | None = None
) -> dict[str, Any]:
    """Measure in processes of their own, the model cut by the plan in `prune`. Errors: `BackendError`: one failed."""

    def child(model: Path, prune: Path | None = None) -> dict[str, int]:
        words = ["--model", str(model), "--context", str(context), "--new", str(new), "--threads", str(threads)]
        words += ["--quantize", quantize] if quantize else []
        words += ["--prune", str(prune)] if prune else []
        command = [sys.executable, "-m", "miaotui.tools.bench.footprint", "--serve", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            msg = f"{model.name}: the measuring process ended with {done.returncode}: {last}"
            raise BackendError(msg)
        facts: dict[str, int] = json.loads(done.stdout)
        return facts

    child(path, prune)
    demo, full = child(demo_path()), child(path, prune)
    base = demo["peak"] - sum(demo[key] for key in KEYS)
    weights, arena = full["weights_mapped"] + full["weights_resident"], full["kv_cache"] + full["activations"]
    return {
        "peak_bytes": full["peak"],
        "baseline_bytes": base,
        "beyond_baseline_bytes": full["peak"] - base,
        "weights_bytes": weights,
        "arena_bytes": arena,
        "ratio": (full["peak"] - base) / (weights + arena),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.footprint", description="memory of a model")
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint")
    parser.add_argument("--quantize", metavar="HOW", help="as everywhere: int8, int4, ...")
    parser.add_argument("--prune", type=Path, metavar="PLAN", help="a plan's file: what to keep of the model")
    parser.add_argument("--context", type=int, default=256, help="positions (default: 256; few, so that all are used)")
    parser.add_argument("--new", type=int, default=128, help="tokens to decode after the prompt (default: 128)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = _parser().parse_args(argv)
    if args.serve:
        print_out(json.dumps(serve(args.model, args.quantize, args.prune, args.context, args.new, args.threads)))
        return 0
    sizes = {"context": args.context, "new": args.new, "threads": args.threads}
    facts = footprint(args.model, args.quantize, prune=args.prune, **sizes)
    record = {
        "command": public_command("python -m miaotui.tools.bench.footprint", argv if argv is not None else sys.argv),
        "machine": machine(),
        "versions": versions(),
        "model": args.model.name,
        "quantize": args.quantize,
        **({"prune": args.prune.name} if args.prune else {}),
        **facts,
    }
    mib = {key.removesuffix("_bytes"): f"{n / 2**20:.1f}" for key, n in facts.items() if key.endswith("_bytes")}
    print_out(
        f"{args.model.name}, {args.quantize or 'as stored'}: peak {mib['peak']} MiB, {mib['beyond_baseline']} beyond "
        f"the baseline of {mib['baseline']}; weights {mib['weights']} + arena {mib['arena']}: {facts['ratio']:.3f}x"
    )
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
